use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use steadfast_core::idempotency::{Claim, Promise, Transition};
use steadfast_store::Store;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{
    shared::Shared,
    signal::{log, log_again},
};

/// Keeps a claim alive until it is dropped.
///
/// The renewals run in a task of their own: a caller that keeps the execution but stops polling it does not lose the lease.
pub(crate) struct Lease {
    length: Duration,
    /// When what was last acknowledged was asked for.
    acknowledged: watch::Receiver<Instant>,
    _renewals: AbortOnDropHandle<()>,
    lost: oneshot::Receiver<Lost>,
}

/// Why an execution must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The record has another owner, or is gone.
    Fenced,
    /// No renewal was acknowledged for a whole lease: another owner may have taken over.
    Unacknowledged,
}

impl Lease {
    /// Renews the lease of `claim`, which was asked for at `sent` and last known to stand by what was asked for when it was
    /// `acknowledged`.
    pub(crate) fn keep<St: Store>(
        shared: &Arc<Shared<St>>,
        claim: &Arc<Claim>,
        sent: Instant,
        acknowledged: Instant,
    ) -> Self {
        let (loser, lost) = oneshot::channel();
        let (acknowledge, acknowledgements) = watch::channel(acknowledged);
        let renewals = renew(
            Arc::clone(shared),
            Arc::clone(claim),
            sent,
            acknowledged,
            loser,
            acknowledge,
        );
        Self {
            length: shared.settings.config.lease,
            acknowledged: acknowledgements,
            _renewals: AbortOnDropHandle::new(tokio::spawn(renewals.in_current_span())),
            lost,
        }
    }

    /// When another owner may take over, as far as is known by now.
    pub(crate) fn end(&self) -> Instant {
        *self.acknowledged.borrow() + self.length
    }

    /// Tells at any time whether another owner may have taken over. The renewals say so too, once their task has run: after a
    /// pause of the whole process that may be later.
    pub(crate) fn overdue(&self, promise: Promise) -> impl Fn() -> bool + use<> {
        let takeover = may_be_taken_over(promise);
        let acknowledged = self.acknowledged.clone();
        let length = self.length;
        move || takeover && *acknowledged.borrow() + length <= Instant::now()
    }

    /// Ends when the execution must stop; otherwise never.
    pub(crate) async fn lost(&mut self) -> Lost {
        match (&mut self.lost).await {
            Ok(lost) => lost,
            Err(_) => pending().await,
        }
    }
}

async fn renew<St: Store>(
    shared: Arc<Shared<St>>,
    claim: Arc<Claim>,
    sent: Instant,
    acknowledged: Instant,
    loser: oneshot::Sender<Lost>,
    acknowledge: watch::Sender<Instant>,
) {
    let lease = shared.settings.config.lease;
    let mut fence = Fence {
        end: acknowledged + lease,
        takeover: may_be_taken_over(claim.promise()),
        loser: Some(loser),
    };
    let mut next = acknowledged + lease / 3;
    let mut failed = false;

    // Past it nothing runs: a caller that stopped polling does not keep its key for ever.
    let until = sent + shared.settings.config.max_execution;
    while next < until {
        fence.watch(sleep_until(next)).await;
        let sent = Instant::now();
        next = match fence.watch(shared.store.renew(&claim, lease)).await {
            Ok(Transition::Applied) => {
                failed = false;
                fence.end = sent + lease;
                acknowledge.send_replace(sent);
                sent + lease / 3
            }
            Ok(Transition::Fenced) => {
                fence.lose(Lost::Fenced);
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
    /// A lease after the sending of what was last acknowledged.
    end: Instant,
    takeover: bool,
    loser: Option<oneshot::Sender<Lost>>,
}

impl Fence {
    async fn watch<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return output,
                () = sleep_until(self.end), if self.takeover && self.loser.is_some() => {
                    self.lose(Lost::Unacknowledged);
                }
            }
        }
    }

    fn lose(&mut self, lost: Lost) {
        if let Some(loser) = self.loser.take() {
            // The execution may have ended meanwhile.
            let _ = loser.send(lost);
        }
    }
}
