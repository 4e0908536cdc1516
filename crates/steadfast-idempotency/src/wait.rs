//! Waiting for an operation that somebody else executes.

use std::time::Duration;

use steadfast_core::idempotency::KeyDigest;
use steadfast_http::{Deadline, problem::Problem};
use steadfast_store::{Store, StoreError};
use tokio::time::{Instant, timeout_at};

use crate::{
    join::{Claimed, Ending, Joined},
    poller::Waited,
    refusal,
    shared::Shared,
};

/// How long one request may wait, over all its waits.
pub(crate) struct Patience {
    longest: Duration,
    deadline: Option<Deadline>,
    until: Option<Instant>,
}

impl Patience {
    pub(crate) const fn new(longest: Duration, deadline: Option<Deadline>) -> Self {
        Self {
            longest,
            deadline,
            until: None,
        }
    }

    /// When it is over, counted from the first time that this is asked.
    pub(crate) fn until(&mut self) -> Instant {
        *self.until.get_or_insert_with(|| {
            let until = Instant::now() + self.longest;
            match self.deadline {
                Some(deadline) => until.min(deadline.moment()),
                None => until,
            }
        })
    }

    /// Counts anew: the request has become another's waiter.
    pub(crate) const fn renew(&mut self) {
        self.until = None;
    }
}

/// Waits for what those who joined get.
///
/// # Cancel safety
///
/// Cancel safe: a waiter holds no claim, no connection and no slot.
pub(crate) async fn until_ended<St: Store>(
    shared: &Shared<St>,
    key: &KeyDigest,
    mut joined: Joined,
    patience: &mut Patience,
) -> Result<Ending, Problem> {
    let config = &shared.settings.config;
    if let Claimed::Ended(ending) = claimed(shared, &mut joined, patience).await? {
        return Ok(ending);
    }
    let until = patience.until();
    let place = if Instant::now() < until {
        shared.places.take(key, shared.metrics())
    } else {
        None
    };
    let Some(_place) = place else {
        return Err(refusal::in_progress(config));
    };
    let ended = timeout_at(until, joined.ended()).await;
    ended.map_err(|_| refusal::in_progress(config))
}

/// Waits for the verdict of the claim, however short the wait for another's execution may be: a claim of its own would take as
/// long, and nobody is told "in progress" of an operation that has its answer.
async fn claimed<St: Store>(
    shared: &Shared<St>,
    joined: &mut Joined,
    patience: &Patience,
) -> Result<Claimed, Problem> {
    if let Some(claimed) = joined.verdict() {
        return Ok(claimed);
    }
    let config = &shared.settings.config;
    let _place = shared
        .places
        .take_for_claim(shared.metrics())
        .ok_or_else(|| refusal::overloaded(config))?;
    let claimed = joined.claimed();
    match patience.deadline {
        None => Ok(claimed.await),
        Some(deadline) => timeout_at(deadline.moment(), claimed)
            .await
            .map_err(|elapsed| refusal::store_failed(&StoreError::unavailable(elapsed), config)),
    }
}

/// Waits until another owner's execution is over. Does not wait if the wait is over already, or too many do.
///
/// # Cancel safety
///
/// Cancel safe: a waiter holds no claim, no connection and no slot.
pub(crate) async fn until_over<St: Store>(
    shared: &Shared<St>,
    key: &KeyDigest,
    until: Instant,
) -> Waited {
    if until <= Instant::now() {
        return Waited::StillRunning;
    }
    match shared.places.take(key, shared.metrics()) {
        Some(_place) => shared.poller.until_over(key, until).await,
        None => Waited::StillRunning,
    }
}
