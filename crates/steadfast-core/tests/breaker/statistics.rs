//! When the outcomes of calls say that it is time to stop.

use std::{cell::Cell, time::Duration, time::Instant};

use steadfast_core::{
    breaker::{BreakerConfig, Counts, Outcome, Reason, Report, Rules, Statistics, Trip, Window},
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};

use crate::support::{NANO, config, millis, origin, seconds};

const GOOD: Outcome = Outcome::Success;
const BAD: Outcome = Outcome::Failure;
const CALLS: Window = Window::Calls(20);
const TIME: Window = Window::Time(Duration::from_secs(10));

const fn counts(calls: u64, failures: u64) -> Counts {
    Counts { calls, failures }
}

fn nothing() -> BreakerConfig {
    config()
        .without_consecutive_failures()
        .without_failure_rate()
}

struct Shared {
    statistics: Statistics,
    now: Instant,
    generation: u64,
}

impl Shared {
    fn new(config: BreakerConfig) -> Self {
        let now = origin();
        Self {
            statistics: Statistics::new(&Rules::new(config).unwrap(), now),
            now,
            generation: 1,
        }
    }

    fn record(&self, outcome: Outcome) -> Option<Trip> {
        self.report(&Report::new(outcome))
    }

    fn report(&self, report: &Report) -> Option<Trip> {
        self.statistics.record(self.generation, report, || self.now)
    }

    fn took(&self, took: Duration) -> Option<Trip> {
        self.report(&Report::new(GOOD).with_took(Some(took)))
    }

    /// So many calls, of which none is the last straw.
    fn calls(&self, outcome: Outcome, calls: u32) {
        for call in 0..calls {
            assert_eq!(self.record(outcome), None, "call {call}");
        }
    }

    fn run(&self) -> u32 {
        self.statistics.consecutive_failures(self.generation)
    }

    fn failures(&self) -> Counts {
        self.statistics.failures(self.generation, self.now).unwrap()
    }

    fn slow(&self) -> Counts {
        self.statistics
            .slow_calls(self.generation, self.now)
            .unwrap()
    }
}

// === Failures in a row ===

#[test]
fn five_failures_in_a_row_trip() {
    let shared = Shared::new(config());
    shared.calls(BAD, 4);

    let trip = shared.record(BAD).unwrap();

    assert_eq!(trip.reason(), Reason::ConsecutiveFailures);
    assert_eq!(trip.counts(), counts(5, 5));
    assert_eq!(shared.run(), 5);
    assert_eq!(shared.record(BAD).unwrap().counts(), counts(6, 6));
}

#[test]
fn a_success_ends_a_run_and_throttled_and_ignored_calls_leave_it_alone() {
    let shared = Shared::new(config());
    shared.calls(BAD, 4);
    shared.calls(Outcome::Throttled, 3);
    shared.calls(Outcome::Ignored, 3);
    assert_eq!(shared.run(), 4);

    shared.calls(GOOD, 1);
    assert_eq!(shared.run(), 0);

    shared.calls(BAD, 4);
    shared.calls(Outcome::Throttled, 1);
    let trip = shared.record(BAD).unwrap();
    assert_eq!(trip.counts(), counts(5, 5));
}

#[test]
fn a_run_belongs_to_its_generation() {
    let mut shared = Shared::new(config());
    shared.calls(BAD, 4);
    shared.generation = 2;
    assert_eq!(shared.run(), 0);
    shared.calls(BAD, 3);

    shared.generation = 1;
    shared.calls(BAD, 10);
    shared.calls(GOOD, 1);
    assert_eq!(shared.run(), 0);

    shared.generation = 2;
    assert_eq!(shared.run(), 3, "a late success does not end it");
    shared.calls(BAD, 1);
    assert!(shared.record(BAD).is_some());
}

#[test]
fn a_success_of_a_new_generation_does_not_hide_its_run() {
    let mut shared = Shared::new(config());
    shared.calls(BAD, 4);
    shared.generation = 2;

    shared.calls(GOOD, 1);
    shared.calls(BAD, 4);

    assert!(shared.record(BAD).is_some());
}

#[test]
fn without_the_rule_no_run_is_counted() {
    let shared = Shared::new(nothing().with_failure_rate(1.0, Window::Calls(100), 100));

    shared.calls(BAD, 99);

    assert_eq!(shared.run(), 0);
}

// === Rates ===

