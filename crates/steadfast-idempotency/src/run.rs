mod settlement;

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claim, Execution, OwnerId, Promise, Transition};
use steadfast_http::{
    BoxError,
    body::{CapturedBody, ReplyBody},
    grpc::ACCEPT_ENCODING,
    problem::Problem,
};
use steadfast_store::{Store, StoreError};
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};
use tower_service::Service;
use tracing::Instrument;

use self::settlement::Settled;
use crate::{
    Operation, answer,
    join::{Ending, Lead},
    lease::{Lease, Lost},
    outcome::{Heard, Produced, Settlement, produce},
    refusal,
    shared::{Shared, Slot},
    signal::{Signal, log},
    work::{End, Own, Ticket, Work},
};

/// An execution that holds its claim.
pub(crate) struct Run<St> {
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    lease: Lease<St>,
    /// When the claim was asked for: no later than the store's own count of lease and retention begins.
    sent: Instant,
    successor: OwnerId,
    slot: Slot,
    lead: Lead,
    waited: bool,
}

/// What an execution holds from its claim on.
pub(crate) struct Held {
    pub(crate) claim: Claim,
    /// Whether the claim had to be waited for.
    pub(crate) waited: bool,
    /// The owner of the record if it is abandoned.
    pub(crate) successor: OwnerId,
    pub(crate) slot: Slot,
    pub(crate) lead: Lead,
}

/// Why a part of an execution has no result.
enum Stopped<E> {
    Expired,
    Failed(E),
    Lost(Lost),
    Panicked(Box<dyn Any + Send>),
}

impl<St: Store> Run<St> {
    /// Keeps the lease of a claim that was asked for at `sent`, and was known to stand by what was asked for when it was
    /// `acknowledged`.
    pub(crate) fn new(
        shared: Arc<Shared<St>>,
        held: Held,
        sent: Instant,
        acknowledged: Instant,
    ) -> Self {
        let claim = Arc::new(held.claim);
        Self {
            lease: Lease::keep(&shared, &claim, held.lead.tie(), sent, acknowledged),
            shared,
            claim,
            sent,
            successor: held.successor,
            slot: held.slot,
            lead: held.lead,
            waited: held.waited,
        }
    }

    /// Runs the handler and settles the record.
    // What seldom happens is boxed, here and in `keyed`: its states would make every execution larger.
    pub(crate) async fn run<S, B, RB>(mut self, work: Work<S>) -> End<S, RB, S::Error>
    where
        S: Service<Request<CapturedBody<B>>, Response = Response<RB>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        RB: Body<Data = Bytes> + Send + 'static,
        RB::Error: Into<BoxError>,
    {
        let Work {
            ticket,
            mut inner,
            mut parts,
            body,
            reservation: _reservation,
        } = work;

        if self.waited {
            // A handler may block before it waits: by then the renewals have begun, and not behind it in this worker's queue. Who
            // had to wait for the store can spare the time.
            self.lease.renew();
            yield_now().await;
        }
        let ready = poll_fn(|cx| inner.poll_ready(cx));
        if let Err(stopped) = self.until_stopped(ready).await {
            return Box::pin(self.end_unstarted(ticket, stopped)).await;
        }
        match self.confirm().await {
            Ok(Transition::Applied) => {}
            Ok(Transition::Fenced) => return self.lose(ticket, Lost::Fenced, false),
            Err(error) => {
                log(&error, "a claim could not be confirmed");
                let problem = refusal::store_failed(&error, &self.shared.settings.config);
                let refused = self.refuse(problem, &ticket);
                Box::pin(self.release()).await;
                return End::Answered(Ok(refused));
            }
        }

        // An answer is kept for every caller, whatever this one can decompress.
        parts.headers.remove(ACCEPT_ENCODING);
        parts.extensions.insert(Operation::new(
            self.shared.store.id(),
            ticket.key,
            self.claim.execution(),
        ));
        let request = Request::from_parts(parts, CapturedBody::captured(body));
        let shared = Arc::clone(&self.shared);
        let lead = std::mem::take(&mut self.lead);
        let handler = produce(&mut inner, request, &shared.settings, &lead);
        let produced = self.until_stopped(handler).await;
        self.lead = lead;
        match produced {
            Ok(produced) => self.settle(ticket, produced).await,
            Err(stopped) => Box::pin(self.end_unfinished(ticket, stopped)).await,
        }
    }

    /// Asks the store once more before the handler starts, if the lease may be over by now: then another owner may have taken over,
    /// or somebody may have resolved the operation. To stop costs nothing yet.
    async fn confirm(&self) -> Result<Transition, StoreError> {
        if Instant::now() < self.lease.end() {
            return Ok(Transition::Applied);
        }
        self.lease.confirm().await
    }

    /// Runs a part of the execution until it is done or stopped; then it is dropped. A part whose time is over, or whose claim may
    /// have another owner, takes not one step more.
    async fn until_stopped<T, E>(
        &self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Stopped<E>> {
        let until = self.sent + self.shared.settings.config.max_execution;
        let overdue = self.lease.overdue(self.claim.promise());
        let overdue = poll_fn(|_| {
            let now = Instant::now();
            if overdue(now) {
                Poll::Ready(Stopped::Lost(Lost::Unacknowledged))
            } else if until <= now {
                Poll::Ready(Stopped::Expired)
            } else {
                Poll::Pending
            }
        });
        tokio::select! {
            biased;
            lost = self.lease.lost() => Err(Stopped::Lost(lost)),
            stopped = overdue => Err(stopped),
            caught = self.lease.during(AssertUnwindSafe(part).catch_unwind()) => match caught {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(error)) => Err(Stopped::Failed(error)),
                Err(panic) => Err(Stopped::Panicked(panic)),
            },
            // Behind the part: one that does not wait needs no timer.
            () = sleep_until(until) => Err(Stopped::Expired),
        }
    }

