use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claim, Execution, OwnerId, Transition};
use steadfast_http::{BoxError, body::CapturedBody};
use steadfast_store::{Store, StoreErrorKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_service::Service;
use tracing::Instrument;

use crate::{
    Operation, answer,
    lease::{Lease, Lost, may_be_taken_over},
    outcome::{Produced, Settlement, produce},
    record::Record,
    refusal,
    shared::{FIRST_DELAY, Shared, Slot, next_delay},
    signal::{Signal, log, log_again},
    work::{End, Ticket, Work},
};

/// An execution that holds its claim.
pub(crate) struct Run<St> {
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    lease: Lease,
    /// When the claim was asked for: no later than the store's own count of lease and retention begins.
    sent: Instant,
    /// When the claim, or the renewal that confirmed it, was asked for.
    acknowledged: Instant,
    successor: OwnerId,
    slot: Slot,
}

/// Why an execution was stopped.
enum Cut {
    Expired,
    Lost(Lost),
}

/// How a part of an execution ended by itself.
type Caught<T> = Result<T, Box<dyn Any + Send>>;

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
            acknowledged,
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

        if self.was_acknowledged_too_late() {
            return self.lose(ticket, Lost::Unacknowledged);
        }
        match self.until_cut(poll_fn(|cx| inner.poll_ready(cx))).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                Signal::Failed.record();
                self.release().await;
                return End::Answered(Err(error));
            }
            Ok(Err(panic)) => {
                Signal::Panicked.record();
                self.release().await;
                return End::Panicked(panic);
            }
            Err(Cut::Expired) => {
                let problem = refusal::overloaded(&self.shared.settings.config);
                let refused = self.shared.refuse(problem);
                self.release().await;
                return End::Answered(Ok(refused));
            }
            Err(Cut::Lost(lost)) => return self.lose(ticket, lost),
        }
        parts.extensions.insert(Operation::new(
            self.shared.store.id(),
            ticket.key,
            self.claim.execution(),
        ));
        let request = Request::from_parts(parts, CapturedBody::captured(body));
        let shared = Arc::clone(&self.shared);
        let handler = produce(&mut inner, request, &shared.settings);
        match self.until_cut(handler).await {
            Ok(Ok(Ok(produced))) => self.settle(ticket, produced).await,
            Ok(Ok(Err(error))) => {
                Signal::Failed.record();
                self.abandon().await;
                End::Answered(Err(error))
            }
            Ok(Err(panic)) => {
                Signal::Panicked.record();
                self.abandon().await;
                End::Panicked(panic)
            }
            Err(Cut::Expired) => {
                tracing::warn!(key = %self.claim.key().prefix(), "an execution took too long and was cancelled");
                let config = &self.shared.settings.config;
                let problem = refusal::outcome_lost(self.claim.promise(), config);
                let refused = self.shared.refuse(problem);
                self.abandon().await;
                End::Answered(Ok(refused))
            }
            Err(Cut::Lost(lost)) => self.lose(ticket, lost),
        }
    }

    /// Runs a part of the execution until it is done, panics or must stop; then it is dropped. A part whose claim is lost takes not
    /// one step more.
    async fn until_cut<F: Future>(&mut self, part: F) -> Result<Caught<F::Output>, Cut> {
        let until = self.sent + self.shared.settings.config.max_execution;
        tokio::select! {
            biased;
            lost = self.lease.lost() => Err(Cut::Lost(lost)),
            output = AssertUnwindSafe(part).catch_unwind() => Ok(output),
            () = sleep_until(until) => Err(Cut::Expired),
        }
    }

    /// Whether another owner may have taken over before the claim was acknowledged: then nothing is started.
    fn was_acknowledged_too_late(&self) -> bool {
        let end = self.acknowledged + self.shared.settings.config.lease;
        may_be_taken_over(self.claim.promise()) && end <= Instant::now()
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
        let answered = |response| End::Answered(Ok(answer::executed(response)));
        match end {
            Settlement::Abandon => {
                Signal::Abandoned.record();
                self.abandon().await;
                answered(response)
            }
            Settlement::Release => {
                Signal::Released.record();
                self.release().await;
                answered(response)
            }
            Settlement::Complete(record) => {
                let execution = self.claim.execution();
                let promise = self.claim.promise();
                match self.complete(*record).await {
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
                    Completion::Fenced => End::Superseded {
                        ticket,
                        promise,
                        own: Some(response),
                    },
                }
            }
        }
    }

    /// Releases the claim: nothing happened. Past the completion wait, or if the store cannot be told, that goes on in a task of
    /// its own.
    async fn release(self) {
        let wait = self.shared.settings.config.completion_wait;
        let releasing = async move {
            let claimant = *self.claim.claimant();
            if let Err(error) = self.shared.store.release(&claimant).await {
                log(&error, "a claim could not be released yet");
                self.shared.release_in_background(claimant, true);
            }
        };
        within(wait, releasing).await;
    }

    /// Gives the claim up. Past the completion wait, that goes on in a task of its own.
    async fn abandon(self) {
        let wait = self.shared.settings.config.completion_wait;
        within(wait, self.give_up()).await;
    }

    /// Tries for a lease, whose end says the same.
    async fn give_up(self) {
        let Self {
            shared,
            claim,
            lease,
            successor,
            slot: _slot,
            ..
        } = self;
        // A renewal would make the record live on.
        drop(lease);
        let until = Instant::now() + shared.settings.config.lease;
        let mut delay = FIRST_DELAY;
        while let Err(error) = shared.store.abandon(&claim, successor).await {
            if delay == FIRST_DELAY {
                log(&error, "a claim could not be given up yet");
            } else {
                log_again(&error, "a claim could not be given up yet");
            }
            if Instant::now() + delay >= until {
                return;
            }
            sleep(delay).await;
            delay = next_delay(delay);
        }
    }

    /// Stores the answer. Past the completion wait, storing goes on in a task of its own.
    async fn complete(self, record: Record) -> Completion {
        let wait = self.shared.settings.config.completion_wait;
        let stored = within(wait, self.store(record)).await;
        stored.unwrap_or(Completion::Unstored)
    }

    async fn store(self, record: Record) -> Completion {
        let Self {
            shared,
            claim,
            lease: _lease,
            sent,
            slot: _slot,
            ..
        } = self;
        let config = &shared.settings.config;
        let until = sent + config.max_execution;
        let retained_until = sent + config.retention;
        let mut response = record.encode();
        let mut delay = FIRST_DELAY;
        loop {
            match shared.store.complete(&claim, &response).await {
                // Past retention the key is free: an answer that comes so late answers nobody else.
                Ok(Transition::Applied) if Instant::now() >= retained_until => {
                    return Completion::Unstored;
                }
                Ok(Transition::Applied) => return Completion::Stored,
                Ok(Transition::Fenced) => return Completion::Fenced,
                Err(error) => {
                    if delay == FIRST_DELAY {
                        log(&error, "an answer could not be stored yet");
                    } else {
                        log_again(&error, "an answer could not be stored yet");
                    }
                    if error.kind() == StoreErrorKind::Refused {
                        response = record.clone().without_body().encode();
                    }
                }
            }
            if Instant::now() + delay >= until {
                tracing::error!(
                    key = %claim.key().prefix(),
                    "an answer was never stored; the operation is left to its promise"
                );
                return Completion::Unstored;
            }
            sleep(delay).await;
            delay = next_delay(delay);
        }
    }
}

/// Waits for the end of `work`, up to `wait`; past it the rest goes on in a task of its own.
async fn within<F>(wait: Duration, work: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut work = Box::pin(work);
    match timeout(wait, &mut work).await {
        Ok(output) => Some(output),
        Err(_) => {
            drop(tokio::spawn(work.in_current_span()));
            None
        }
    }
}

enum Completion {
    /// The record belongs to another owner, or is gone.
    Fenced,
    /// Replays get this answer.
    Stored,
    /// The store has not acknowledged the answer.
    Unstored,
}
