//! Counts of calls that good ones leave alone, as far as they can, and that no late call can change.

mod calls;
mod run;
mod time;

use std::time::Instant;

use super::{
    config::{RateRule, Window},
    state::Counts,
};

pub(super) use self::run::Run;
use self::{calls::CallWindow, time::TimeWindow};

/// The part of calls that is too large.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Billionths: what is a whole part in decimals stays one.
    rate: u64,
    minimum: u64,
}

const BILLION: u64 = 1_000_000_000;

impl Limit {
    fn is_reached(self, counts: Counts) -> bool {
        counts.calls >= self.minimum && is_part(counts, self.rate)
    }
}

/// Whether so many billionths of the calls failed, or more.
fn is_part(counts: Counts, billionths: u64) -> bool {
    let failures = u128::from(counts.failures) * u128::from(BILLION);
    failures >= u128::from(counts.calls) * u128::from(billionths)
}

/// A rate in billionths.
pub(super) fn billionths(rate: f64) -> u64 {
    (rate * BILLION as f64).round() as u64
}

/// Whether this rate of the calls failed, or more.
pub(super) fn is_rate_reached(counts: Counts, rate: f64) -> bool {
    is_part(counts, billionths(rate))
}

/// How many of the calls in a window failed.
#[derive(Debug)]
pub(super) struct RateWindow {
    limit: Limit,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Calls(CallWindow),
    Time(TimeWindow),
}

impl RateWindow {
    pub(super) fn new(rule: &RateRule, origin: Instant) -> Self {
        let kind = match rule.window {
            Window::Calls(calls) => Kind::Calls(CallWindow::new(calls)),
            Window::Time(time) => Kind::Time(TimeWindow::new(time, origin)),
        };
        Self {
            limit: Limit {
                rate: billionths(rule.rate),
                minimum: rule.minimum.into(),
            },
            kind,
        }
    }

    pub(super) const fn needs_clock(&self) -> bool {
        match self.kind {
            Kind::Calls(_) => false,
            Kind::Time(_) => true,
        }
    }

    /// Takes note of a call, and tells the counts if they are too bad.
    #[inline]
    pub(super) fn record(
        &self,
        generation: u64,
        failed: bool,
        now: impl FnOnce() -> Instant,
    ) -> Option<Counts> {
        match &self.kind {
            Kind::Calls(window) => window.record(generation, failed, self.limit),
            Kind::Time(window) => window.record(generation, failed, now(), self.limit),
        }
    }

    pub(super) fn counts(&self, generation: u64, now: Instant) -> Counts {
        match &self.kind {
            Kind::Calls(window) => window.counts(generation),
            Kind::Time(window) => window.counts(generation, now),
        }
    }
}

/// Threads of a model are one thread of the system: they name their lanes.
#[cfg(all(loom, test))]
impl RateWindow {
    pub(super) fn with_lanes(
        self,
        time: std::time::Duration,
        origin: Instant,
        lanes: usize,
    ) -> Self {
        Self {
            kind: Kind::Time(TimeWindow::with_lanes(time, origin, lanes)),
            ..self
        }
    }

    pub(super) fn record_in(
        &self,
        lane: usize,
        generation: u64,
        failed: bool,
        now: Instant,
    ) -> Option<Counts> {
        match &self.kind {
            Kind::Calls(window) => window.record(generation, failed, self.limit),
            Kind::Time(window) => window.record_in(lane, generation, failed, now, self.limit),
        }
    }
}