#[test]
fn half_of_twenty_calls_trip_and_half_of_nineteen_do_not() {
    for window in [CALLS, TIME] {
        let shared = Shared::new(nothing().with_failure_rate(0.5, window, 20));
        shared.calls(BAD, 10);
        shared.calls(GOOD, 9);

        let trip = shared.record(GOOD).unwrap();

        assert_eq!(trip.reason(), Reason::FailureRate, "a success may tell");
        assert_eq!(trip.counts(), counts(20, 10));
        assert_eq!(shared.failures(), counts(20, 10));
    }
}

#[test]
fn less_than_the_rate_does_not_trip() {
    for window in [CALLS, TIME] {
        let shared = Shared::new(nothing().with_failure_rate(0.5, window, 20));
        shared.calls(BAD, 9);
        shared.calls(GOOD, 11);

        assert_eq!(shared.failures(), counts(20, 9));
        shared.calls(GOOD, 1);
    }
}

#[test]
fn rates_are_exact_in_decimals() {
    for (rate, calls, enough) in [
        (0.55, 20, 11),
        (0.07, 100, 7),
        (0.29, 100, 29),
        (0.58, 50, 29),
        (0.1, 10, 1),
        (0.3, 10, 3),
        (0.333_333_333, 3, 1),
        (0.333_333_334, 3, 2),
        (0.999, 1_000, 999),
        (1e-9, 1_000, 1),
        (1.0, 7, 7),
    ] {
        for window in [Window::Calls(calls), TIME] {
            let shared = Shared::new(nothing().with_failure_rate(rate, window, calls));
            shared.calls(GOOD, calls - enough);
            shared.calls(BAD, enough - 1);
            assert!(shared.record(BAD).is_some(), "{enough} of {calls}");

            let shared = Shared::new(nothing().with_failure_rate(rate, window, calls));
            shared.calls(GOOD, calls - enough + 1);
            shared.calls(BAD, enough - 1);
        }
    }
}

#[test]
fn throttled_calls_count_as_failures_and_ignored_ones_not_at_all() {
    for window in [CALLS, TIME] {
        let shared = Shared::new(nothing().with_failure_rate(1.0, window, 3));
        shared.calls(Outcome::Throttled, 2);
        shared.calls(Outcome::Ignored, 10);
        assert_eq!(shared.failures(), counts(2, 2));

        assert!(shared.record(Outcome::Throttled).is_some());
    }
}

#[test]
fn a_window_of_calls_slides_by_one() {
    let shared = Shared::new(nothing().with_failure_rate(0.5, Window::Calls(4), 4));
    shared.calls(BAD, 1);
    shared.calls(GOOD, 3);
    assert_eq!(shared.failures(), counts(4, 1));

    shared.calls(BAD, 1);
    assert_eq!(shared.failures(), counts(4, 1), "the first one has left");

    assert!(shared.record(BAD).is_some());
    assert_eq!(shared.failures(), counts(4, 2));
}

#[test]
fn a_window_of_time_slides_by_a_tenth() {
    let mut shared = Shared::new(nothing().with_failure_rate(0.5, TIME, 100));
    shared.now += millis(999);
    shared.calls(BAD, 2);
    shared.now += millis(1);
    shared.calls(GOOD, 3);
    assert_eq!(shared.failures(), counts(5, 2));

    shared.now += seconds(9) - NANO;
    assert_eq!(shared.failures(), counts(5, 2));
    shared.now += NANO;
    assert_eq!(
        shared.failures(),
        counts(3, 0),
        "ten slots, the latest began"
    );
    shared.now += seconds(1);
    assert_eq!(shared.failures(), counts(0, 0));
}

#[test]
fn old_failures_that_come_to_weigh_more_trip_with_a_success() {
    for failed_at in 1..=9 {
        let mut shared = Shared::new(nothing().with_failure_rate(0.5, TIME, 2));
        shared.calls(GOOD, 10);
        shared.now += seconds(failed_at);
        shared.calls(BAD, 2);
        shared.now += seconds(10 - failed_at) - NANO;
        shared.calls(GOOD, 1);
        shared.now += NANO;

        let trip = shared.record(GOOD).unwrap();

        assert_eq!(trip.counts(), counts(4, 2), "the ten have left the window");
    }
}

#[test]
fn after_a_long_rest_nothing_of_before_counts() {
    for window in [millis(10), seconds(10), seconds(60 * 60)] {
        for slots in [10, 16, 32, 1_024, 1_040, 1_048_576] {
            let mut shared = Shared::new(nothing().with_failure_rate(0.5, Window::Time(window), 5));
            shared.calls(BAD, 4);

            shared.now += window / 10 * slots;

            assert_eq!(shared.failures(), counts(0, 0));
            shared.calls(BAD, 4);
            assert_eq!(shared.failures(), counts(4, 4));
            assert!(shared.record(GOOD).is_some());
        }
    }
}

