//! A store whose calls fail, stall and lose their answers on command.
//!
//! ```
//! use std::time::Duration;
//! use steadfast_core::idempotency::{Fingerprint, KeyDigest, OwnerId, Promise, Terms};
//! use steadfast_store::{Begin, MemoryStore, Store};
//! use steadfast_testkit::faults::{FaultyStore, Method};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = FaultyStore::new(MemoryStore::default());
//! let faults = store.faults();
//! faults.on(Method::Begin).lose_acknowledgement(1);
//!
//! let key = KeyDigest::from_bytes([1; 32]);
//! let terms = Terms {
//!     owner: OwnerId::from_bytes([2; 16]),
//!     fingerprint: Fingerprint::new(1, [3; 32]),
//!     promise: Promise::AtMostOnce,
//!     lease: Duration::from_secs(30),
//!     retention: Duration::from_secs(86_400),
//! };
//! assert!(store.begin(&key, &terms).await.unwrap_err().may_have_applied());
//! assert!(matches!(store.begin(&key, &terms).await, Ok(Begin::Claimed(_))));
//! assert_eq!(faults.calls(Method::Begin), 2);
//! # }
//! ```

mod script;

use std::{future::Future, time::Duration};

use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Standing, Store, StoreError,
    StoreId, StoredResponse, Transition,
};

use self::script::{Fault, Place};
pub use self::script::{Faults, Gate, Method, Script};

/// Every call from now on, until [`Faults::heal`].
pub const FOREVER: u64 = u64::MAX;

/// A store that behaves as its [`Faults`] say, and as the store within where they say nothing.
///
/// Each call takes one fault off the script of its method when it is first polled. Clones share the script.
#[derive(Clone, Debug)]
pub struct FaultyStore<S> {
    inner: S,
    faults: Faults,
}

impl<S> FaultyStore<S> {
    /// A store without faults yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            faults: Faults::default(),
        }
    }

    /// The handle that scripts this store and counts its calls.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The store within, which no fault touches.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The store within, which no fault touches.
    pub fn into_inner(self) -> S {
        self.inner
    }

    async fn step<T>(
        &self,
        method: Method,
        step: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let call = self.faults.enter(method);
        let answer = match self.faults.next(method) {
            None => step.await,
            Some(Fault::FailUnsent) => {
                Err(StoreError::unavailable("scripted: nothing was sent").with_nothing_sent())
            }
            Some(Fault::LoseRequest) => {
                Err(StoreError::unavailable("scripted: the request was lost"))
            }
            Some(Fault::LoseAcknowledgement) => {
                let _ = step.await?;
                Err(StoreError::unavailable(
                    "scripted: the acknowledgement was lost",
                ))
            }
            Some(Fault::Refuse) => Err(StoreError::refused("scripted: refused")),
            Some(Fault::Misconfigure) => Err(StoreError::misconfigured("scripted: misconfigured")),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                step.await
            }
            Some(Fault::Hold(Place::Before, gate)) => {
                gate.pass().await;
                step.await
            }
            Some(Fault::Hold(Place::After, gate)) => {
                let answer = step.await;
                gate.pass().await;
                answer
            }
        };
        call.answered();
        answer
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        self.step(Method::Begin, self.inner.begin(key, terms)).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        self.step(Method::Renew, self.inner.renew(claim, lease))
            .await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        self.step(Method::Complete, self.inner.complete(claim, response))
            .await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        self.step(Method::Abandon, self.inner.abandon(claim, successor))
            .await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        self.step(Method::Release, self.inner.release(claimant))
            .await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        self.step(Method::LookUp, self.inner.look_up(keys)).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.step(Method::Show, self.inner.show(key)).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.step(
            Method::ListIndeterminate,
            self.inner.list_indeterminate(limit),
        )
        .await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        self.step(Method::Resolve, self.inner.resolve(incident, resolution))
            .await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        self.step(
            Method::Reap,
            self.inner.reap(limit, indeterminate_retention),
        )
        .await
    }
}
