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
use steadfast_core::idempotency::{Claim, Execution, OwnerId, Transition};
use steadfast_http::{BoxError, body::CapturedBody};
use steadfast_store::{Store, StoreError};
use tokio::time::{Instant, sleep_until};
use tower_service::Service;
use tracing::Instrument;

use self::settlement::Completion;
use crate::{
    Operation, answer,
    lease::{Lease, Lost},
    outcome::{Produced, Settlement, produce},
    refusal,
    shared::{Shared, Slot},
    signal::{Signal, log},
    work::{End, Ticket, Work},
};

/// An execution that holds its claim.
pub(crate) struct Run<St> {
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    lease: Lease,
    /// When the claim was asked for: no later than the store's own count of lease and retention begins.
    sent: Instant,
    successor: OwnerId,
    slot: Slot,
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
        claim: Claim,
        successor: OwnerId,
        slot: Slot,
        sent: Instant,
        acknowledged: Instant,
    ) -> Self {
        let claim = Arc::new(claim);
        Self {
            lease: Lease::keep(&shared, &claim, sent, acknowledged),
            shared,
            claim,
            sent,
            successor,
            slot,
        }
    }

    /// Runs the handler and settles the record.
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

        let ready = poll_fn(|cx| inner.poll_ready(cx));
        if let Err(stopped) = self.until_stopped(ready).await {
            return self.end_unstarted(ticket, stopped).await;
        }
        match self.confirm().await {
            Ok(Transition::Applied) => {}
            Ok(Transition::Fenced) => return self.lose(ticket, Lost::Fenced),
            Err(error) => {
                log(&error, "a claim could not be confirmed");
                let problem = refusal::store_failed(&error, &self.shared.settings.config);
                let refused = self.shared.refuse(problem);
                self.release().await;
                return End::Answered(Ok(refused));
            }
        }

        parts.extensions.insert(Operation::new(
            self.shared.store.id(),
            ticket.key,
            self.claim.execution(),
        ));
        let request = Request::from_parts(parts, CapturedBody::captured(body));
        let shared = Arc::clone(&self.shared);
        let handler = produce(&mut inner, request, &shared.settings);
        match self.until_stopped(handler).await {
            Ok(produced) => self.settle(ticket, produced).await,
            Err(stopped) => self.end_unfinished(ticket, stopped).await,
        }
    }

    /// Asks the store once more before the handler starts, if the lease may be over by now: then another owner may have taken over,
    /// or somebody may have resolved the operation. To stop costs nothing yet.
    async fn confirm(&self) -> Result<Transition, StoreError> {
        if Instant::now() < self.lease.end() {
            return Ok(Transition::Applied);
        }
        let lease = self.shared.settings.config.lease;
        self.shared.store.renew(&self.claim, lease).await
    }

    /// Runs a part of the execution until it is done or stopped; then it is dropped. A part whose time is over, or whose claim may
    /// have another owner, takes not one step more.
    async fn until_stopped<T, E>(
        &mut self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Stopped<E>> {
        let until = self.sent + self.shared.settings.config.max_execution;
        let overdue = self.lease.overdue(self.claim.promise());
        let overdue = poll_fn(|_| {
            if overdue() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        tokio::select! {
            biased;
            lost = self.lease.lost() => Err(Stopped::Lost(lost)),
            () = overdue => Err(Stopped::Lost(Lost::Unacknowledged)),
            () = sleep_until(until) => Err(Stopped::Expired),
            caught = AssertUnwindSafe(part).catch_unwind() => match caught {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(error)) => Err(Stopped::Failed(error)),
                Err(panic) => Err(Stopped::Panicked(panic)),
            },
        }
    }

    /// Ends an execution whose handler was never started: nothing happened.
    async fn end_unstarted<S, RB, E>(self, ticket: Ticket, stopped: Stopped<E>) -> End<S, RB, E> {
        match stopped {
            Stopped::Expired => {
                let problem = refusal::overloaded(&self.shared.settings.config);
                let refused = self.shared.refuse(problem);
                self.release().await;
                End::Answered(Ok(refused))
            }
            Stopped::Failed(error) => {
                Signal::Failed.record();
                self.release().await;
                End::Answered(Err(error))
            }
            Stopped::Lost(lost) => self.lose(ticket, lost),
            Stopped::Panicked(panic) => {
                Signal::Panicked.record();
                self.release().await;
                End::Panicked(panic)
            }
        }
    }

    /// Ends an execution whose handler was started and gave no response: nobody knows what happened.
    async fn end_unfinished<S, RB, E>(self, ticket: Ticket, stopped: Stopped<E>) -> End<S, RB, E> {
        match stopped {
            Stopped::Expired => {
                tracing::warn!(key = %self.claim.key().prefix(), "an execution took too long and was cancelled");
                let config = &self.shared.settings.config;
                let problem = refusal::outcome_lost(self.claim.promise(), config);
                let refused = self.shared.refuse(problem);
                self.abandon().await;
                End::Answered(Ok(refused))
            }
            Stopped::Failed(error) => {
                Signal::Failed.record();
                self.abandon().await;
                End::Answered(Err(error))
            }
            Stopped::Lost(lost) => self.lose(ticket, lost),
            Stopped::Panicked(panic) => {
                Signal::Panicked.record();
                self.abandon().await;
                End::Panicked(panic)
            }
        }
    }

    fn lose<S, RB, E>(self, ticket: Ticket, lost: Lost) -> End<S, RB, E> {
        let key = self.claim.key().prefix();
        match lost {
            Lost::Fenced => {
                tracing::warn!(%key, "an execution lost its claim and was cancelled");
                End::Superseded {
                    ticket,
                    promise: self.claim.promise(),
                    own: None,
                }
            }
            Lost::Unacknowledged => {
                tracing::warn!(%key, "an execution could not renew its claim for a whole lease and was cancelled");
                let problem = refusal::store_lost(&self.shared.settings.config);
                let refused = self.shared.refuse(problem);
                // Nobody waits for it: a later renewal may have landed, and the next request should not wait for its lease.
                drop(tokio::spawn(self.give_up().in_current_span()));
                End::Answered(Ok(refused))
            }
        }
    }

    async fn settle<S, RB, E>(self, ticket: Ticket, mut produced: Produced<RB>) -> End<S, RB, E> {
        let end = std::mem::replace(&mut produced.end, Settlement::Abandon);
        let response = produced.into_response();
        let execution = self.claim.execution();
        let promise = self.claim.promise();
        let answered = |response| End::Answered(Ok(answer::executed(response)));
        // The record is another owner's: that owner's answer is the operation's.
        let superseded = |response| End::Superseded {
            ticket,
            promise,
            own: Some(response),
        };
        match end {
            Settlement::Abandon => match self.abandon().await {
                Some(Transition::Fenced) => superseded(response),
                Some(Transition::Applied) | None => {
                    Signal::Abandoned.record();
                    answered(response)
                }
            },
            Settlement::Release => match self.release().await {
                Some(Transition::Fenced) => superseded(response),
                Some(Transition::Applied) | None => {
                    Signal::Released.record();
                    answered(response)
                }
            },
            Settlement::Complete(record) => match self.complete(*record).await {
                Completion::Stored => {
                    if execution == Execution::FIRST {
                        Signal::Executed.record();
                    } else {
                        Signal::TakenOver.record();
                    }
                    answered(response)
                }
                Completion::Unstored => {
                    Signal::Unstored.record();
                    End::Answered(Ok(answer::unstored(response)))
                }
                Completion::Fenced => superseded(response),
            },
        }
    }
}
