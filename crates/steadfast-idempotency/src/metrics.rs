use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use steadfast_core::idempotency::Transition;
use steadfast_store::StoreError;

use crate::signal::Signal;

/// The handles of a layer's metrics. A handle belongs to the recorder that is installed when it is made.
pub(crate) struct Metrics {
    requests: Vec<Counter>,
    claim: Histogram,
    completion: Histogram,
    running: Gauge,
    detached: Gauge,
    waiting: Gauge,
    renewals: [Counter; 3],
    fenced_completions: Counter,
    unstored: Counter,
}

const REQUESTS: &str = "steadfast_idempotency_requests_total";
const CLAIM: &str = "steadfast_idempotency_claim_seconds";
const COMPLETION: &str = "steadfast_idempotency_completion_seconds";
const RUNNING: &str = "steadfast_idempotency_running";
const DETACHED: &str = "steadfast_idempotency_detached_tasks";
const WAITING: &str = "steadfast_idempotency_waiting";
const RENEWALS: &str = "steadfast_idempotency_renewals_total";
const FENCED_COMPLETIONS: &str = "steadfast_idempotency_fenced_completions_total";
const UNSTORED: &str = "steadfast_idempotency_unstored_answers_total";

impl Metrics {
    pub(crate) fn new(namespace: &str) -> Self {
        describe();
        let namespace = namespace.to_owned();
        let of_layer = || vec![metrics::Label::new("namespace", namespace.clone())];
        let labelled = |name: &'static str, value: &'static str| {
            let mut labels = of_layer();
            labels.push(metrics::Label::new(name, value));
            labels
        };
        let requests = |signal: &Signal| counter!(REQUESTS, labelled("outcome", signal.as_str()));
        let renewals = |result| counter!(RENEWALS, labelled("result", result));
        Self {
            requests: Signal::ALL.iter().map(requests).collect(),
            claim: histogram!(CLAIM, of_layer()),
            completion: histogram!(COMPLETION, of_layer()),
            running: gauge!(RUNNING, of_layer()),
            detached: gauge!(DETACHED, of_layer()),
            waiting: gauge!(WAITING, of_layer()),
            renewals: ["applied", "failed", "fenced"].map(renewals),
            fenced_completions: counter!(FENCED_COMPLETIONS, of_layer()),
            unstored: counter!(UNSTORED, of_layer()),
        }
    }

    pub(crate) fn request(&self, signal: Signal) {
        if let Some(requests) = self.requests.get(signal as usize) {
            requests.increment(1);
        }
    }

    pub(crate) fn claimed_after(&self, took: Duration) {
        self.claim.record(took);
    }

    pub(crate) fn completed_after(&self, took: Duration) {
        self.completion.record(took);
    }

    pub(crate) fn completion_was_fenced(&self) {
        self.fenced_completions.increment(1);
    }

    pub(crate) fn answer_is_unstored(&self) {
        self.unstored.increment(1);
    }

    pub(crate) fn renewed(&self, renewed: &Result<Transition, StoreError>) {
        let [applied, failed, fenced] = &self.renewals;
        let renewals = match renewed {
            Ok(Transition::Applied) => applied,
            Ok(Transition::Fenced) => fenced,
            Err(_) => failed,
        };
        renewals.increment(1);
    }

    /// One more execution, for as long as the result is held.
    pub(crate) fn running(&self) -> Counted {
        Counted::new(&self.running)
    }

    /// One more task that goes on without a caller, for as long as the result is held.
    pub(crate) fn detached(&self) -> Counted {
        Counted::new(&self.detached)
    }

    /// How many such tasks there are.
    pub(crate) fn detached_tasks(&self) -> Gauge {
        self.detached.clone()
    }

    /// One more waiter, for as long as the result is held.
    pub(crate) fn waiting(&self) -> Counted {
        Counted::new(&self.waiting)
    }
}

fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "keyed requests, by how they ended");
    describe_histogram!(
        CLAIM,
        Unit::Seconds,
        "how long the store took to claim, or to say why not"
    );
    describe_histogram!(
        COMPLETION,
        Unit::Seconds,
        "how long the store took to keep an answer"
    );
    describe_gauge!(RUNNING, Unit::Count, "operations that run in this process");
    describe_gauge!(DETACHED, Unit::Count, "tasks that go on without a caller");
    describe_gauge!(
        WAITING,
        Unit::Count,
        "duplicates that wait for another's execution"
    );
    describe_counter!(RENEWALS, Unit::Count, "renewals of leases, by result");
    describe_counter!(
        FENCED_COMPLETIONS,
        Unit::Count,
        "answers that came after another owner had the record"
    );
    describe_counter!(
        UNSTORED,
        Unit::Count,
        "answers given before the store had acknowledged them"
    );
}

/// One, in a gauge.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = include_str!("../README.md");

    #[test]
    fn the_docs_list_every_metric() {
        for name in [
            REQUESTS,
            CLAIM,
            COMPLETION,
            RUNNING,
            DETACHED,
            WAITING,
            RENEWALS,
            FENCED_COMPLETIONS,
            UNSTORED,
        ] {
            assert!(TABLES.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn the_docs_list_every_outcome() {
        let start = TABLES.find("| outcome |").expect("a table of outcomes");
        let end = TABLES.find("| metric |").expect("a table of metrics");
        for signal in Signal::ALL {
            let word = signal.as_str();
            assert!(TABLES[start..end].contains(&format!("`{word}`")), "{word}");
        }
    }
}