    /// Refuses the request, and with it those who joined it.
    fn refuse<RB>(&mut self, problem: Problem, ticket: &Ticket) -> Response<ReplyBody<RB>> {
        std::mem::take(&mut self.lead).refuse(&problem);
        self.shared.refuse(problem, ticket.wire)
    }

    /// Tells those who joined that the execution is lost.
    fn tell_lost(&mut self) {
        let config = &self.shared.settings.config;
        let problem = refusal::outcome_lost(self.claim.promise(), config);
        std::mem::take(&mut self.lead).refuse(&problem);
    }

    /// Ends an execution whose handler was never started: nothing happened.
    async fn end_unstarted<S, RB, E>(
        mut self,
        ticket: Ticket,
        stopped: Stopped<E>,
    ) -> End<S, RB, E> {
        let problem = refusal::not_ready(&self.shared.settings.config);
        match stopped {
            Stopped::Expired => {
                let refused = self.refuse(problem, &ticket);
                self.release().await;
                End::Answered(Ok(refused))
            }
            Stopped::Failed(error) => {
                self.shared.signal(Signal::Failed);
                std::mem::take(&mut self.lead).refuse(&problem);
                self.release().await;
                End::Answered(Err(error))
            }
            Stopped::Lost(lost) => self.lose(ticket, lost, false),
            Stopped::Panicked(panic) => {
                self.shared.signal(Signal::Panicked);
                std::mem::take(&mut self.lead).refuse(&problem);
                self.release().await;
                End::Panicked(panic)
            }
        }
    }

    /// Ends an execution whose handler was started and gave no response: nobody knows what happened.
    async fn end_unfinished<S, RB, E>(
        mut self,
        ticket: Ticket,
        stopped: Stopped<E>,
    ) -> End<S, RB, E> {
        match stopped {
            Stopped::Expired => {
                tracing::warn!(key = %self.claim.key().prefix(), "an execution took too long and was cancelled");
                let config = &self.shared.settings.config;
                let problem = refusal::outcome_lost(self.claim.promise(), config);
                let refused = self.refuse(problem, &ticket);
                self.abandon().await;
                End::Answered(Ok(refused))
            }
            Stopped::Failed(error) => {
                self.shared.signal(Signal::Failed);
                self.tell_lost();
                self.abandon().await;
                End::Answered(Err(error))
            }
            Stopped::Lost(lost) => self.lose(ticket, lost, true),
            Stopped::Panicked(panic) => {
                self.shared.signal(Signal::Panicked);
                self.tell_lost();
                self.abandon().await;
                End::Panicked(panic)
            }
        }
    }

    fn lose<S, RB, E>(mut self, ticket: Ticket, lost: Lost, started: bool) -> End<S, RB, E> {
        let key = self.claim.key().prefix();
        match lost {
            Lost::Fenced => {
                tracing::warn!(%key, "an execution lost its claim and was cancelled");
                End::Superseded {
                    ticket,
                    promise: self.claim.promise(),
                    own: if started { Own::Lost } else { Own::Unstarted },
                }
            }
            Lost::Unacknowledged => {
                tracing::warn!(%key, "an execution could not renew its claim for a whole lease and was cancelled");
                let problem = refusal::store_lost(&self.shared.settings.config);
                let refused = self.refuse(problem, &ticket);
                let counted = self.shared.metrics().detached();
                let giving_up = async move {
                    let _counted = counted;
                    self.give_up().await
                };
                // Nobody waits for it: a later renewal may have landed, and the next request should not wait for its lease.
                drop(tokio::spawn(giving_up.in_current_span()));
                End::Answered(Ok(refused))
            }
        }
    }

    async fn settle<S, RB, E>(mut self, ticket: Ticket, produced: Produced<RB>) -> End<S, RB, E> {
        let (response, end) = produced.into_parts();
        let lead = std::mem::take(&mut self.lead);
        let shared = Arc::clone(&self.shared);
        let execution = self.claim.execution();
        let promise = self.claim.promise();

        let (settled, signal) = match &end {
            Settlement::Abandon(_) => (
                Settled::of_giving_up(Box::pin(self.abandon()).await),
                Signal::Abandoned,
            ),
            Settlement::Release(_) => (
                Settled::of_giving_up(Box::pin(self.release()).await),
                Signal::Released,
            ),
            Settlement::Complete(record) => {
                let signal = if execution == Execution::FIRST {
                    Signal::Executed
                } else {
                    Signal::TakenOver
                };
                (self.complete(Arc::clone(record)).await, signal)
            }
        };
        let heard = end.heard();
        match settled {
            // Those who joined ask the store, too.
            Settled::Fenced => End::Superseded {
                ticket,
                promise,
                own: Own::Answer(Box::new(response)),
            },
            Settled::Done => {
                shared.signal(signal);
                tell(&shared, lead, heard, true, promise);
                End::Answered(Ok(answer::executed(response)))
            }
            Settled::Unstored => {
                shared.signal(Signal::Unstored);
                tell(&shared, lead, heard, false, promise);
                End::Answered(Ok(answer::unstored(response)))
            }
        }
    }
}

/// Gives those who joined what there is for them.
fn tell<St>(shared: &Shared<St>, lead: Lead, heard: Heard, stored: bool, promise: Promise) {
    match heard {
        Heard::Whole(record) => lead.end(Ending::Answered { record, stored }),
        Heard::Broken => lead.refuse(&refusal::outcome_lost(promise, &shared.settings.config)),
        Heard::Nothing => lead.end(Ending::Again),
    }
}
