use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claim, Claimant, OwnerId, Transition};
use steadfast_http::{BoxError, body::CapturedBody};
use steadfast_store::{Begin, Store, StoreError};
use tokio::time::Instant;
use tower_service::Service;
use tracing::Span;

use crate::{
    answer, refusal,
    run::Run,
    shared::{Shared, Slot},
    signal::log,
    work::{Drawn, End, Work},
};

/// Claims the operation, runs the handler and settles the record.
pub(crate) async fn execute<S, St, B, RB>(
    shared: Arc<Shared<St>>,
    mut work: Work<S>,
    drawn: Drawn,
    slot: Slot,
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
    let (begin, sent) = match begin(&shared, &mut work, drawn.owner).await {
        Ok(begin) => begin,
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
            return End::Answered(Ok(shared.refuse(problem)));
        }
    };
    let claim = match begin {
        Begin::Claimed(claim) => claim,
        Begin::Running { .. } => return End::Busy(work),
        Begin::Completed { response } => {
            return End::Answered(Ok(answer::replayed(&shared, &response)));
        }
        Begin::Conflict { .. } => return End::Answered(Ok(shared.refuse(refusal::key_reused()))),
        Begin::Indeterminate => {
            return End::Answered(Ok(shared.refuse(refusal::indeterminate())));
        }
    };
    Span::current().record("idempotency.execution", claim.execution().get());

    let acknowledged = match confirm(&shared, &claim, sent).await {
        Ok((Transition::Applied, acknowledged)) => acknowledged,
        Ok((Transition::Fenced, _)) => return End::Busy(work),
        Err(error) => {
            log(&error, "a late claim could not be confirmed");
            shared.release_in_background(*claim.claimant(), true);
            let problem = refusal::store_failed(&error, &shared.settings.config);
            return End::Answered(Ok(shared.refuse(problem)));
        }
    };

    Run::new(shared, claim, drawn.successor, slot, sent, acknowledged)
        .run(work)
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
