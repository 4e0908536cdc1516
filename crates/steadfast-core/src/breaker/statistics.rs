use std::{cell::LazyCell, time::Instant};

use super::{
    config::Rules,
    outcome::{Outcome, Report},
    state::{Counts, Reason, Trip},
    window::{RateWindow, Run},
};

/// What the outcomes of calls say of their destination, shared between threads.
///
/// Takes no lock and allocates nothing. While a destination is in good health, a run of failures and a window of calls are only
/// read; a window of time is written to, and is the only one that asks for the time.
#[derive(Debug)]
pub struct Statistics {
    rules: Rules,
    run: Option<Run>,
    failures: Option<RateWindow>,
    slow: Option<RateWindow>,
}

impl Statistics {
    /// Those that the rules ask for. `now` is the beginning of their time.
    #[must_use]
    pub fn new(rules: &Rules, now: Instant) -> Self {
        let config = rules.config();
        Self {
            rules: *rules,
            run: config.consecutive_failures.map(Run::new),
            failures: config
                .failure_rate
                .as_ref()
                .map(|rule| RateWindow::new(rule, now)),
            slow: config
                .slow_calls
                .as_ref()
                .map(|slow| RateWindow::new(&slow.rule, now)),
        }
    }

    /// Whether it matters how long a call took.
    #[must_use]
    pub const fn times_calls(&self) -> bool {
        self.slow.is_some()
    }

    /// Whether the call of this report took too long.
    #[must_use]
    pub fn is_slow(&self, report: &Report) -> bool {
        self.rules.is_slow(report.took)
    }

    /// Whether [`record`](Self::record) asks for the time.
    #[must_use]
    pub const fn needs_clock(&self) -> bool {
        let failures = match &self.failures {
            Some(window) => window.needs_clock(),
            None => false,
        };
        let slow = match &self.slow {
            Some(window) => window.needs_clock(),
            None => false,
        };
        failures || slow
    }

    /// Takes note of a call that was admitted in this generation, and says whether it is time to stop. `now` is asked once at most.
    ///
    /// Of a generation that is over, nothing is counted.
    #[inline]
    pub fn record(
        &self,
        generation: u64,
        report: &Report,
        now: impl FnOnce() -> Instant,
    ) -> Option<Trip> {
        let (failed, throttled) = match report.outcome {
            Outcome::Success => (false, false),
            Outcome::Failure => (true, false),
            Outcome::Throttled => (true, true),
            Outcome::Ignored => return None,
        };
        let now = LazyCell::new(now);

        // Each of them counts, whatever the others say.
        let run = self.run.as_ref().and_then(|run| {
            if failed {
                (!throttled).then(|| run.failed(generation)).flatten()
            } else {
                run.succeeded(generation);
                None
            }
        });
        let failures = self
            .failures
            .as_ref()
            .and_then(|window| window.record(generation, failed, || *now));
        let slow = self
            .slow
            .as_ref()
            .and_then(|window| window.record(generation, self.rules.is_slow(report.took), || *now));

        run.map(|run| (Reason::ConsecutiveFailures, counts_of_run(run)))
            .or_else(|| failures.map(|counts| (Reason::FailureRate, counts)))
            .or_else(|| slow.map(|counts| (Reason::SlowCalls, counts)))
            .map(|(reason, counts)| Trip { reason, counts })
    }

    /// How many calls of this generation failed in a row.
    #[must_use]
    pub fn consecutive_failures(&self, generation: u64) -> u32 {
        self.run.as_ref().map_or(0, |run| run.length(generation))
    }

    /// What is in the window of the failure rate, if there is one.
    #[must_use]
    pub fn failures(&self, generation: u64, now: Instant) -> Option<Counts> {
        let window = self.failures.as_ref()?;
        Some(window.counts(generation, now))
    }

    /// What is in the window of slow calls, if there is one: those that count as failures were slow.
    #[must_use]
    pub fn slow_calls(&self, generation: u64, now: Instant) -> Option<Counts> {
        let window = self.slow.as_ref()?;
        Some(window.counts(generation, now))
    }
}

fn counts_of_run(run: u32) -> Counts {
    Counts {
        calls: run.into(),
        failures: run.into(),
    }
}
