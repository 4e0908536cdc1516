//! How a run ends in the store, whatever the store does meanwhile.

use std::{future::Future, sync::Arc, time::Duration};

use steadfast_core::idempotency::Transition;
use steadfast_store::{Store, StoreErrorKind};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::Run;
use crate::{
    record::Record,
    shared::{FIRST_DELAY, Shared, next_delay},
    signal::{log, log_again},
};

impl<St: Store> Run<St> {
    /// Releases the claim: nothing happened. Past the completion wait, or if the store cannot be told, that goes on in a task of
    /// its own. Says what the store answered to the first sending, if it did.
    pub(super) async fn release(self) -> Option<Transition> {
        let wait = self.shared.settings.config.completion_wait;
        let detached = Arc::clone(&self.shared);
        let releasing = async move {
            // All of it: the slot is held until the store has answered.
            let Self {
                shared,
                claim,
                lease,
                slot: _slot,
                ..
            } = self;
            lease.settles();
            match lease.during(shared.store.release(claim.claimant())).await {
                Ok(transition) => Some(transition),
                Err(error) => {
                    log(&error, "a claim could not be released yet");
                    shared.release_in_background(*claim.claimant(), true);
                    None
                }
            }
        };
        within(wait, &detached, releasing).await.flatten()
    }

    /// Gives the claim up. Past the completion wait, that goes on in a task of its own. Says what the store answered to the first
    /// sending, if it did.
    pub(super) async fn abandon(self) -> Option<Transition> {
        let wait = self.shared.settings.config.completion_wait;
        let detached = Arc::clone(&self.shared);
        within(wait, &detached, self.give_up()).await.flatten()
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
    pub(super) async fn complete(self, record: Arc<Record>) -> Settled {
        let wait = self.shared.settings.config.completion_wait;
        let detached = Arc::clone(&self.shared);
        let stored = within(wait, &detached, self.store(record)).await;
        stored.unwrap_or(Settled::Unstored)
    }

    async fn store(self, record: Arc<Record>) -> Settled {
        let Self {
            shared,
            claim,
            lease,
            sent,
            slot: _slot,
            ..
        } = self;
        let config = &shared.settings.config;
        let until = sent + config.max_execution;
        let retained_until = sent + config.retention;
        let mut response = record.encode();
        let mut delay = FIRST_DELAY;
        let begun = Instant::now();
        lease.settles();
        loop {
            match lease.during(shared.store.complete(&claim, &response)).await {
                // Past retention the key is free: an answer that comes so late answers nobody else.
                Ok(Transition::Applied) if Instant::now() >= retained_until => {
                    return Settled::Unstored;
                }
                Ok(Transition::Applied) => {
                    shared.metrics().completed_after(begun.elapsed());
                    return Settled::Done;
                }
                Ok(Transition::Fenced) => {
                    shared.metrics().completion_was_fenced();
                    return Settled::Fenced;
                }
                Err(error) => {
                    if delay == FIRST_DELAY {
                        log(&error, "an answer could not be stored yet");
                    } else {
                        log_again(&error, "an answer could not be stored yet");
                    }
                    if error.kind() == StoreErrorKind::Refused {
                        response = record.without_body().encode();
                    }
                }
            }
            if Instant::now() + delay >= until {
                tracing::error!(
                    key = %claim.key().prefix(),
                    "an answer was never stored; the operation is left to its promise"
                );
                return Settled::Unstored;
            }
            lease.during(sleep(delay)).await;
            delay = next_delay(delay);
        }
    }
}

/// Waits for the end of `work`, up to `wait`; past it the rest goes on in a task of its own.
async fn within<St, F>(wait: Duration, shared: &Shared<St>, work: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut work = Box::pin(work);
    match timeout(wait, &mut work).await {
        Ok(output) => Some(output),
        Err(_) => {
            let counted = shared.metrics().detached();
            let rest = async move {
                let _counted = counted;
                work.await
            };
            drop(tokio::spawn(rest.in_current_span()));
            None
        }
    }
}

/// What became of the record.
pub(super) enum Settled {
    /// It is settled as it should, or that goes on in the background where nobody can tell the difference.
    Done,
    /// It belongs to another owner, or is gone.
    Fenced,
    /// The store has not acknowledged the answer.
    Unstored,
}

impl Settled {
    /// What the store said to an abandon or a release.
    pub(super) const fn of_giving_up(transition: Option<Transition>) -> Self {
        match transition {
            Some(Transition::Fenced) => Self::Fenced,
            Some(Transition::Applied) | None => Self::Done,
        }
    }
}
