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
    signal::{self, Signal},
    wait,
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
    let Keyed {
        scope,
        key,
        parts,
        body,
    } = request;
    let deadline = parts.extensions.get::<Deadline>().copied();

    let body = match body::read(&shared, &parts.headers, body).await {
        Ok(body) => body,
        Err(problem) => return Ok(shared.refuse(problem)),
    };
    let ticket = Ticket {
        scope,
        key,
        fingerprint: shared.settings.recipe.fingerprint(&parts, body.data()),
    };

    let mut waits_until = Instant::now() + config.wait;
    if let Some(deadline) = deadline {
        waits_until = waits_until.min(deadline.moment());
    }

    let mut work = Work::new(inner, parts, body, ticket);
    loop {
        work.ready().await?;
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
        let (ticket, own) = match Detached::new(execution).await {
            End::Answered(answer) => return answer,
            End::Panicked(panic) => resume_unwind(panic),
            End::Busy(mut busy) => {
                busy.give_readiness_back();
                match wait::until_over(&shared, &key, &drawn.owner, waits_until).await {
                    None => return Ok(shared.refuse(refusal::in_progress(config))),
                    Some(Standing::Completed {
                        fingerprint,
                        response,
                    }) if fingerprint == busy.ticket.fingerprint => {
                        return Ok(answer::replayed(&shared, &response));
                    }
                    // Free, or in a state that the next claim judges.
                    Some(_) => {
                        work = busy;
                        continue;
                    }
                }
            }
            End::Superseded { ticket, own } => (ticket, own),
        };

        // The record is another owner's: that owner's answer is the operation's.
        let standing = match wait::if_over(&shared, &key).await {
            Some(standing) => Some(standing),
            None => wait::until_over(&shared, &key, &drawn.owner, waits_until).await,
        };
        return Ok(match (standing, own) {
            (
                Some(Standing::Completed {
                    fingerprint,
                    response,
                }),
                _,
            ) if fingerprint == ticket.fingerprint => answer::replayed(&shared, &response),
            (_, Some(own)) => {
                Signal::Unstored.record();
                answer::unstored(own)
            }
            (None, None) => shared.refuse(refusal::in_progress(config)),
            (Some(_), None) => {
                shared.refuse(refusal::outcome_lost(shared.settings.promise, config))
            }
        });
    }
}
