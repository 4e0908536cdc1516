use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use steadfast_core::idempotency::{Claim, Promise, Transition};
use steadfast_store::Store;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::shared::Shared;

/// Keeps a claim alive until it is dropped.
///
/// The renewals run in a task of their own: a caller that keeps the execution but stops polling it does not lose the lease.
pub(crate) struct Lease {
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
    /// Renews the lease of `claim`, which was asked for at `sent`.
    pub(crate) fn keep<St: Store>(
        shared: &Arc<Shared<St>>,
        claim: &Arc<Claim>,
        sent: Instant,
    ) -> Self {
        let (loser, lost) = oneshot::channel();
        let renewals = renew(Arc::clone(shared), Arc::clone(claim), sent, loser);
        Self {
            _renewals: AbortOnDropHandle::new(tokio::spawn(renewals.in_current_span())),
            lost,
        }
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
    loser: oneshot::Sender<Lost>,
) {
    let lease = shared.settings.config.lease;
    let mut loser = Some(loser);
    let mut acknowledged = sent;
    let mut next = sent + lease / 3;

    loop {
        sleep_until(next).await;
        let sent = Instant::now();
        let mut renewal = pin!(shared.store.renew(&claim, lease));
        let renewed = loop {
            let end = acknowledged + lease;
            tokio::select! {
                renewed = &mut renewal => break renewed,
                () = sleep_until(end), if may_be_taken_over(shared.settings.promise) && loser.is_some() => {
                    lose(&mut loser, Lost::Unacknowledged);
                }
            }
        };
        next = match renewed {
            Ok(Transition::Applied) => {
                acknowledged = sent;
                sent + lease / 3
            }
            Ok(Transition::Fenced) => {
                lose(&mut loser, Lost::Fenced);
                return;
            }
            Err(error) => {
                tracing::warn!(key = %claim.key().prefix(), %error, "a lease could not be renewed");
                Instant::now() + (lease / 10).min(Duration::from_secs(1))
            }
        };
    }
}

/// Under at most once nobody else starts the operation, so its owner may go on without the store.
const fn may_be_taken_over(promise: Promise) -> bool {
    !matches!(promise, Promise::AtMostOnce)
}

fn lose(loser: &mut Option<oneshot::Sender<Lost>>, lost: Lost) {
    if let Some(loser) = loser.take() {
        // The execution may have ended meanwhile.
        let _ = loser.send(lost);
    }
}
