//! A store that is asked again while it is unavailable, for clauses that put it under load: a slow disk is no failure.

use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms, Transition};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Standing, Store, StoreError,
    StoreErrorKind, StoreId, StoredResponse,
};
use tokio::time::{Instant, sleep};

use super::Bench;

/// How long one call is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks again what may be asked again: what finds its own work always, everything else when the error says that nothing was
/// sent. An answer that is not an error is handed on as it is.
pub(super) struct Patient<S> {
    store: S,
    doubts: AtomicU64,
}

impl<S> Patient<S> {
    /// Answers that left open whether the step was taken.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    async fn again<T, F>(
        &self,
        call: impl Fn() -> F,
        may: impl Fn(&StoreError) -> bool,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let start = Instant::now();
        loop {
            let answer = call().await;
            let Err(error) = &answer else {
                return answer;
            };
            if error.kind() != StoreErrorKind::Unavailable {
                return answer;
            }
            if error.may_have_applied() {
                self.doubts.fetch_add(1, Ordering::Relaxed);
            }
            if !may(error) || start.elapsed() > PATIENCE {
                return answer;
            }
            sleep(PAUSE).await;
        }
    }
}

/// A handle on the bench's records that is asked again.
pub(super) fn patient<B: Bench>(bench: &B) -> Patient<B::Store> {
    Patient {
        store: bench.store(),
        doubts: AtomicU64::new(0),
    }
}

const fn always(_: &StoreError) -> bool {
    true
}

const fn when_nothing_was_sent(error: &StoreError) -> bool {
    !error.may_have_applied()
}

impl<S: Store> Store for Patient<S> {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn id(&self) -> StoreId {
        self.store.id()
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        self.again(|| self.store.begin(key, terms), always).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        self.again(|| self.store.renew(claim, lease), always).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        self.again(|| self.store.complete(claim, response), always)
            .await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        self.again(
            || self.store.abandon(claim, successor),
            when_nothing_was_sent,
        )
        .await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        self.again(|| self.store.release(claimant), when_nothing_was_sent)
            .await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        self.again(|| self.store.look_up(keys), always).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.again(|| self.store.show(key), always).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.again(|| self.store.list_indeterminate(limit), always)
            .await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        self.again(
            || self.store.resolve(incident, resolution),
            when_nothing_was_sent,
        )
        .await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        self.again(
            || self.store.reap(limit, indeterminate_retention),
            when_nothing_was_sent,
        )
        .await
    }
}
