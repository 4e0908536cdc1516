use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response};
use http_body::Body;
use steadfast_core::idempotency::Outcome;
use steadfast_http::{
    BoxError,
    body::{CapturedBody, Collected, Collector, ReplyBody},
};
use tokio::time::timeout;
use tower_service::Service;

use crate::{record::Record, shared::Settings};

/// What the handler answered, and what that means for its record.
pub(crate) struct Produced<RB> {
    pub(crate) head: response::Parts,
    pub(crate) body: ReplyBody<RB>,
    pub(crate) end: Settlement,
}

/// How the record is settled.
pub(crate) enum Settlement {
    Abandon,
    Complete(Box<Record>),
    Release,
}

impl<RB> Produced<RB> {
    pub(crate) fn into_response(self) -> Response<ReplyBody<RB>> {
        Response::from_parts(self.head, self.body)
    }
}

/// Runs the handler, and reads its answer as far as it is to be kept.
pub(crate) async fn produce<S, B, RB>(
    inner: &mut S,
    request: Request<CapturedBody<B>>,
    settings: &Settings,
) -> Result<Produced<RB>, S::Error>
where
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let (mut head, body) = inner.call(request).await?.into_parts();
    let end = match outcome(settings, &mut head) {
        Outcome::Store if is_endless(&head) => {
            Settlement::Complete(Box::new(Record::tombstone(&head)))
        }
        Outcome::Store => return Ok(capture(head, body, settings).await),
        Outcome::Release => Settlement::Release,
        Outcome::Unknown | _ => Settlement::Abandon,
    };
    Ok(Produced {
        head,
        body: ReplyBody::untouched(body),
        end,
    })
}

async fn capture<RB>(head: response::Parts, body: RB, settings: &Settings) -> Produced<RB>
where
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let mut collector = Collector::new(body, settings.config.response_limit);
    match timeout(settings.config.capture_timeout, collector.collect()).await {
        Ok(Collected::Whole) => {
            let (body, _) = collector.into_captured();
            let record = Record::whole(&head, body.data().clone(), body.trailers().cloned());
            Produced {
                head,
                body: ReplyBody::captured(body),
                end: Settlement::Complete(Box::new(record)),
            }
        }
        Ok(Collected::Failed(error)) => Produced {
            head,
            body: ReplyBody::unfinished(collector.into_unfinished(Some(error))),
            end: Settlement::Abandon,
        },
        Ok(Collected::OverLimit | Collected::PoolEmpty) | Err(_) => {
            let record = Record::tombstone(&head);
            Produced {
                head,
                body: ReplyBody::unfinished(collector.into_unfinished(None)),
                end: Settlement::Complete(Box::new(record)),
            }
        }
    }
}

fn outcome(settings: &Settings, head: &mut response::Parts) -> Outcome {
    let own = head.extensions.remove::<Outcome>();
    let hook = || settings.outcome.as_ref().and_then(|outcome| outcome(head));
    own.or_else(hook).unwrap_or_else(|| {
        if is_pending(head) {
            Outcome::Unknown
        } else {
            Outcome::of_http_status(head.status.as_u16())
        }
    })
}

/// Another service that keeps keys says that the operation is still under way there: not an answer to keep.
fn is_pending(head: &response::Parts) -> bool {
    head.status == StatusCode::CONFLICT && head.headers.contains_key(header::RETRY_AFTER)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// A part of something, a stream of events, or another protocol: not an answer that could be given again.
fn is_endless(head: &response::Parts) -> bool {
    matches!(
        head.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::PARTIAL_CONTENT
    ) || head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..EVENT_STREAM.len()))
        .is_some_and(|value| value.eq_ignore_ascii_case(EVENT_STREAM))
}
