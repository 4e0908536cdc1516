use std::{any::Any, error::Error, future::poll_fn, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use steadfast_core::idempotency::{Claimant, OwnerId};
use steadfast_http::{
    BoxError,
    body::{Captured, CapturedBody, ReplyBody},
};
use steadfast_store::{Begin, Store, StoreError};
use tokio::time::Instant;
use tower_service::Service;
use tracing::Span;

use crate::{
    answer,
    keyed::Ticket,
    refusal,
    run::Run,
    shared::{Shared, Slot},
};

/// A request that waits for its execution, and the service that will run it.
pub(crate) struct Work<S> {
    pub(crate) ticket: Ticket,
    pub(crate) inner: S,
    pub(crate) parts: Parts,
    pub(crate) body: Captured,
}

impl<S> Work<S> {
    pub(crate) const fn new(inner: S, parts: Parts, body: Captured, ticket: Ticket) -> Self {
        Self {
            ticket,
            inner,
            parts,
            body,
        }
    }

    pub(crate) async fn ready<B>(&mut self) -> Result<(), S::Error>
    where
        S: Service<Request<CapturedBody<B>>>,
    {
        poll_fn(|cx| self.inner.poll_ready(cx)).await
    }

    /// Frees what the inner service reserved for a call that is not made yet.
    pub(crate) fn give_readiness_back(&mut self)
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
    }
}

/// The names of one execution: its own, and the one that its record gets when it is abandoned.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    pub(crate) owner: OwnerId,
    successor: OwnerId,
}

impl Drawn {
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut owner = [0; 16];
        let mut successor = [0; 16];
        getrandom::fill(&mut owner)?;
        getrandom::fill(&mut successor)?;
        Ok(Self {
            owner: OwnerId::from_bytes(owner),
            successor: OwnerId::from_bytes(successor),
        })
    }
}

/// How one try to execute ended.
pub(crate) enum End<S, RB, E> {
    /// This is the answer.
    Answered(Result<Response<ReplyBody<RB>>, E>),
    /// Another owner executes the operation; the request is given back.
    Busy(Work<S>),
    /// The handler panicked.
    Panicked(Box<dyn Any + Send>),
    /// The operation was started here, and its record is another owner's by now. What the handler answered is given back, if it
    /// did.
    Superseded {
        ticket: Ticket,
        own: Option<Response<ReplyBody<RB>>>,
    },
}

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

pub(crate) fn log(error: &StoreError, what: &'static str) {
    let error: &(dyn Error + 'static) = error;
    tracing::warn!(error, "{what}");
}
