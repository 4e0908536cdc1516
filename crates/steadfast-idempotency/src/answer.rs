use http::{HeaderName, HeaderValue, Response};
use steadfast_http::{
    body::{Captured, ReplyBody},
    header::{IDEMPOTENT_REPLAYED, IDEMPOTENT_STORED},
};
use steadfast_store::StoredResponse;

use crate::{record::Record, refusal, shared::Shared, signal::Signal, wire::Wire};

const TRUE: HeaderValue = HeaderValue::from_static("true");
const FALSE: HeaderValue = HeaderValue::from_static("false");

/// Marks the answer of an execution itself.
pub(crate) fn executed<RB>(mut response: Response<ReplyBody<RB>>) -> Response<ReplyBody<RB>> {
    response.headers_mut().remove(IDEMPOTENT_STORED);
    mark(&mut response, IDEMPOTENT_REPLAYED, FALSE);
    response
}

fn mark<B>(response: &mut Response<B>, name: HeaderName, value: HeaderValue) {
    // A map that holds as many names as it can goes unmarked.
    let _ = response.headers_mut().try_insert(name, value);
}

/// Marks an answer that the store has not acknowledged.
pub(crate) fn unstored<RB>(response: Response<ReplyBody<RB>>) -> Response<ReplyBody<RB>> {
    let mut response = executed(response);
    mark(&mut response, IDEMPOTENT_STORED, FALSE);
    response
}

/// The answer that was given before.
pub(crate) fn replayed<St, RB>(
    shared: &Shared<St>,
    stored: &StoredResponse,
    wire: Wire,
) -> Response<ReplyBody<RB>> {
    match Record::decode(stored) {
        Ok(record) => given_again(shared, record, Signal::Replayed, wire),
        Err(error) => {
            tracing::error!(%error, "a record cannot be replayed");
            shared.refuse(refusal::record_unreadable(&shared.settings.config), wire)
        }
    }
}

/// The answer of the execution that the request joined.
pub(crate) fn joined<St, RB>(
    shared: &Shared<St>,
    record: Record,
    stored: bool,
    wire: Wire,
) -> Response<ReplyBody<RB>> {
    let is_whole = matches!(record, Record::Whole { .. });
    let mut response = given_again(shared, record, Signal::Joined, wire);
    if is_whole && !stored {
        shared.metrics().answer_is_unstored();
        mark(&mut response, IDEMPOTENT_STORED, FALSE);
    }
    response
}

fn given_again<St, RB>(
    shared: &Shared<St>,
    record: Record,
    signal: Signal,
    wire: Wire,
) -> Response<ReplyBody<RB>> {
    match record {
        Record::Whole {
            status,
            headers,
            trailers,
            body,
        } => {
            shared.signal(signal);
            let mut response = Response::new(ReplyBody::captured(Captured::new(body, trailers)));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            mark(&mut response, IDEMPOTENT_REPLAYED, TRUE);
            response
        }
        Record::Tombstone { status, location } => {
            let location = location.as_ref().and_then(|value| value.to_str().ok());
            shared.refuse(refusal::not_retained(status, location), wire)
        }
    }
}
