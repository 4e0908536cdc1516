use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms, Transition};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Standing, Store, StoreError,
    StoreId, StoredResponse,
};

/// A store that remembers the keys of each look-up.
#[derive(Clone)]
pub(crate) struct Asked<S> {
    inner: S,
    looks: Arc<Mutex<Vec<Vec<KeyDigest>>>>,
}

impl<S> Asked<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            looks: Arc::default(),
        }
    }

    /// The keys of each look-up so far.
    pub(crate) fn looks(&self) -> Vec<Vec<KeyDigest>> {
        self.looks.lock().unwrap().clone()
    }
}

impl<S: Store> Store for Asked<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        self.inner.begin(key, terms).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        self.inner.renew(claim, lease).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        self.inner.complete(claim, response).await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        self.inner.abandon(claim, successor).await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        self.inner.release(claimant).await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        self.looks.lock().unwrap().push(keys.to_vec());
        self.inner.look_up(keys).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.inner.show(key).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.inner.list_indeterminate(limit).await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        self.inner.resolve(incident, resolution).await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        self.inner.reap(limit, indeterminate_retention).await
    }
}
