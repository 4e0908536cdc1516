use std::time::Duration;

use steadfast_core::{
    retry::StoppedBy,
    verdict::{Cause, Failure, SafetyClass},
};
use tracing::{Level, Span, level_filters::LevelFilter};

use crate::{
    metrics::{Metrics, Passed, reason},
    outcome::RetryOutcome,
};

/// An attempt that a time limit cut may have been processed.
pub(crate) const ELAPSED: Failure = Failure::new(SafetyClass::Transient, Cause::Elapsed);

/// The span of one attempt, after so many others.
pub(crate) fn attempt_span(previous: u32) -> Span {
    // The macro would ask `log` too, where a crate of the program has switched that on.
    if LevelFilter::current() < Level::INFO {
        return Span::none();
    }
    // OpenTelemetry sets the field on what is sent again, and only there.
    let resend_count = (previous > 0).then_some(previous);
    tracing::info_span!("attempt", http.request.resend_count = resend_count)
}

/// What a layer tells its operators.
pub(crate) struct Signals<'a> {
    layer: &'a str,
    metrics: &'a Metrics,
}

impl<'a> Signals<'a> {
    pub(crate) const fn new(layer: &'a str, metrics: &'a Metrics) -> Self {
        Self { layer, metrics }
    }

    /// Attempt number `attempt` will be made after `delay`.
    pub(crate) fn retrying(&self, failure: Failure, attempt: u32, delay: Duration) {
        let reason = reason(failure);
        self.metrics.retry(failure, delay);
        // A log is read by people: no nanoseconds.
        let delay = Duration::from_micros(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        tracing::info!(retry = self.layer, attempt, reason, ?delay, "retrying");
    }

    /// A call has ended.
    pub(crate) fn stopped(&self, outcome: RetryOutcome) {
        self.metrics.call(outcome.stopped_by());
        if outcome.goes_without_saying() {
            return;
        }
        let (attempts, stopped_by) = (outcome.attempts(), outcome.stopped_by());
        match stopped_by {
            StoppedBy::Success
            | StoppedBy::Ignored
            | StoppedBy::Permanent
            | StoppedBy::NotIdempotent => {
                let stopped_by = stopped_by.as_str();
                tracing::debug!(retry = self.layer, attempts, stopped_by, "done");
            }
            StoppedBy::Attempts
            | StoppedBy::Body
            | StoppedBy::Hint
            | StoppedBy::Deadline
            | StoppedBy::Budget
            | StoppedBy::Unready
            | _ => {
                let stopped_by = stopped_by.as_str();
                tracing::warn!(retry = self.layer, attempts, stopped_by, "not retried");
            }
        }
    }

    /// A request goes on that cannot be retried, for this reason.
    pub(crate) fn passed(&self, because: Passed) {
        self.metrics.passed(because);
    }
}