#[test]
fn a_new_generation_starts_cold_and_late_calls_of_the_old_one_do_not_count() {
    for window in [CALLS, TIME] {
        let mut shared = Shared::new(nothing().with_failure_rate(0.5, window, 10));
        shared.calls(BAD, 9);
        shared.generation = 2;
        assert_eq!(shared.failures(), counts(0, 0));
        shared.calls(GOOD, 4);
        shared.calls(BAD, 3);

        for outcome in [BAD, GOOD] {
            for _ in 0..50 {
                let late = Report::new(outcome);
                shared.statistics.record(1, &late, || shared.now);
            }
        }

        assert_eq!(shared.failures(), counts(7, 3));
        shared.calls(GOOD, 2);
        assert_eq!(shared.failures(), counts(9, 3));
    }
}

#[test]
fn late_calls_after_a_rest_of_more_slots_than_lie_between_generations_do_not_count() {
    let window = Window::Time(millis(10));
    let mut shared = Shared::new(nothing().with_failure_rate(0.5, window, 10));
    shared.generation = 2;
    shared.calls(BAD, 2);
    for slots in [1_014, 1_024, 1_030, 3_000] {
        shared.now += millis(slots);
        for _ in 0..5 {
            shared
                .statistics
                .record(1, &Report::new(BAD), || shared.now);
        }
        assert_eq!(shared.failures(), counts(0, 0), "after {slots}");
        shared.calls(BAD, 3);
        assert_eq!(shared.failures(), counts(3, 3));
        shared.calls(GOOD, 4);
        assert_eq!(shared.failures(), counts(7, 3));
    }
}

#[test]
fn generations_may_follow_each_other_at_once() {
    for window in [CALLS, TIME] {
        let mut shared = Shared::new(nothing().with_failure_rate(0.5, window, 3));
        for generation in 1..2_000 {
            shared.generation = generation;
            shared.calls(BAD, 2);
            assert_eq!(shared.record(GOOD).unwrap().counts(), counts(3, 2));
        }
    }
}

#[test]
fn a_late_call_that_reads_the_clock_early_is_counted_where_it_belongs() {
    let mut shared = Shared::new(nothing().with_failure_rate(0.5, TIME, 100));
    shared.now += seconds(20);
    shared.calls(BAD, 1);
    shared.now -= seconds(6);
    shared.calls(BAD, 1);
    assert_eq!(shared.failures(), counts(1, 1));

    shared.now += seconds(6);
    assert_eq!(shared.failures(), counts(2, 2));
    shared.now += seconds(4);
    assert_eq!(shared.failures(), counts(1, 1));
}

#[test]
fn what_lies_before_the_origin_counts_as_the_first_slot() {
    let mut shared = Shared::new(nothing().with_failure_rate(1.0, TIME, 3));
    shared.now -= seconds(5);
    shared.calls(BAD, 2);
    shared.now += seconds(5);

    assert!(shared.record(BAD).is_some());
}

// === Slow calls ===

#[test]
fn slow_calls_trip_by_their_own_rate() {
    for window in [CALLS, TIME] {
        let shared = Shared::new(config().with_slow_calls(seconds(2), 0.5, window, 4));
        assert!(shared.statistics.times_calls());
        assert_eq!(shared.took(seconds(2) - NANO), None);
        assert_eq!(shared.record(GOOD), None, "without a time it is not slow");
        assert_eq!(shared.took(seconds(2)), None);
        assert_eq!(shared.slow(), counts(3, 1));

        let trip = shared.took(Duration::MAX).unwrap();

        assert_eq!(trip.reason(), Reason::SlowCalls);
        assert_eq!(trip.counts(), counts(4, 2));
        assert_eq!(shared.failures(), counts(4, 0));
    }
}

#[test]
fn whether_a_call_is_slow_is_said_of_any_outcome() {
    let shared = Shared::new(config().with_slow_calls(seconds(2), 0.5, CALLS, 4));
    for &outcome in Outcome::ALL {
        let took = |took| Report::new(outcome).with_took(took);
        assert!(shared.statistics.is_slow(&took(Some(seconds(2)))));
        assert!(!shared.statistics.is_slow(&took(Some(seconds(2) - NANO))));
        assert!(!shared.statistics.is_slow(&took(None)));
    }

    let never = Shared::new(config());
    let long = Report::new(GOOD).with_took(Some(Duration::MAX));
    assert!(!never.statistics.is_slow(&long));
}

