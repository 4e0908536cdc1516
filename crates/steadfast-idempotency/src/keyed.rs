use std::{panic::resume_unwind, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_http::{
    BoxError, Deadline,
    body::{CapturedBody, ReplyBody},
};
use steadfast_store::{Standing, Store};
use tokio::time::Instant;
use tower_service::Service;
use tracing::Instrument;

use crate::{
    answer, body,
    detach::Detached,
    execution::execute,
    intake::Keyed,
    refusal,
    shared::Shared,
    signal::{self, Signal, log},
    wait::{self, Waited},
    work::{Drawn, End, Ticket, Work},
};

/// Answers a request that names an operation.
///
/// # Cancel safety
///
/// Dropped before the claim is sent, nothing was claimed. Dropped later, the operation goes on without its caller. Dropped while
/// it waits for another's execution, only the wait ends.
pub(crate) fn respond<S, St, B, RB>(
    shared: Arc<Shared<St>>,
    inner: S,
    request: Keyed<B>,
) -> impl Future<Output = Result<Response<ReplyBody<RB>>, S::Error>> + Send
where
    St: Store,
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    let span = signal::span(&request.key);
    respond_in_span(shared, inner, request).instrument(span)
}

async fn respond_in_span<S, St, B, RB>(
    shared: Arc<Shared<St>>,
    inner: S,
    request: Keyed<B>,
) -> Result<Response<ReplyBody<RB>>, S::Error>
where
    St: Store,
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    let config = &shared.settings.config;
    let Keyed { key, parts, body } = request;
    let deadline = parts.extensions.get::<Deadline>().copied();

    let (body, reservation) = match body::read(&shared, &parts.headers, body).await {
        Ok(read) => read,
        Err(problem) => return Ok(shared.refuse(problem)),
    };
    let ticket = Ticket {
        key,
        fingerprint: shared.settings.recipe.fingerprint(&parts, body.data()),
    };

    let wait_from = |now: Instant| match deadline {
        Some(deadline) => (now + config.wait).min(deadline.moment()),
        None => now + config.wait,
    };
    let mut waits_until = None;

    let mut work = Work {
        ticket,
        inner,
        parts,
        body,
        reservation,
    };
    loop {
        let drawn = match Drawn::draw() {
            Ok(drawn) => drawn,
            Err(error) => {
                tracing::error!(%error, "the system gives no random bytes");
                return Ok(shared.refuse(refusal::overloaded(config)));
            }
        };
        let Some(slot) = shared.slot() else {
            return Ok(shared.refuse(refusal::overloaded(config)));
        };

        let execution = execute(Arc::clone(&shared), work, drawn, slot);
        let (ticket, promise, own) = match Detached::new(execution).await {
            End::Answered(answer) => return answer,
            End::Panicked(panic) => resume_unwind(panic),
            End::Busy(busy) => {
                let until = *waits_until.get_or_insert_with(|| wait_from(Instant::now()));
                match wait::until_over(&shared, &key, &drawn.owner, until).await {
                    Waited::StillRunning => return Ok(shared.refuse(refusal::in_progress(config))),
                    Waited::Unknown(error) => {
                        log(&error, "a running operation could not be looked up");
                        return Ok(shared.refuse(refusal::store_failed(&error, config)));
                    }
                    Waited::Over(Standing::Completed {
                        fingerprint,
                        response,
                    }) if fingerprint == busy.ticket.fingerprint => {
                        return Ok(answer::replayed(&shared, &response));
                    }
                    // Free, or in a state that the next claim judges.
                    Waited::Over(_) => {
                        work = busy;
                        continue;
                    }
                }
            }
            End::Superseded {
                ticket,
                promise,
                own,
            } => (ticket, promise, own),
        };

        // The record is another owner's: that owner's answer is the operation's.
        let waited = match wait::if_over(&shared, &key).await {
            Ok(Some(standing)) => Waited::Over(standing),
            Ok(None) | Err(_) => {
                let until = wait_from(Instant::now());
                wait::until_over(&shared, &key, &drawn.owner, until).await
            }
        };
        return Ok(match (waited, own) {
            (
                Waited::Over(Standing::Completed {
                    fingerprint,
                    response,
                }),
                _,
            ) if fingerprint == ticket.fingerprint => answer::replayed(&shared, &response),
            (_, Some(own)) => {
                Signal::Unstored.record();
                answer::unstored(own)
            }
            (Waited::StillRunning, None) => shared.refuse(refusal::in_progress(config)),
            (Waited::Over(_) | Waited::Unknown(_), None) => {
                shared.refuse(refusal::outcome_lost(promise, config))
            }
        });
    }
}
