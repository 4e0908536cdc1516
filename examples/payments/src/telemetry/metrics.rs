use std::{convert::Infallible, fmt, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::sleep;

use super::{charges, requests};
use crate::failure::Failure;

/// Of the database, in seconds. A claim in memory or in SQLite takes tenths of a millisecond, one over a network some; a commit
/// that waits for a disk takes ten. A store gives a claim up after 2 s, and a try to keep an answer after 5 s.
const OF_THE_STORE: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0,
];

/// Of requests in either direction, in seconds. Answers that are replayed take a millisecond, charges what the card provider
/// takes. 2 s is the limit of one attempt, and what a duplicate waits for at most; three attempts and their waits stay below 10 s.
const OF_REQUESTS: [f64; 12] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0,
];

/// Of the waits between attempts, in seconds. Chance spreads each from zero up to 50 ms and then 100 ms; a provider that asks for
/// more is waited for up to 2 s, and chance adds to that.
const OF_WAITS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];

/// How often samples are put into their buckets. Until then each takes 8 bytes, and a scraper may be gone for days.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The metrics of the whole process, as Prometheus reads them.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of the process. To be called before any layer is used: what a layer counts goes to the recorder that
    /// it finds at its first request, and nowhere else ever after.
    ///
    /// # Errors
    ///
    /// There is one already.
    pub fn install() -> Result<Self, Failure> {
        let buckets = [
            (
                Matcher::Prefix("steadfast_idempotency_".to_owned()),
                &OF_THE_STORE[..],
            ),
            (
                Matcher::Full("steadfast_retry_delay_seconds".to_owned()),
                &OF_WAITS,
            ),
        ];
        let failed = |error| Failure::because("failed to install the recorder of metrics", error);
        // The default too, so that no histogram is a summary: summaries of several processes cannot be added up.
        let mut builder = PrometheusBuilder::new()
            .set_buckets(&OF_REQUESTS)
            .map_err(failed)?;
        for (matcher, values) in buckets {
            builder = builder
                .set_buckets_for_metric(matcher, values)
                .map_err(failed)?;
        }
        let metrics = Self(builder.install_recorder().map_err(failed)?);
        requests::describe();
        charges::register();
        Ok(metrics)
    }

    /// Of a recorder that nothing is told.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self(PrometheusBuilder::new().build_recorder().handle())
    }

    /// What a scraper gets, in the text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Bounds the memory that samples take while nobody scrapes, for ever.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each round stands by itself.
    pub async fn keep_up(self) -> Infallible {
        loop {
            sleep(UPKEEP_INTERVAL).await;
            self.0.run_upkeep();
            tracing::trace!("samples were put into their buckets");
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
