use http::{HeaderValue, Response};
use steadfast_http::{
    body::{Captured, ReplyBody},
    header::{IDEMPOTENT_REPLAYED, IDEMPOTENT_STORED},
};
use steadfast_store::StoredResponse;

use crate::{record::Record, refusal, shared::Shared, signal::Signal};

const TRUE: HeaderValue = HeaderValue::from_static("true");
const FALSE: HeaderValue = HeaderValue::from_static("false");

/// Marks the answer of an execution itself.
pub(crate) fn executed<RB>(mut response: Response<ReplyBody<RB>>) -> Response<ReplyBody<RB>> {
    let headers = response.headers_mut();
    headers.insert(IDEMPOTENT_REPLAYED, FALSE);
    headers.remove(IDEMPOTENT_STORED);
    response
}

/// Marks an answer that the store has not acknowledged.
pub(crate) fn unstored<RB>(response: Response<ReplyBody<RB>>) -> Response<ReplyBody<RB>> {
    let mut response = executed(response);
    response.headers_mut().insert(IDEMPOTENT_STORED, FALSE);
    response
}

/// The answer that was given before.
pub(crate) fn replayed<St, RB>(
    shared: &Shared<St>,
    stored: &StoredResponse,
) -> Response<ReplyBody<RB>> {
    match Record::decode(stored) {
        Ok(Record::Whole {
            status,
            headers,
            trailers,
            body,
        }) => {
            Signal::Replayed.record();
            let mut response = Response::new(ReplyBody::captured(Captured::new(body, trailers)));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, TRUE);
            response
        }
        Ok(Record::Tombstone { status, location }) => {
            let location = location.as_ref().and_then(|value| value.to_str().ok());
            shared.refuse(refusal::not_retained(status, location))
        }
        Err(error) => {
            tracing::error!(%error, "a record cannot be replayed");
            shared.refuse(refusal::record_unreadable(&shared.settings.config))
        }
    }
}
