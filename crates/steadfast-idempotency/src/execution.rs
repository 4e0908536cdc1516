use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claim, Claimant, OwnerId, Transition};
use steadfast_http::{BoxError, body::CapturedBody, problem::Problem};
use steadfast_store::{Begin, Store, StoreError};
use tokio::time::Instant;
use tower_service::Service;
use tracing::Span;

use crate::{
    answer,
    join::{Ending, Lead},
    refusal,
    run::{Held, Run},
    shared::{Shared, Slot},
    signal::log,
    work::{Drawn, End, Work},
};

/// Claims the operation, runs the handler and settles the record; tells those who joined it.
pub(crate) async fn execute<S, St, B, RB>(
    shared: Arc<Shared<St>>,
    mut work: Work<S>,
    drawn: Drawn,
    slot: Slot,
    lead: Lead,
) -> End<S, RB, S::Error>
where
    St: Store,
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    let wire = work.ticket.wire;
    let refuse = |problem: Problem, lead: Lead| {
        lead.refuse(&problem);
        End::Answered(Ok(shared.refuse(problem, wire)))
    };
    let asked = Instant::now();
    let mut waited = false;
    let begun = noticing(&mut waited, begin(&shared, &mut work, drawn.owner)).await;
    shared.metrics().claimed_after(asked.elapsed());
    let (begin, sent) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            log(&error, "an operation could not be claimed");
            if error.may_have_applied() {
                let claimant = Claimant {
                    key: work.ticket.key,
                    owner: drawn.owner,
                };
                shared.release_in_background(claimant, false);
            }
            let problem = refusal::store_failed(&error, &shared.settings.config);
            return refuse(problem, lead);
        }
    };
    let claim = match begin {
        Begin::Claimed(claim) => claim,
        Begin::Running { .. } => return End::Busy(Box::new((work, lead))),
        Begin::Completed { response } => {
            lead.end(Ending::Stored(response.clone()));
            return End::Answered(Ok(answer::replayed(&shared, &response, wire)));
        }
        // By another recipe those who joined may not be in conflict.
        Begin::Conflict { fingerprint }
            if fingerprint.version() != work.ticket.fingerprint.version() =>
        {
            drop(lead);
            return refuse(refusal::key_reused(), Lead::default());
        }
        Begin::Conflict { .. } => return refuse(refusal::key_reused(), lead),
        Begin::Indeterminate => return refuse(refusal::indeterminate(), lead),
    };
    Span::current().record("idempotency.execution", claim.execution().get());

    let acknowledged = match confirm(&shared, &claim, sent).await {
        Ok((Transition::Applied, acknowledged)) => acknowledged,
        Ok((Transition::Fenced, _)) => return End::Busy(Box::new((work, lead))),
        Err(error) => {
            log(&error, "a late claim could not be confirmed");
            shared.release_in_background(*claim.claimant(), true);
            let problem = refusal::store_failed(&error, &shared.settings.config);
            return refuse(problem, lead);
        }
    };

    lead.executes(acknowledged + shared.settings.config.lease);
    let held = Held {
        claim,
        waited,
        successor: drawn.successor,
        slot,
        lead,
    };
    // Boxed: replays and refusals, which end before, are spared its size.
    Box::pin(Run::new(shared, held, sent, acknowledged).run(work)).await
}

/// Does the work, and notices whether it waited.
async fn noticing<F: Future>(waited: &mut bool, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let poll = work.as_mut().poll(cx);
        *waited |= poll.is_pending();
        poll
    })
    .await
}

/// Says when what is known of the claim was asked for. One that was acknowledged later than its lease is renewed first: another
/// owner may have taken over, or somebody may have resolved the operation.
async fn confirm<St: Store>(
    shared: &Shared<St>,
    claim: &Claim,
    sent: Instant,
) -> Result<(Transition, Instant), StoreError> {
    let lease = shared.settings.config.lease;
    let now = Instant::now();
    if now < sent + lease {
        return Ok((Transition::Applied, sent));
    }
    let renewed = shared.store.renew(claim, lease).await?;
    Ok((renewed, now))
}

/// Asks for the claim. A record that was made by another recipe is compared by that recipe before it is called another request.
async fn begin<S, St: Store>(
    shared: &Shared<St>,
    work: &mut Work<S>,
    owner: OwnerId,
) -> Result<(Begin, Instant), StoreError> {
    let sent = Instant::now();
    let terms = shared.terms(&work.ticket, owner);
    let begin = shared.store.begin(&work.ticket.key, &terms).await?;

    let Begin::Conflict { fingerprint } = &begin else {
        return Ok((begin, sent));
    };
    let as_it_was = shared.settings.recipe.fingerprint_as_of(
        fingerprint.version(),
        &work.parts,
        work.body.data(),
    );
    if as_it_was != Some(*fingerprint) || work.ticket.fingerprint == *fingerprint {
        return Ok((begin, sent));
    }
    work.ticket.fingerprint = *fingerprint;
    let sent = Instant::now();
    let terms = shared.terms(&work.ticket, owner);
    let begin = shared.store.begin(&work.ticket.key, &terms).await?;
    Ok((begin, sent))
}
