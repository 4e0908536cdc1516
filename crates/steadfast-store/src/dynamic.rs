use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms, Transition};

use crate::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Standing, Store, StoreError,
    StoreId, StoredResponse,
};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store whose type is chosen at run time: one box for each call.
#[derive(Clone)]
pub struct DynStore(Arc<dyn Erased>);

impl DynStore {
    /// Hides the type of `store`.
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for DynStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynStore")
            .field("capabilities", &self.0.capabilities())
            .finish_non_exhaustive()
    }
}

trait Erased: Send + Sync + 'static {
    fn capabilities(&self) -> Capabilities;
    fn id(&self) -> StoreId;
    fn begin<'a>(&'a self, key: &'a KeyDigest, terms: &'a Terms) -> BoxFuture<'a, Begin>;
    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> BoxFuture<'a, Transition>;
    fn complete<'a>(
        &'a self,
        claim: &'a Claim,
        response: &'a StoredResponse,
    ) -> BoxFuture<'a, Transition>;
    fn abandon<'a>(&'a self, claim: &'a Claim, successor: OwnerId) -> BoxFuture<'a, Transition>;
    fn release<'a>(&'a self, claimant: &'a Claimant) -> BoxFuture<'a, Transition>;
    fn look_up<'a>(&'a self, keys: &'a [KeyDigest]) -> BoxFuture<'a, Vec<Standing>>;
    fn show<'a>(&'a self, key: &'a KeyDigest) -> BoxFuture<'a, Option<RecordSummary>>;
    fn list_indeterminate(&self, limit: u32) -> BoxFuture<'_, Vec<RecordSummary>>;
    fn resolve<'a>(
        &'a self,
        incident: &'a Incident,
        resolution: &'a Resolution,
    ) -> BoxFuture<'a, Transition>;
    fn reap(&self, limit: u32, indeterminate_retention: Duration) -> BoxFuture<'_, Reaped>;
}

impl<T: Store> Erased for T {
    fn capabilities(&self) -> Capabilities {
        Store::capabilities(self)
    }

    fn id(&self) -> StoreId {
        Store::id(self)
    }

    fn begin<'a>(&'a self, key: &'a KeyDigest, terms: &'a Terms) -> BoxFuture<'a, Begin> {
        Box::pin(Store::begin(self, key, terms))
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> BoxFuture<'a, Transition> {
        Box::pin(Store::renew(self, claim, lease))
    }

    fn complete<'a>(
        &'a self,
        claim: &'a Claim,
        response: &'a StoredResponse,
    ) -> BoxFuture<'a, Transition> {
        Box::pin(Store::complete(self, claim, response))
    }

    fn abandon<'a>(&'a self, claim: &'a Claim, successor: OwnerId) -> BoxFuture<'a, Transition> {
        Box::pin(Store::abandon(self, claim, successor))
    }

    fn release<'a>(&'a self, claimant: &'a Claimant) -> BoxFuture<'a, Transition> {
        Box::pin(Store::release(self, claimant))
    }

    fn look_up<'a>(&'a self, keys: &'a [KeyDigest]) -> BoxFuture<'a, Vec<Standing>> {
        Box::pin(Store::look_up(self, keys))
    }

    fn show<'a>(&'a self, key: &'a KeyDigest) -> BoxFuture<'a, Option<RecordSummary>> {
        Box::pin(Store::show(self, key))
    }

    fn list_indeterminate(&self, limit: u32) -> BoxFuture<'_, Vec<RecordSummary>> {
        Box::pin(Store::list_indeterminate(self, limit))
    }

    fn resolve<'a>(
        &'a self,
        incident: &'a Incident,
        resolution: &'a Resolution,
    ) -> BoxFuture<'a, Transition> {
        Box::pin(Store::resolve(self, incident, resolution))
    }

    fn reap(&self, limit: u32, indeterminate_retention: Duration) -> BoxFuture<'_, Reaped> {
        Box::pin(Store::reap(self, limit, indeterminate_retention))
    }
}

impl Store for DynStore {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn id(&self) -> StoreId {
        self.0.id()
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        self.0.begin(key, terms).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        self.0.renew(claim, lease).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        self.0.complete(claim, response).await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        self.0.abandon(claim, successor).await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        self.0.release(claimant).await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        self.0.look_up(keys).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.0.show(key).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.0.list_indeterminate(limit).await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        self.0.resolve(incident, resolution).await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        self.0.reap(limit, indeterminate_retention).await
    }
}
