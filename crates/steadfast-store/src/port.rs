use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast_core::idempotency::{
    Claim, Claimant, Fingerprint, KeyDigest, OwnerId, Terms, Transition,
};

use crate::{Capabilities, RecordSummary, StoreError, StoredResponse};

/// Keeps the records of operations.
///
/// # The contract
///
/// - Each transition is one atomic step that reports who won. Any number of callers, in any number of processes that can share
///   the store, see the same order of steps.
/// - The store's clock alone judges leases and retention.
/// - A transition compares the owner in the same step: a fenced owner changes nothing.
/// - An acknowledged transition is not forgotten, within the store's [`Capabilities`].
/// - A method bounds its own time. When it cannot tell whether the step was taken it answers an error that
///   [may have applied](StoreError::may_have_applied); the caller may then ask again: [`begin`](Self::begin),
///   [`renew`](Self::renew) and [`complete`](Self::complete) find their own work. The others, sent again after they were taken,
///   are fenced and change nothing.
/// - Durations are kept to the microsecond or better; a finer part is rounded up.
///
/// # Cancel safety
///
/// Dropping a future of these methods leaves the store consistent, and leaves open whether the step was taken, or will be: a
/// statement that is under way can land after a later call was answered.
///
/// # Implementing
///
/// Write plain `async fn`. Run `steadfast-testkit`'s conformance suite.
pub trait Store: Send + Sync + 'static {
    /// What the store can keep.
    fn capabilities(&self) -> Capabilities;

    /// Names this store within this process: equal for a store and its clones.
    ///
    /// A layer that finds a request claimed by another layer over the same store lets it pass. Two stores that were opened apart
    /// on the same records do not know each other.
    fn id(&self) -> StoreId;

    /// Claims the operation, or says why not.
    ///
    /// # Errors
    ///
    /// A claim may stand although no answer came, unless the error says that nothing was sent.
    fn begin(
        &self,
        key: &KeyDigest,
        terms: &Terms,
    ) -> impl Future<Output = Result<Begin, StoreError>> + Send;

    /// Gives the claim's lease its length again, counted from now. Revives the owner's own lapsed record, also from
    /// indeterminate.
    ///
    /// # Errors
    ///
    /// The lease may have been renewed although no answer came.
    fn renew(
        &self,
        claim: &Claim,
        lease: Duration,
    ) -> impl Future<Output = Result<Transition, StoreError>> + Send;

    /// Gives the operation its answer; also from indeterminate. Never makes a record. Sent again it is applied again and changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// The answer may be stored although no answer came.
    fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> impl Future<Output = Result<Transition, StoreError>> + Send;

    /// Gives the claim up without knowing what happened. The record goes to `successor`, a fresh owner that nobody is, so that a
    /// renewal under way is fenced.
    ///
    /// # Errors
    ///
    /// The claim may be given up although no answer came.
    fn abandon(
        &self,
        claim: &Claim,
        successor: OwnerId,
    ) -> impl Future<Output = Result<Transition, StoreError>> + Send;

    /// Removes the claimant's unfinished record: nothing happened.
    ///
    /// Takes the claimant and not its claim, so that a claim whose acknowledgement was lost can be released too.
    ///
    /// # Errors
    ///
    /// The record may be gone although no answer came.
    fn release(
        &self,
        claimant: &Claimant,
    ) -> impl Future<Output = Result<Transition, StoreError>> + Send;

    /// How the operations stand, in the order asked; one step for all. Changes nothing.
    ///
    /// # Errors
    ///
    /// See [`StoreError::kind`].
    fn look_up(
        &self,
        keys: &[KeyDigest],
    ) -> impl Future<Output = Result<Vec<Standing>, StoreError>> + Send;

    /// The record of an operation without its response, or `None`.
    ///
    /// # Errors
    ///
    /// See [`StoreError::kind`].
    fn show(
        &self,
        key: &KeyDigest,
    ) -> impl Future<Output = Result<Option<RecordSummary>, StoreError>> + Send;

    /// The indeterminate operations, longest lapsed first, `limit` at most. One whose lease is over under at most once is among
    /// them, whether or not anybody has asked since.
    ///
    /// # Errors
    ///
    /// See [`StoreError::kind`].
    fn list_indeterminate(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<RecordSummary>, StoreError>> + Send;

    /// Decides an indeterminate operation. Ownership changes in the same step, so that the lost owner is fenced.
    /// [`Transition::Fenced`]: the operation was not indeterminate, or not by this incident, and nothing changed.
    ///
    /// # Errors
    ///
    /// The decision may stand although no answer came.
    fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> impl Future<Output = Result<Transition, StoreError>> + Send;

    /// Removes up to `limit` records that no request needs any more, and turns those of lost owners indeterminate where that was
    /// promised; never a live lease. An indeterminate record stays for `indeterminate_retention` from the end of its lease, and
    /// never less than its own retention. Any number of reapers may run.
    ///
    /// # Errors
    ///
    /// Some records may have been reaped although no answer came.
    fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> impl Future<Output = Result<Reaped, StoreError>> + Send;
}

