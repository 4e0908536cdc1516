use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response};
use http_body::Body;
use steadfast_core::idempotency::Outcome;
use steadfast_http::{
    BoxError,
    body::{CapturedBody, Collected, Collector, ReplyBody},
    grpc,
};
use tokio::time::timeout;
use tower_service::Service;

use crate::{join::Lead, record::Record, shared::Settings};

/// What the handler answered, and what that means for its record.
pub(crate) struct Produced<RB> {
    pub(crate) head: response::Parts,
    pub(crate) body: ReplyBody<RB>,
    pub(crate) end: Settlement,
}

/// How the record is settled.
pub(crate) enum Settlement {
    Abandon(Heard),
    Complete(Arc<Record>),
    Release(Heard),
}

impl Settlement {
    /// What there is for those who joined.
    pub(crate) fn heard(self) -> Heard {
        match self {
            Self::Abandon(heard) | Self::Release(heard) => heard,
            Self::Complete(record) => Heard::Whole(record),
        }
    }
}

/// How much of an answer that is not kept is there for those who joined.
pub(crate) enum Heard {
    /// Its body failed.
    Broken,
    /// Nothing: nobody waited for it, or it does not end.
    Nothing,
    Whole(Arc<Record>),
}

impl<RB> Produced<RB> {
    const fn untouched(head: response::Parts, body: RB, end: Settlement) -> Self {
        Self {
            head,
            body: ReplyBody::untouched(body),
            end,
        }
    }

    pub(crate) fn into_parts(self) -> (Response<ReplyBody<RB>>, Settlement) {
        (Response::from_parts(self.head, self.body), self.end)
    }
}

/// Runs the handler, and reads its answer as far as it is to be kept, or to be given to those who joined.
pub(crate) async fn produce<S, B, RB>(
    inner: &mut S,
    request: Request<CapturedBody<B>>,
    settings: &Settings,
    lead: &Lead,
) -> Result<Produced<RB>, S::Error>
where
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let (mut head, body) = inner.call(request).await?.into_parts();
    let own = head.extensions.get::<Outcome>().copied();
    let judged = match own {
        Some(own) => Some(Judged::by_service(own)),
        None => by_head(settings, &mut head, body.is_end_stream()),
    };
    let is_kept = judged.is_none_or(|judged| judged.outcome == Outcome::Store);

    if is_endless(&head) {
        let end = if is_kept {
            Settlement::Complete(Arc::new(Record::tombstone(&head)))
        } else {
            settled(judged, Heard::Nothing)
        };
        return Ok(Produced::untouched(head, body, end));
    }
    let is_heard = judged.is_some_and(|judged| judged.is_for_all) && lead.is_joined();
    if !is_kept && !is_heard {
        return Ok(Produced::untouched(
            head,
            body,
            settled(judged, Heard::Nothing),
        ));
    }

    let (body, read) = capture(body, settings).await;
    let end = match read {
        Read::Whole(data, trailers) => {
            let judged = judged.unwrap_or_else(|| {
                let code = trailers.as_ref().and_then(grpc::status);
                let code = code.or_else(|| grpc::status(&head.headers));
                by_grpc_code(settings, &mut head, code.unwrap_or(grpc::Code::Unknown))
            });
            match judged.outcome {
                Outcome::Store => {
                    Settlement::Complete(Arc::new(Record::whole(&head, data, trailers)))
                }
                Outcome::Release | Outcome::Unknown | _ => {
                    let heard = if judged.is_for_all {
                        Heard::Whole(Arc::new(Record::of_the_moment(&head, data, trailers)))
                    } else {
                        Heard::Nothing
                    };
                    settled(Some(judged), heard)
                }
            }
        }
        Read::Broken => match judged {
            // Nothing happened: who joined may ask again.
            Some(judged) if judged.outcome == Outcome::Release => {
                Settlement::Release(Heard::Nothing)
            }
            _ => Settlement::Abandon(Heard::Broken),
        },
        Read::Cut if is_kept => Settlement::Complete(Arc::new(Record::tombstone(&head))),
        Read::Cut => settled(judged, Heard::Nothing),
    };
    Ok(Produced { head, body, end })
}

/// What an answer means for its record, and whether it is an answer to those who joined, too.
#[derive(Clone, Copy)]
struct Judged {
    outcome: Outcome,
    is_for_all: bool,
}

