use metrics::{Counter, Gauge, Label, Unit, counter, describe_counter, describe_gauge, gauge};
use steadfast_core::breaker::{Outcome, Refusal, State, Transition};

/// The handles of a breaker's metrics. A handle belongs to the recorder that is installed when it is made.
pub(crate) struct Metrics {
    name: String,
    states: Vec<Gauge>,
    outcomes: Vec<Counter>,
    slow: Counter,
    rejections: Vec<Counter>,
    stale: Counter,
}

const STATE: &str = "steadfast_circuit_breaker_state";
const CALLS: &str = "steadfast_circuit_breaker_calls_total";
const REJECTIONS: &str = "steadfast_circuit_breaker_rejections_total";
const TRANSITIONS: &str = "steadfast_circuit_breaker_transitions_total";
const STALE: &str = "steadfast_circuit_breaker_stale_results_total";

/// A call that succeeded, and took too long.
const SLOW: &str = "slow";

impl Metrics {
    pub(crate) fn new(breaker: &str) -> Self {
        describe();
        let name = breaker.to_owned();
        let labels = || vec![Label::new("breaker", name.clone())];
        let labelled = |label: &'static str, value: &'static str| {
            vec![
                Label::new("breaker", name.clone()),
                Label::new(label, value),
            ]
        };
        let outcome = |value| counter!(CALLS, labelled("outcome", value));
        let metrics = Self {
            states: State::ALL
                .iter()
                .map(|state| gauge!(STATE, labelled("state", state.as_str())))
                .collect(),
            outcomes: Outcome::ALL
                .iter()
                .map(|each| outcome(each.as_str()))
                .collect(),
            slow: outcome(SLOW),
            rejections: Refusal::ALL
                .iter()
                .map(|each| counter!(REJECTIONS, labelled("refusal", each.as_str())))
                .collect(),
            stale: counter!(STALE, labels()),
            name,
        };
        metrics.is_in(Some(State::Closed));
        metrics
    }

    #[inline]
    pub(crate) fn called(&self, outcome: Outcome, is_slow: bool) {
        if is_slow {
            self.slow.increment(1);
        } else if let Some(calls) = self.outcomes.get(outcome as usize) {
            calls.increment(1);
        }
    }

    pub(crate) fn rejected(&self, refusal: Refusal) {
        if let Some(rejections) = self.rejections.get(refusal as usize) {
            rejections.increment(1);
        }
    }

    pub(crate) fn stale(&self) {
        self.stale.increment(1);
    }

    pub(crate) fn changed(&self, transition: &Transition) {
        // Rare enough for a look at the recorder.
        let labels = vec![
            Label::new("breaker", self.name.clone()),
            Label::new("from", transition.from().as_str()),
            Label::new("to", transition.to().as_str()),
            Label::new("reason", transition.reason().as_str()),
        ];
        counter!(TRANSITIONS, labels).increment(1);
        if !transition.is_hypothetical() {
            self.is_in(Some(transition.to()));
        }
    }

    /// `None` for a breaker that is gone.
    pub(crate) fn is_in(&self, state: Option<State>) {
        for (gauge, &each) in self.states.iter().zip(State::ALL) {
            gauge.set(if state == Some(each) { 1.0 } else { 0.0 });
        }
    }
}

fn describe() {
    describe_gauge!(
        STATE,
        Unit::Count,
        "1 for the state that the breaker is in, 0 for the others"
    );
    describe_counter!(
        CALLS,
        Unit::Count,
        "calls that passed, by what they said of the destination"
    );
    describe_counter!(REJECTIONS, Unit::Count, "calls that did not pass, and why");
    describe_counter!(TRANSITIONS, Unit::Count, "changes of state, and why");
    describe_counter!(
        STALE,
        Unit::Count,
        "results that came too late to count: the state had changed since the call was admitted"
    );
}

#[cfg(test)]
mod tests {
    use steadfast_core::breaker::Reason;

    use super::*;

    const README: &str = include_str!("../README.md");

    #[test]
    fn the_docs_list_every_metric_and_every_word() {
        for name in [STATE, CALLS, REJECTIONS, TRANSITIONS, STALE] {
            assert!(README.contains(&format!("| `{name}` |")), "{name}");
        }
        let words = State::ALL
            .iter()
            .map(|each| each.as_str())
            .chain(Outcome::ALL.iter().map(|each| each.as_str()))
            .chain(Refusal::ALL.iter().map(|each| each.as_str()))
            .chain(Reason::ALL.iter().map(|each| each.as_str()))
            .chain([SLOW]);
        for word in words {
            assert!(README.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn outcomes_and_refusals_are_numbered_in_the_order_of_their_lists() {
        for (number, &outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome as usize, number);
        }
        for (number, &refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(refusal as usize, number);
        }
    }
}
