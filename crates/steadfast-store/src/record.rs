use std::{fmt, time::Duration};

use bytes::Bytes;
use steadfast_core::idempotency::{Execution, KeyDigest, OwnerId, Promise};

/// A response as a store keeps it: bytes it does not read, with the version of their format.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse {
    format: u16,
    bytes: Bytes,
}

impl StoredResponse {
    /// Bytes in the format of this version.
    pub fn new(format: u16, bytes: impl Into<Bytes>) -> Self {
        Self {
            format,
            bytes: bytes.into(),
        }
    }

    /// The version of the format.
    #[must_use]
    pub const fn format(&self) -> u16 {
        self.format
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("format", &self.format)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A record without its response: what an operator may see.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordSummary {
    /// The operation.
    pub key: KeyDigest,
    /// The present owner; names the incident if the record is indeterminate.
    pub owner: OwnerId,
    /// The present run.
    pub execution: Execution,
    /// The promise its claim froze.
    pub promise: Promise,
    /// Where in its life it is.
    pub stage: Stage,
    /// Time since the first claim of its life.
    pub age: Duration,
    /// Time since its lease was over; zero while the lease lives.
    pub lapsed_for: Duration,
}

impl RecordSummary {
    /// What a store read of a record.
    #[must_use]
    pub const fn new(
        key: KeyDigest,
        owner: OwnerId,
        execution: Execution,
        promise: Promise,
        stage: Stage,
    ) -> Self {
        Self {
            key,
            owner,
            execution,
            promise,
            stage,
            age: Duration::ZERO,
            lapsed_for: Duration::ZERO,
        }
    }

    /// Adds the times, both measured by the store's clock.
    #[must_use]
    pub const fn with_times(self, age: Duration, lapsed_for: Duration) -> Self {
        Self {
            age,
            lapsed_for,
            ..self
        }
    }
}

/// Where in its life a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The operation has its answer.
    Completed,
    /// The owner is lost and nobody may run the operation again until it is resolved.
    Indeterminate,
    /// An owner executes it, or is lost and may be taken over.
    Running,
}
