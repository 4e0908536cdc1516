use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Promise, Transition};
use steadfast_store::{Store, StoreError};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{
    join::Tie,
    shared::Shared,
    signal::{log, log_again},
};

/// Keeps a claim alive until it is dropped.
///
/// The renewals run in a task of their own, which the first wait starts, that for the claim included: a caller that keeps the
/// execution but stops polling it does not lose the lease, and an execution that never waits needs no task.
pub(crate) struct Lease<St> {
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    /// When the claim was asked for.
    sent: Instant,
    kept: Arc<Kept>,
    renewals: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Why an execution must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The record has another owner, or is gone.
    Fenced,
    /// No renewal was acknowledged for a whole lease: another owner may have taken over.
    Unacknowledged,
}

impl<St: Store> Lease<St> {
    /// Keeps the lease of `claim`, which was asked for at `sent` and last known to stand by what was asked for when it was
    /// `acknowledged`; `tie` is to those who joined.
    pub(crate) fn keep(
        shared: &Arc<Shared<St>>,
        claim: &Arc<Claim>,
        tie: Tie,
        sent: Instant,
        acknowledged: Instant,
    ) -> Self {
        tie.stands(acknowledged + shared.settings.config.lease);
        Self {
            shared: Arc::clone(shared),
            claim: Arc::clone(claim),
            sent,
            kept: Arc::new(Kept {
                state: Mutex::new(State {
                    acknowledged,
                    lost: None,
                    settles: false,
                }),
                told: Notify::new(),
                tie,
            }),
            renewals: Mutex::new(None),
        }
    }

    /// When another owner may take over, as far as is known by now.
    pub(crate) fn end(&self) -> Instant {
        self.kept.lock().acknowledged + self.shared.settings.config.lease
    }

    /// Tells at any time whether another owner may have taken over. The renewals say so too, once their task has run: after a
    /// pause of the whole process that may be later.
    pub(crate) fn overdue(&self, promise: Promise) -> impl Fn(Instant) -> bool + use<St> {
        let takeover = may_be_taken_over(promise);
        let length = self.shared.settings.config.lease;
        let kept = Arc::clone(&self.kept);
        move |now| takeover && kept.lock().acknowledged + length <= now
    }

    /// Ends when the execution must stop; otherwise never.
    pub(crate) async fn lost(&self) -> Lost {
        loop {
            let told = self.kept.told.notified();
            if let Some(lost) = self.kept.lock().lost {
                return lost;
            }
            told.await;
        }
    }

    /// Does a part of the execution. Where it waits, the renewals go on beside it.
    pub(crate) async fn during<F: Future>(&self, part: F) -> F::Output {
        let mut part = pin!(part);
        poll_fn(|cx| match part.as_mut().poll(cx) {
            Poll::Pending => {
                self.renew();
                Poll::Pending
            }
            ready => ready,
        })
        .await
    }

    /// Asks the store whether the claim stands.
    pub(crate) async fn confirm(&self) -> Result<Transition, StoreError> {
        let sent = Instant::now();
        let lease = self.shared.settings.config.lease;
        let renewed = self
            .during(self.shared.store.renew(&self.claim, lease))
            .await;
        if let Ok(Transition::Applied) = renewed {
            self.kept.acknowledge(sent, lease);
        }
        renewed
    }

    /// The record is being settled: from now on it may be gone, or another's, because of what is done here.
    pub(crate) fn settles(&self) {
        self.kept.lock().settles = true;
    }

    /// Starts the renewals, if they were not.
    pub(crate) fn renew(&self) {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        renewals.get_or_insert_with(|| {
            let renewals = renew(
                Arc::clone(&self.shared),
                Arc::clone(&self.claim),
                self.sent,
                Arc::clone(&self.kept),
            );
            AbortOnDropHandle::new(tokio::spawn(renewals.in_current_span()))
        });
    }
}

/// What a lease and its renewals know of each other.
struct Kept {
    // A std mutex: it is held for a look, never over an await.
    state: Mutex<State>,
    /// The lease was lost.
    told: Notify,
    tie: Tie,
}

struct State {
    /// When what was last acknowledged was asked for.
    acknowledged: Instant,
    lost: Option<Lost>,
    settles: bool,
}

impl Kept {
    /// The claim stood at `sent`.
    fn acknowledge(&self, sent: Instant, lease: Duration) {
        let mut state = self.lock();
        state.acknowledged = state.acknowledged.max(sent);
        if state.lost.is_none() {
            self.tie.stands(state.acknowledged + lease);
        }
    }

    /// The claim has another owner, or the record is settled.
    fn fenced(&self) {
        if !self.lock().settles {
            self.tie.cut();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn renew<St: Store>(
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    sent: Instant,
    kept: Arc<Kept>,
) {
    let lease = shared.settings.config.lease;
    let acknowledged = kept.lock().acknowledged;
    let mut fence = Fence {
        takeover: may_be_taken_over(claim.promise()),
        lost: false,
        lease,
        kept,
    };
    let mut next = acknowledged + lease / 3;
    let mut failed = false;

    // Past it nothing runs: a caller that stopped polling does not keep its key for ever.
    let until = sent + shared.settings.config.max_execution;
    while next < until {
        fence.watch(sleep_until(next)).await;
        let sent = Instant::now();
        let renewed = fence.watch(shared.store.renew(&claim, lease)).await;
        shared.metrics().renewed(&renewed);
        next = match renewed {
            Ok(Transition::Applied) => {
                failed = false;
                fence.kept.acknowledge(sent, lease);
                sent + lease / 3
            }
            Ok(Transition::Fenced) => {
                fence.lose(Lost::Fenced);
                fence.kept.fenced();
                return;
            }
            Err(error) => {
                if failed {
                    log_again(&error, "a lease could not be renewed");
                } else {
                    log(&error, "a lease could not be renewed");
                }
                failed = true;
                Instant::now() + (lease / 10).min(Duration::from_secs(1))
            }
        };
    }
    fence.watch(pending()).await
}

/// Whether another owner may start the operation once its lease is over. Under at most once nobody does, so that its owner may go
/// on without the store.
pub(crate) const fn may_be_taken_over(promise: Promise) -> bool {
    !matches!(promise, Promise::AtMostOnce)
}

/// Stops the execution at the moment when another owner may have taken over.
struct Fence {
    takeover: bool,
    lost: bool,
    lease: Duration,
    kept: Arc<Kept>,
}

impl Fence {
    async fn watch<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            let end = self.end();
            tokio::select! {
                output = &mut work => return output,
                // It may have been confirmed meanwhile.
                () = sleep_until(end), if self.takeover && !self.lost => if self.end() <= end {
                    self.lose(Lost::Unacknowledged);
                }
            }
        }
    }

    /// A lease after the sending of what was last acknowledged.
    fn end(&self) -> Instant {
        self.kept.lock().acknowledged + self.lease
    }

    fn lose(&mut self, lost: Lost) {
        if !self.lost {
            self.lost = true;
            self.kept.lock().lost = Some(lost);
            self.kept.told.notify_one();
        }
    }
}
