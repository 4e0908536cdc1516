use std::{error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use steadfast_core::idempotency::{IdempotencyKey, KeyDigest, MalformedKey, OwnerId, Transition};
use steadfast_store::{Incident, RecordSummary, Resolution, Store, StoreError};
use tokio::time::timeout;

use crate::{digest, record::Record, scope::Principal, shared::Shared};

/// What operators hold of a layer: it waits for running operations at shutdown, and decides indeterminate ones.
pub struct IdempotencyHandle<St> {
    shared: Arc<Shared<St>>,
}

impl<St: Store> IdempotencyHandle<St> {
    pub(crate) const fn new(shared: Arc<Shared<St>>) -> Self {
        Self { shared }
    }

    /// The store of the layer.
    #[must_use]
    pub fn store(&self) -> &St {
        &self.shared.store
    }

    /// How many operations run now, those whose callers left and those whose answers are still being stored included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.running()
    }

    /// Waits until nothing runs, and no claim is being released in the background, `limit` at most. A web server's graceful
    /// shutdown waits for connections; operations whose callers left, and answers that the store has not acknowledged, go on
    /// without one. Stop accepting requests first: an operation that starts meanwhile is waited for too.
    ///
    /// # Errors
    ///
    /// [`Undrained`] if something is left at the limit. A runtime that stops then cuts it: its record is left to its lease.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only the wait ends.
    pub async fn drain(&self, limit: Duration) -> Result<(), Undrained> {
        let tracker = &self.shared.tracker;
        // A closed tracker still takes new work; closing is what lets a wait end.
        tracker.close();
        timeout(limit, tracker.wait()).await.map_err(|_| Undrained {
            running: self.shared.running(),
        })
    }

    /// The digest that names the operation of this principal and this key, as its client sent it, in this layer's name space: what
    /// [`show`](Self::show) asks for.
    ///
    /// # Errors
    ///
    /// [`MalformedKey`] if no request could have had this key.
    pub fn key(&self, principal: &Principal, key: &[u8]) -> Result<KeyDigest, MalformedKey> {
        let key = IdempotencyKey::parse(key)?;
        let namespace = &self.shared.settings.config.namespace;
        Ok(digest::key(&digest::scope(namespace, principal), &key))
    }

    /// The record of an operation, without its answer.
    ///
    /// # Errors
    ///
    /// See [`Store::show`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.shared.store.show(key).await
    }

    /// The indeterminate operations of the store, those of other name spaces included, longest lapsed first, `limit` at most.
    ///
    /// # Errors
    ///
    /// See [`Store::list_indeterminate`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.shared.store.list_indeterminate(limit).await
    }

    /// Decides that an indeterminate operation took effect: replays get `answer` for as long as the layer's retention, counted
    /// from now. The headers that are never stored are left out, and the lost owner is fenced.
    ///
    /// # Errors
    ///
    /// See [`Store::resolve`]. Asked again after a lost acknowledgement it answers [`Transition::Fenced`].
    ///
    /// # Cancel safety
    ///
    /// The decision stands or not, as after a lost acknowledgement.
    pub async fn resolve_completed(
        &self,
        incident: &Incident,
        answer: Response<Bytes>,
    ) -> Result<Transition, StoreError> {
        let mut resolver = [0; 16];
        getrandom::fill(&mut resolver)
            .map_err(|error| StoreError::unavailable(error).with_nothing_sent())?;
        let (head, body) = answer.into_parts();
        let resolution = Resolution::Complete {
            resolver: OwnerId::from_bytes(resolver),
            response: Record::whole(&head, body, None).encode(),
            retention: self.shared.settings.config.retention,
        };
        self.shared.store.resolve(incident, &resolution).await
    }

    /// Decides that an indeterminate operation had no effect: the next request with its key executes it.
    ///
    /// # Errors
    ///
    /// See [`Store::resolve`].
    ///
    /// # Cancel safety
    ///
    /// The decision stands or not, as after a lost acknowledgement.
    pub async fn resolve_released(&self, incident: &Incident) -> Result<Transition, StoreError> {
        self.shared
            .store
            .resolve(incident, &Resolution::Release)
            .await
    }
}

// By hand: a derived one would ask for `St: Clone`.
impl<St> Clone for IdempotencyHandle<St> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<St> fmt::Debug for IdempotencyHandle<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyHandle")
            .field("shared", &self.shared)
            .finish()
    }
}

/// Something was left when a drain reached its limit: operations, or claims that are being released in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undrained {
    running: usize,
}

impl Undrained {
    /// How many operations still ran; zero if only claims were being released.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }
}

impl fmt::Display for Undrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the limit was reached with {} operations running, or claims still being released",
            self.running
        )
    }
}

impl Error for Undrained {}
