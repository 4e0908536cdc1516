use std::{convert::Infallible, error::Error, num::NonZeroU32, time::Duration};

use tokio::time::sleep;

use crate::{Reaped, Store, StoreError};

/// When a [`Reaper`] works, and how much it does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaperConfig {
    interval: Duration,
    batch: NonZeroU32,
    indeterminate_retention: Duration,
}

impl ReaperConfig {
    /// 1 min between passes. Expiry is judged when a key is used, so a late reaper costs space and nothing else.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
    /// 1000 records in one step: a few milliseconds of the store's time.
    pub const DEFAULT_BATCH: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");
    /// 30 days from the end of the lease, for somebody to decide.
    pub const DEFAULT_INDETERMINATE_RETENTION: Duration = Duration::from_secs(30 * 86_400);

    /// The pause between two passes; zero keeps the store busy without end. Default [1 min](Self::DEFAULT_INTERVAL).
    #[must_use]
    pub const fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// The most records that one step of the store removes. Default [1000](Self::DEFAULT_BATCH).
    #[must_use]
    pub const fn with_batch(self, batch: NonZeroU32) -> Self {
        Self { batch, ..self }
    }

    /// How long an indeterminate record is kept, counted from the end of its lease. After it, the next request with its key runs
    /// the operation anew. Default [30 days](Self::DEFAULT_INDETERMINATE_RETENTION).
    #[must_use]
    pub const fn with_indeterminate_retention(self, indeterminate_retention: Duration) -> Self {
        Self {
            indeterminate_retention,
            ..self
        }
    }
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self {
            interval: Self::DEFAULT_INTERVAL,
            batch: Self::DEFAULT_BATCH,
            indeterminate_retention: Self::DEFAULT_INDETERMINATE_RETENTION,
        }
    }
}

/// Removes records that no request needs any more, in small steps.
///
/// Any number may run, in any number of processes. Spawn [`run`](Self::run), or call [`pass`](Self::pass) from a scheduler.
#[derive(Clone, Debug)]
pub struct Reaper<St> {
    store: St,
    config: ReaperConfig,
}

/// Between two steps of a pass, so that a long one leaves the store room for requests.
const BREATH: Duration = Duration::from_millis(20);

impl<St: Store> Reaper<St> {
    /// A reaper of this store.
    pub const fn new(store: St, config: ReaperConfig) -> Self {
        Self { store, config }
    }

    /// Reaps until nothing is left to do.
    ///
    /// # Errors
    ///
    /// The first that the store answers; what was reaped before it stays so.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each step stands by itself.
    pub async fn pass(&self) -> Result<Reaped, StoreError> {
        let batch = self.config.batch.get();
        let mut total = Reaped::default();
        loop {
            let reaped = self
                .store
                .reap(batch, self.config.indeterminate_retention)
                .await?;
            total.deleted += reaped.deleted;
            total.lapsed += reaped.lapsed;
            if reaped.deleted + reaped.lapsed < u64::from(batch) {
                return Ok(total);
            }
            sleep(BREATH).await;
        }
    }

    /// Makes a pass, pauses, and goes on for ever. A failed pass is logged; the next one may succeed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each step stands by itself.
    pub async fn run(self) -> Infallible {
        loop {
            match self.pass().await {
                Ok(Reaped {
                    deleted: 0,
                    lapsed: 0,
                }) => {}
                Ok(Reaped { deleted, lapsed }) => {
                    tracing::debug!(deleted, lapsed, "records were reaped");
                }
                Err(error) => {
                    let error: &(dyn Error + 'static) = &error;
                    tracing::warn!(error, "records could not be reaped");
                }
            }
            sleep(self.config.interval).await;
        }
    }
}
