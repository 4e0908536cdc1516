//! How a run ends in the store, whatever the store does meanwhile.

use std::{future::Future, time::Duration};

use steadfast_core::idempotency::Transition;
use steadfast_store::{Store, StoreErrorKind};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::Run;
use crate::{
    record::Record,
    shared::{FIRST_DELAY, next_delay},
    signal::{log, log_again},
};

impl<St: Store> Run<St> {
    /// Releases the claim: nothing happened. Past the completion wait, or if the store cannot be told, that goes on in a task of
    /// its own. Says what the store answered to the first sending, if it did.
    pub(super) async fn release(self) -> Option<Transition> {
        let wait = self.shared.settings.config.completion_wait;
        let releasing = async move {
            // All of it: the slot is held until the store has answered.
            let Self {
                shared,
                claim,
                lease: _lease,
                slot: _slot,
                ..
            } = self;
            match shared.store.release(claim.claimant()).await {
                Ok(transition) => Some(transition),
                Err(error) => {
                    log(&error, "a claim could not be released yet");
                    shared.release_in_background(*claim.claimant(), true);
                    None
                }
            }
        };
        within(wait, releasing).await.flatten()
    }

    /// Gives the claim up. Past the completion wait, that goes on in a task of its own. Says what the store answered to the first
    /// sending, if it did.
    pub(super) async fn abandon(self) -> Option<Transition> {
        let wait = self.shared.settings.config.completion_wait;
        within(wait, self.give_up()).await.flatten()
    }

    /// Tries for a lease, whose end says the same.
    pub(super) async fn give_up(self) -> Option<Transition> {
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
        let error = match shared.store.abandon(&claim, successor).await {
            Ok(transition) => return Some(transition),
            Err(error) => error,
        };
        log(&error, "a claim could not be given up yet");

        let until = Instant::now() + shared.settings.config.lease;
        let mut delay = FIRST_DELAY;
        while Instant::now() + delay < until {
            sleep(delay).await;
            delay = next_delay(delay);
            match shared.store.abandon(&claim, successor).await {
                // Fenced, it may be by an earlier sending.
                Ok(_) => break,
                Err(error) => log_again(&error, "a claim could not be given up yet"),
            }
        }
        None
    }

    /// Stores the answer. Past the completion wait, storing goes on in a task of its own.
    pub(super) async fn complete(self, record: Record) -> Completion {
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

/// What became of an answer.
pub(super) enum Completion {
    /// The record belongs to another owner, or is gone.
    Fenced,
    /// Replays get this answer.
    Stored,
    /// The store has not acknowledged the answer.
    Unstored,
}