#[test]
fn a_slow_failure_is_slow_and_a_failure_and_ignored_is_neither() {
    let shared = Shared::new(config().with_slow_calls(seconds(2), 1.0, TIME, 4));
    for outcome in [BAD, Outcome::Throttled, Outcome::Ignored] {
        shared.report(&Report::new(outcome).with_took(Some(seconds(3))));
    }

    assert_eq!(shared.slow(), counts(2, 2));
    assert_eq!(shared.failures(), counts(2, 2));
    assert_eq!(shared.run(), 1);
}

#[test]
fn every_rule_counts_although_another_one_trips_and_the_run_is_named_first() {
    let shared = Shared::new(
        config()
            .with_consecutive_failures(1)
            .with_failure_rate(0.5, CALLS, 1)
            .with_slow_calls(seconds(2), 0.5, TIME, 1),
    );
    let slow = Report::new(BAD).with_took(Some(seconds(2)));
    assert_eq!(
        shared.report(&slow).unwrap().reason(),
        Reason::ConsecutiveFailures
    );
    assert_eq!(
        (shared.failures(), shared.slow()),
        (counts(1, 1), counts(1, 1))
    );

    assert_eq!(
        shared.took(seconds(2)).unwrap().reason(),
        Reason::FailureRate
    );
    assert_eq!(shared.took(seconds(2)).unwrap().reason(), Reason::SlowCalls);
    assert_eq!(
        (shared.failures(), shared.slow()),
        (counts(3, 1), counts(3, 3))
    );
}

#[test]
fn what_is_not_configured_is_not_counted() {
    let shared = Shared::new(nothing().with_consecutive_failures(2));

    assert!(!shared.statistics.times_calls());
    assert_eq!(shared.statistics.failures(1, shared.now), None);
    assert_eq!(shared.statistics.slow_calls(1, shared.now), None);
}

// === The clock ===

#[test]
fn the_clock_is_asked_once_at_most_and_only_for_a_window_of_time() {
    let clocked = |config: BreakerConfig, needed: u32| {
        let shared = Shared::new(config);
        assert_eq!(shared.statistics.needs_clock(), needed > 0, "{config:?}");
        for &outcome in Outcome::ALL {
            let asked = Cell::new(0);
            shared.statistics.record(1, &Report::new(outcome), || {
                asked.set(asked.get() + 1);
                shared.now
            });
            let needed = if outcome == Outcome::Ignored {
                0
            } else {
                needed
            };
            assert_eq!(asked.get(), needed, "{outcome:?} {config:?}");
        }
    };
    clocked(nothing().with_consecutive_failures(1), 0);
    clocked(config().with_failure_rate(0.5, CALLS, 1), 0);
    clocked(nothing().with_slow_calls(NANO, 0.5, CALLS, 1), 0);
    clocked(config(), 1);
    clocked(nothing().with_slow_calls(NANO, 0.5, TIME, 1), 1);
    clocked(config().with_slow_calls(NANO, 0.5, TIME, 1), 1);
    let mixed = config().with_failure_rate(0.5, CALLS, 1);
    clocked(mixed.with_slow_calls(NANO, 0.5, TIME, 1), 1);
}

// === Verdicts ===

#[test]
fn verdicts_are_outcomes_and_hints_are_kept() {
    let failure = |cause| Failure::new(SafetyClass::Transient, cause);
    for (cause, outcome) in [
        (Cause::Elapsed, BAD),
        (Cause::Fault, BAD),
        (Cause::InProgress, GOOD),
        (Cause::Throttled, Outcome::Throttled),
        (Cause::TooEarly, GOOD),
    ] {
        let hinted = failure(cause).with_hint(Some(Hint::After(seconds(3))));
        let report = Report::from(Verdict::Failure(hinted));
        assert_eq!(report.outcome(), outcome, "{cause:?}");
        assert_eq!(report.hint(), Some(seconds(3)));
        let stopped = failure(cause).with_hint(Some(Hint::Stop));
        assert_eq!(Report::from(Verdict::Failure(stopped)).hint(), None);
        assert_eq!(Outcome::from(failure(cause)), outcome);
    }
    assert_eq!(Report::from(Verdict::Success), Report::new(GOOD));
    assert_eq!(
        Report::from(Verdict::Ignored),
        Report::new(Outcome::Ignored)
    );
}