/// What [`Store::begin`] found, or did.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Begin {
    /// The asker owns the running record.
    Claimed(Claim),
    /// The operation has its answer.
    Completed {
        /// The answer.
        response: StoredResponse,
    },
    /// The record belongs to another request. It wins over every other verdict.
    Conflict {
        /// The fingerprint of the request it belongs to.
        fingerprint: Fingerprint,
    },
    /// The owner is lost and the operation waits for its resolution.
    Indeterminate,
    /// Another owner executes the operation.
    Running {
        /// What is left of its lease.
        lease_left: Duration,
    },
}

/// How an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Standing {
    /// There is no record, or one past its retention that the next claim replaces.
    Absent,
    /// The operation has its answer.
    Completed {
        /// The fingerprint of its request.
        fingerprint: Fingerprint,
        /// The answer.
        response: StoredResponse,
    },
    /// The owner is lost and the operation waits for its resolution.
    Indeterminate {
        /// The fingerprint of its request.
        fingerprint: Fingerprint,
    },
    /// The owner is lost and the next claim takes over.
    Lapsed,
    /// An owner executes the operation.
    Running {
        /// What is left of its lease.
        lease_left: Duration,
    },
}

/// An indeterminate operation and the owner that was lost: what a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incident {
    /// The operation.
    pub key: KeyDigest,
    /// The lost owner, as [`Store::show`] or [`Store::list_indeterminate`] told it.
    pub owner: OwnerId,
}

impl From<&RecordSummary> for Incident {
    fn from(record: &RecordSummary) -> Self {
        Self {
            key: record.key,
            owner: record.owner,
        }
    }
}

/// What an indeterminate operation turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It took effect; this is its answer.
    Complete {
        /// A fresh owner, which fences the lost one.
        resolver: OwnerId,
        /// The answer that replays get.
        response: StoredResponse,
        /// How long it answers replays, counted from now.
        retention: Duration,
    },
    /// It had no effect; the next request runs it.
    Release,
}

/// What one call of [`Store::reap`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Records removed.
    pub deleted: u64,
    /// Records of lost owners turned indeterminate.
    pub lapsed: u64,
}

/// Names a store and its clones within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreId(u64);

impl StoreId {
    /// A name no other store has. A store draws it once, at construction, and its clones share it.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "every call makes another name")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl<T: Store> Store for Arc<T> {
    fn capabilities(&self) -> Capabilities {
        T::capabilities(self)
    }

    fn id(&self) -> StoreId {
        T::id(self)
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        T::begin(self, key, terms).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        T::renew(self, claim, lease).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        T::complete(self, claim, response).await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        T::abandon(self, claim, successor).await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        T::release(self, claimant).await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        T::look_up(self, keys).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        T::show(self, key).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        T::list_indeterminate(self, limit).await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        T::resolve(self, incident, resolution).await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        T::reap(self, limit, indeterminate_retention).await
    }
}
