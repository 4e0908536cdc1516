use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claimant, OwnerId};
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
                shared.release_in_background(Claimant {
                    key: work.ticket.key,
                    owner: drawn.owner,
                });
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

    Run::new(shared, claim, drawn.successor, slot, sent)
        .run(work)
        .await
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
