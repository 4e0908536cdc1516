use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::idempotency::{Claim, Execution, OwnerId, Transition};
use steadfast_http::{
    BoxError,
    body::{CapturedBody, ReplyBody},
};
use steadfast_store::{Store, StoreErrorKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_service::Service;
use tracing::Instrument;

use crate::{
    Operation, answer,
    lease::{Lease, Lost},
    outcome::{Produced, Settlement, produce},
    record::Record,
    refusal,
    shared::{FIRST_DELAY, Shared, Slot, next_delay},
    signal::{Signal, log},
    work::{End, Ticket, Work},
};

/// An execution that holds its claim.
pub(crate) struct Run<St> {
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    lease: Lease,
    until: Instant,
    successor: OwnerId,
    slot: Slot,
}

/// Why a handler was cancelled.
enum Cut {
    Expired,
    Lost(Lost),
}

impl<St: Store> Run<St> {
    /// Keeps the lease of a claim that was asked for at `sent`.
    pub(crate) fn new(
        shared: Arc<Shared<St>>,
        claim: Claim,
        successor: OwnerId,
        slot: Slot,
        sent: Instant,
    ) -> Self {
        let claim = Arc::new(claim);
        Self {
            lease: Lease::keep(&shared, &claim, sent),
            until: sent + shared.settings.config.max_execution,
            shared,
            claim,
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
            inner,
            mut parts,
            body,
        } = work;
        parts.extensions.insert(Operation::new(
            self.shared.store.id(),
            ticket.scope,
            ticket.key,
            self.claim.execution(),
        ));
        let request = Request::from_parts(parts, CapturedBody::captured(body));

        let shared = Arc::clone(&self.shared);
        let handler = AssertUnwindSafe(produce(inner, request, &shared.settings)).catch_unwind();
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
                self.abandon().await;
                End::Answered(Ok(self.refuse_as_lost()))
            }
            Err(Cut::Lost(Lost::Fenced)) => {
                tracing::warn!(key = %self.claim.key().prefix(), "an execution lost its claim and was cancelled");
                End::Superseded { ticket, own: None }
            }
            Err(Cut::Lost(Lost::Unacknowledged)) => {
                tracing::warn!(
                    key = %self.claim.key().prefix(),
                    "an execution could not renew its claim for a whole lease and was cancelled"
                );
                let problem = refusal::store_lost(&self.shared.settings.config);
                End::Answered(Ok(self.shared.refuse(problem)))
            }
        }
    }

    /// Runs the handler until it is done or must stop; then it is dropped.
    async fn until_cut<F: Future>(&mut self, handler: F) -> Result<F::Output, Cut> {
        tokio::select! {
            biased;
            output = handler => Ok(output),
            lost = self.lease.lost() => Err(Cut::Lost(lost)),
            () = sleep_until(self.until) => Err(Cut::Expired),
        }
    }

    fn refuse_as_lost<RB>(&self) -> Response<ReplyBody<RB>> {
        let settings = &self.shared.settings;
        self.shared
            .refuse(refusal::outcome_lost(settings.promise, &settings.config))
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
                        own: Some(response),
                    },
                }
            }
        }
    }

    /// Gives the claim up. If the store cannot be told, the end of the lease says the same, later.
    async fn abandon(&self) {
        let give_up = async {
            let mut delay = FIRST_DELAY;
            while let Err(error) = self.shared.store.abandon(&self.claim, self.successor).await {
                log(&error, "a claim could not be given up");
                sleep(delay).await;
                delay = next_delay(delay);
            }
        };
        let wait = self.shared.settings.config.completion_wait;
        // Past it, the lease is left to end by itself.
        let _ = timeout(wait, give_up).await;
    }

    async fn release(&self) {
        if let Err(error) = self.shared.store.release(self.claim.claimant()).await {
            log(&error, "a claim could not be released yet");
            self.shared.release_in_background(*self.claim.claimant());
        }
    }

    /// Stores the answer. Past the completion wait, storing goes on in a task of its own.
    async fn complete(self, record: Record) -> Completion {
        let wait = self.shared.settings.config.completion_wait;
        let mut storing = Box::pin(self.store(record));
        match timeout(wait, &mut storing).await {
            Ok(completion) => completion,
            Err(_) => {
                let stored_later = async move {
                    if matches!(storing.await, Completion::Fenced) {
                        tracing::warn!("an answer was given whose operation has another owner");
                    }
                };
                drop(tokio::spawn(stored_later.in_current_span()));
                Completion::Unstored
            }
        }
    }

    async fn store(self, record: Record) -> Completion {
        let Self {
            shared,
            claim,
            lease: _lease,
            until,
            slot: _slot,
            ..
        } = self;
        let mut response = record.encode();
        let mut delay = FIRST_DELAY;
        loop {
            match shared.store.complete(&claim, &response).await {
                Ok(Transition::Applied) => return Completion::Stored,
                Ok(Transition::Fenced) => return Completion::Fenced,
                Err(error) => {
                    log(&error, "an answer could not be stored yet");
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

enum Completion {
    /// The record belongs to another owner, or is gone.
    Fenced,
    /// Replays get this answer.
    Stored,
    /// The store has not acknowledged the answer.
    Unstored,
}
