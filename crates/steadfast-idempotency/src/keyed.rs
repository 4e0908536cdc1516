use std::{panic::resume_unwind, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use steadfast_core::idempotency::Promise;
use steadfast_http::{
    BoxError, Deadline,
    body::{CapturedBody, ReplyBody},
    grpc,
    problem::Problem,
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
    join::{Ending, Joined, Lead, Part},
    poller::{LAST_LOOK, Waited},
    refusal,
    shared::{Shared, Slot},
    signal::{self, Signal, log},
    wait::{Patience, until_ended, until_over},
    work::{Drawn, End, Own, Ticket, Work},
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
    let Keyed {
        key,
        wire,
        parts,
        body,
    } = request;
    let deadline = deadline(&parts);
    let (body, reservation) = match body::read(&shared, &parts.headers, body).await {
        Ok(read) => read,
        Err(problem) => return Ok(shared.refuse(problem, wire)),
    };
    let mut ticket = Ticket {
        key,
        fingerprint: shared.settings.recipe.fingerprint(&parts, body.data()),
        wire,
    };
    let mut work = Work {
        ticket: ticket.clone(),
        inner,
        parts,
        body,
        reservation,
    };
    let mut patience = Patience::new(shared.settings.config.wait, deadline);
    let mut waited: Option<Lead> = None;
    loop {
        let claims_until = Instant::now() + shared.settings.config.lease;
        let lead = if let Some(lead) = waited.take() {
            lead.claims(claims_until);
            lead
        } else {
            match shared.joins.join(&key, &ticket.fingerprint, claims_until) {
                Part::Lead(lead) => lead,
                Part::Joined(joined) => {
                    let answer = joined_answer(&shared, &ticket, joined, &mut patience);
                    match Box::pin(answer).await {
                        Some(response) => return Ok(response),
                        None => continue,
                    }
                }
            }
        };
        let (drawn, slot) = match prepare(&shared) {
            Ok(prepared) => prepared,
            Err(problem) => {
                lead.refuse(&problem);
                return Ok(shared.refuse(problem, wire));
            }
        };
        let execution = execute(Arc::clone(&shared), work, drawn, slot, lead);
        match Detached::new(execution, shared.metrics().detached_tasks()).await {
            End::Answered(answer) => return answer,
            End::Panicked(panic) => resume_unwind(panic),
            End::Busy(busy) => {
                let lead;
                (work, lead) = *busy;
                // By the recipe of the record.
                ticket = work.ticket.clone();
                lead.waits(patience.until() + LAST_LOOK);
                let over = until_over(&shared, &key, patience.until());
                let found = Box::pin(over).await;
                if let Some(response) = others_answer(&shared, &ticket, &found) {
                    lead.end(found.into());
                    return Ok(response);
                }
                waited = Some(lead);
            }
            End::Superseded {
                ticket,
                promise,
                own,
            } => {
                patience.renew();
                let answer = successors_answer(&shared, &ticket, &mut patience, promise, own);
                return Ok(Box::pin(answer).await);
            }
        }
    }
}

/// When the caller stops waiting, as far as it said.
fn deadline(request: &Parts) -> Option<Deadline> {
    let told = request.extensions.get::<Deadline>().copied();
    let timeout = grpc::timeout(&request.headers)
        .and_then(|timeout| Instant::now().checked_add(timeout))
        .map(Deadline::at);
    told.into_iter().chain(timeout).min()
}

/// The names of an execution, and its place among those that run.
fn prepare<St>(shared: &Shared<St>) -> Result<(Drawn, Slot), Problem> {
    let overloaded = || refusal::overloaded(&shared.settings.config);
    let drawn = Drawn::draw().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        overloaded()
    })?;
    let slot = shared.slot().ok_or_else(overloaded)?;
    Ok((drawn, slot))
}

/// The answer to a request that joined another of this process; `None` if it is to ask for the operation itself.
async fn joined_answer<St: Store, RB>(
    shared: &Arc<Shared<St>>,
    ticket: &Ticket,
    joined: Joined,
    patience: &mut Patience,
) -> Option<Response<ReplyBody<RB>>> {
    let response = match until_ended(shared, &ticket.key, joined, patience).await {
        Err(problem) => shared.refuse(problem, ticket.wire),
        Ok(Ending::Again) => return None,
        Ok(Ending::Answered { record, stored }) => {
            answer::joined(shared, (*record).clone(), stored, ticket.wire)
        }
        Ok(Ending::Elsewhere) => {
            let found = until_over(shared, &ticket.key, patience.until()).await;
            return others_answer(shared, ticket, &found);
        }
        Ok(Ending::Refused(problem)) => shared.refuse((*problem).clone(), ticket.wire),
        Ok(Ending::Stored(response)) => answer::replayed(shared, &response, ticket.wire),
    };
    Some(response)
}

/// The answer to a request whose operation another owner executes, as it was found; `None` if it is to ask for the operation again.
fn others_answer<St, RB>(
    shared: &Shared<St>,
    ticket: &Ticket,
    found: &Waited,
) -> Option<Response<ReplyBody<RB>>> {
    let config = &shared.settings.config;
    let response = match found {
        Waited::StillRunning => shared.refuse(refusal::in_progress(config), ticket.wire),
        Waited::Unknown(error) => {
            log(error, "a running operation could not be looked up");
            shared.refuse(refusal::store_failed(error, config), ticket.wire)
        }
        Waited::Over(Standing::Completed {
            fingerprint,
            response,
        }) if *fingerprint == ticket.fingerprint => answer::replayed(shared, response, ticket.wire),
        // Free, or in a state that the next claim judges.
        Waited::Over(_) => return None,
    };
    Some(response)
}

/// The answer of the owner that has the record by now, else what was answered here.
async fn successors_answer<St: Store, RB>(
    shared: &Arc<Shared<St>>,
    ticket: &Ticket,
    patience: &mut Patience,
    promise: Promise,
    own: Own<RB>,
) -> Response<ReplyBody<RB>> {
    let waited = match shared.poller.if_over(&ticket.key).await {
        Ok(Some(standing)) => Waited::Over(standing),
        Ok(None) | Err(_) => until_over(shared, &ticket.key, patience.until()).await,
    };
    let config = &shared.settings.config;
    match (waited, own) {
        (
            Waited::Over(Standing::Completed {
                fingerprint,
                response,
            }),
            _,
        ) if fingerprint == ticket.fingerprint => answer::replayed(shared, &response, ticket.wire),
        (_, Own::Answer(own)) => {
            shared.signal(Signal::Unstored);
            answer::unstored(*own)
        }
        (Waited::StillRunning, Own::Lost | Own::Unstarted) => {
            shared.refuse(refusal::in_progress(config), ticket.wire)
        }
        (Waited::Over(_) | Waited::Unknown(_), Own::Lost) => {
            shared.refuse(refusal::outcome_lost(promise, config), ticket.wire)
        }
        (Waited::Over(_) | Waited::Unknown(_), Own::Unstarted) => {
            shared.refuse(refusal::not_ready(config), ticket.wire)
        }
    }
}
