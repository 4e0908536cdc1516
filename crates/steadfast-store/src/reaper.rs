use std::{convert::Infallible, error::Error, num::NonZeroU32, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tokio::time::{Instant, sleep};

use crate::{Reaped, Store, StoreError};

/// When a [`Reaper`] works, and how much it does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaperConfig {
    name: &'static str,
    interval: Duration,
    batch: NonZeroU32,
    indeterminate_retention: Duration,
    count_interval: Duration,
}

impl ReaperConfig {
    /// `default`: most services have one store.
    pub const DEFAULT_NAME: &'static str = "default";
    /// 1 min between passes. Expiry is judged when a key is used, so a late reaper costs space and nothing else.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
    /// 1000 records in one step: a few milliseconds of the store's time.
    pub const DEFAULT_BATCH: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");
    /// 30 days from the end of the lease, for somebody to decide.
    pub const DEFAULT_INDETERMINATE_RETENTION: Duration = Duration::from_secs(30 * 86_400);
    /// 5 min between counts of indeterminate operations: somebody has days to decide them, and a count may read the whole table.
    pub const DEFAULT_COUNT_INTERVAL: Duration = Duration::from_secs(300);
    /// The most indeterminate operations that are counted. Whoever has more has to look anyway.
    pub const COUNT_LIMIT: u32 = 1000;

    /// What the metrics and the log call the store that is reaped. Where one process reaps several, give each a name of its own:
    /// under one name they overwrite each other's gauges. Default [`default`](Self::DEFAULT_NAME).
    #[must_use]
    pub const fn with_name(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

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

    /// How often [`Reaper::run`] counts the indeterminate operations for its metrics, at the first pass that is due; one process
    /// of a service is enough, and [`Duration::MAX`] is never after the first time. Default
    /// [5 min](Self::DEFAULT_COUNT_INTERVAL).
    #[must_use]
    pub const fn with_count_interval(self, count_interval: Duration) -> Self {
        Self {
            count_interval,
            ..self
        }
    }
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self {
            name: Self::DEFAULT_NAME,
            interval: Self::DEFAULT_INTERVAL,
            batch: Self::DEFAULT_BATCH,
            indeterminate_retention: Self::DEFAULT_INDETERMINATE_RETENTION,
            count_interval: Self::DEFAULT_COUNT_INTERVAL,
        }
    }
}

/// Removes records that no request needs any more, in small steps.
///
/// Any number may run, in any number of processes. Spawn [`run`](Self::run), or call [`pass`](Self::pass) from a scheduler.
///
/// It reports by the [`metrics`](https://docs.rs/metrics) facade, each with the label `store`
/// ([`with_name`](ReaperConfig::with_name)):
///
/// - `steadfast_idempotency_reaped_total`, label `change`: `deleted`, or `indeterminate` for a record that became so because its
///   owner was lost.
/// - From `run`, `steadfast_idempotency_indeterminate` (up to [`COUNT_LIMIT`](ReaperConfig::COUNT_LIMIT)) and
///   `steadfast_idempotency_indeterminate_oldest_seconds` (since the end of its lease; 0 if there is none): what an operator should
///   be woken by.
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
        let name = self.config.name;
        let batch = self.config.batch.get();
        let mut total = Reaped::default();
        loop {
            let reaped = self
                .store
                .reap(batch, self.config.indeterminate_retention)
                .await?;
            counter!(REAPED, "store" => name, "change" => "deleted").increment(reaped.deleted);
            counter!(REAPED, "store" => name, "change" => "indeterminate").increment(reaped.lapsed);
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
        describe();
        let store = self.config.name;
        let mut last_count = None;
        loop {
            match self.pass().await {
                Ok(Reaped {
                    deleted: 0,
                    lapsed: 0,
                }) => {}
                Ok(Reaped { deleted, lapsed }) => {
                    tracing::debug!(store, deleted, lapsed, "records were reaped");
                }
                Err(error) => {
                    let error: &(dyn Error + 'static) = &error;
                    tracing::warn!(store, error, "records could not be reaped");
                }
            }
            let is_due = |last: Instant| self.config.count_interval <= last.elapsed();
            if last_count.is_none_or(is_due) {
                last_count = Some(Instant::now());
                self.count_indeterminate().await;
            }
            sleep(self.config.interval).await;
        }
    }

    async fn count_indeterminate(&self) {
        let store = self.config.name;
        match self
            .store
            .list_indeterminate(ReaperConfig::COUNT_LIMIT)
            .await
        {
            Ok(incidents) => {
                let oldest = incidents.iter().map(|incident| incident.lapsed_for).max();
                gauge!(INDETERMINATE, "store" => store).set(f64::from(length(incidents.len())));
                gauge!(OLDEST, "store" => store).set(oldest.unwrap_or_default().as_secs_f64());
            }
            Err(error) => {
                let error: &(dyn Error + 'static) = &error;
                tracing::warn!(
                    store,
                    error,
                    "indeterminate operations could not be counted"
                );
            }
        }
    }
}

const REAPED: &str = "steadfast_idempotency_reaped_total";
const INDETERMINATE: &str = "steadfast_idempotency_indeterminate";
const OLDEST: &str = "steadfast_idempotency_indeterminate_oldest_seconds";

fn describe() {
    describe_counter!(
        REAPED,
        Unit::Count,
        "records reaped, by what became of them"
    );
    describe_gauge!(
        INDETERMINATE,
        Unit::Count,
        "operations whose owner was lost and that wait for a decision"
    );
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "how long the oldest of them has waited"
    );
}

fn length(incidents: usize) -> u32 {
    u32::try_from(incidents).expect("a store lists no more than it is asked for")
}
