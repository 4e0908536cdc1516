use std::time::Duration;

use metrics::{
    Counter, Histogram, Label, Unit, counter, describe_counter, describe_histogram, histogram,
};
use steadfast_core::{
    retry::StoppedBy,
    verdict::{Cause, Failure, SafetyClass},
};

/// Why a request could not be retried from the start.
#[derive(Clone, Copy)]
pub(crate) enum Passed {
    /// It says that its body is larger than what is kept.
    Body,
    /// The budget had no token.
    Budget,
}

/// The handles of a layer's metrics. A handle belongs to the recorder that is installed when it is made.
pub(crate) struct Metrics {
    calls: Vec<Counter>,
    retries: Vec<(&'static str, Counter)>,
    delay: Histogram,
    passed_body: Counter,
    passed_budget: Counter,
}

const CALLS: &str = "steadfast_retry_calls_total";
const RETRIES: &str = "steadfast_retry_retries_total";
const DELAY: &str = "steadfast_retry_delay_seconds";
const PASSED: &str = "steadfast_retry_passed_total";

impl Metrics {
    pub(crate) fn new(layer: &str) -> Self {
        describe();
        let layer = layer.to_owned();
        let labelled = |name: &'static str, value: &'static str| {
            vec![Label::new("layer", layer.clone()), Label::new(name, value)]
        };
        let calls =
            |stopped_by: &StoppedBy| counter!(CALLS, labelled("stopped_by", stopped_by.as_str()));
        let retries = |reason| (reason, counter!(RETRIES, labelled("reason", reason)));
        Self {
            calls: StoppedBy::ALL.iter().map(calls).collect(),
            retries: reasons().map(retries).collect(),
            delay: histogram!(DELAY, vec![Label::new("layer", layer.clone())]),
            passed_body: counter!(PASSED, labelled("because", StoppedBy::Body.as_str())),
            passed_budget: counter!(PASSED, labelled("because", StoppedBy::Budget.as_str())),
        }
    }

    pub(crate) fn call(&self, stopped_by: StoppedBy) {
        if let Some(calls) = self.calls.get(stopped_by as usize) {
            calls.increment(1);
        }
    }

    pub(crate) fn retry(&self, failure: Failure, delay: Duration) {
        let reason = reason(failure);
        if let Some((_, retries)) = self.retries.iter().find(|(word, _)| *word == reason) {
            retries.increment(1);
        }
        self.delay.record(delay);
    }

    pub(crate) fn passed(&self, because: Passed) {
        match because {
            Passed::Body => self.passed_body.increment(1),
            Passed::Budget => self.passed_budget.increment(1),
        }
    }
}

/// Why an attempt failed, in one word.
pub(crate) const fn reason(failure: Failure) -> &'static str {
    match failure.class() {
        SafetyClass::NotProcessed => "not_processed",
        SafetyClass::Transient | SafetyClass::Permanent | _ => failure.cause().as_str(),
    }
}

/// Every word that [`reason`] has.
fn reasons() -> impl Iterator<Item = &'static str> {
    let not_processed = Failure::new(SafetyClass::NotProcessed, Cause::Fault);
    let processed = Cause::ALL
        .iter()
        .map(|&cause| Failure::new(SafetyClass::Transient, cause));
    std::iter::once(not_processed).chain(processed).map(reason)
}

fn describe() {
    describe_counter!(CALLS, Unit::Count, "calls that ended, by what stopped them");
    describe_counter!(RETRIES, Unit::Count, "attempts beyond the first, by reason");
    describe_histogram!(DELAY, Unit::Seconds, "how long a retry waits");
    describe_counter!(
        PASSED,
        Unit::Count,
        "requests that could not be retried from the start, and why"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../README.md");

    #[test]
    fn the_docs_list_every_metric_and_every_word() {
        for name in [CALLS, RETRIES, DELAY, PASSED] {
            assert!(README.contains(&format!("| `{name}` |")), "{name}");
        }
        let stops = StoppedBy::ALL.iter().map(|stopped_by| stopped_by.as_str());
        for word in stops.chain(reasons()) {
            assert!(README.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn reasons_to_stop_are_numbered_in_the_order_of_the_list() {
        for (number, &stopped_by) in StoppedBy::ALL.iter().enumerate() {
            assert_eq!(stopped_by as usize, number);
        }
    }
}