impl Judged {
    /// The service said so.
    const fn by_service(outcome: Outcome) -> Self {
        Self {
            outcome,
            is_for_all: true,
        }
    }

    /// A status that comes before any execution speaks of the one request that it answers: of its credentials, say.
    const fn by_table(outcome: Outcome) -> Self {
        Self {
            outcome,
            is_for_all: !matches!(outcome, Outcome::Release),
        }
    }
}

/// How an answer that is not kept settles its record.
const fn settled(judged: Option<Judged>, heard: Heard) -> Settlement {
    match judged {
        Some(Judged {
            outcome: Outcome::Release,
            ..
        }) => Settlement::Release(heard),
        _ => Settlement::Abandon(heard),
    }
}

/// How far a body could be read.
enum Read {
    Broken,
    /// It is too large, or does not end.
    Cut,
    Whole(Bytes, Option<http::HeaderMap>),
}

async fn capture<RB>(body: RB, settings: &Settings) -> (ReplyBody<RB>, Read)
where
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let mut collector = Collector::new(body, settings.config.response_limit);
    match timeout(settings.config.capture_timeout, collector.collect()).await {
        Ok(Collected::Whole) => {
            let (body, _) = collector.into_captured();
            let read = Read::Whole(body.data().clone(), body.trailers().cloned());
            (ReplyBody::captured(body), read)
        }
        Ok(Collected::Failed(error)) => {
            let body = ReplyBody::unfinished(collector.into_unfinished(Some(error)));
            (body, Read::Broken)
        }
        Ok(Collected::OverLimit | Collected::PoolEmpty) | Err(_) => {
            let body = ReplyBody::unfinished(collector.into_unfinished(None));
            (body, Read::Cut)
        }
    }
}

/// What the head says; `None` if the trailers of a gRPC call will.
///
/// The protocol is that of the response: what a client calls its request changes nothing.
fn by_head(settings: &Settings, head: &mut response::Parts, is_all: bool) -> Option<Judged> {
    if grpc::is_grpc(&head.headers) {
        return match grpc::status(&head.headers) {
            // With a body behind it, it is not Trailers-Only: only what is not kept anyway needs no trailers.
            Some(code) if is_all || Outcome::of_grpc_code(code.as_u32()) == Outcome::Unknown => {
                Some(by_grpc_code(settings, head, code))
            }
            None if head.status != StatusCode::OK => {
                let code = grpc::Code::of_http_status(head.status);
                Some(by_grpc_code(settings, head, code))
            }
            Some(_) | None => None,
        };
    }
    if let Some(outcome) = settings.outcome.as_ref().and_then(|outcome| outcome(head)) {
        return Some(Judged::by_service(outcome));
    }
    Some(Judged::by_table(
        if is_pending(head) || grpc::is_grpc_web(&head.headers) {
            Outcome::Unknown
        } else {
            Outcome::of_http_status(head.status.as_u16())
        },
    ))
}

fn by_grpc_code(settings: &Settings, head: &mut response::Parts, code: grpc::Code) -> Judged {
    let asked = settings.outcome.as_ref().and_then(|hook| {
        let handlers_own = head.extensions.insert(code);
        let outcome = hook(head);
        head.extensions.remove::<grpc::Code>();
        if let Some(own) = handlers_own {
            head.extensions.insert(own);
        }
        outcome
    });
    asked.map_or_else(
        || Judged::by_table(Outcome::of_grpc_code(code.as_u32())),
        Judged::by_service,
    )
}

/// Another service that keeps keys says that the operation is still under way there: not an answer to keep.
fn is_pending(head: &response::Parts) -> bool {
    head.status == StatusCode::CONFLICT && head.headers.contains_key(header::RETRY_AFTER)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// A part of something, a stream of events, or another protocol: not an answer that could be given again.
fn is_endless(head: &response::Parts) -> bool {
    let is_event_stream = || {
        let content_type = head.headers.get(header::CONTENT_TYPE);
        content_type
            .and_then(|value| value.as_bytes().get(..EVENT_STREAM.len()))
            .is_some_and(|value| value.eq_ignore_ascii_case(EVENT_STREAM))
    };
    head.status.is_informational()
        || head.status == StatusCode::PARTIAL_CONTENT
        || is_event_stream()
}
