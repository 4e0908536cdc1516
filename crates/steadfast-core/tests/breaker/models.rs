//! Statistics against slow obvious models.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*, sample::select};
use steadfast_core::breaker::{
    BreakerConfig, Counts, Outcome, Reason, Report, Rules, Statistics, Window,
};

use crate::support::{config, millis, origin, seconds};

const THRESHOLD: Duration = Duration::from_secs(1);
/// How far clocks may differ, in slots, without a call being forgotten.
const APART: u32 = 6;

#[derive(Clone, Debug)]
enum Step {
    Record(Outcome, bool),
    /// A call that was admitted this many generations ago ends.
    Late(u64, Outcome, bool),
    NextGeneration(u64),
    /// In thousandths of a slot.
    Wait(u64),
    /// In slots.
    Rest(u32),
    Idle(Duration),
    /// In slots, of those that clocks may differ.
    Behind(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = || {
        prop_oneof![
            5 => Just(Outcome::Success),
            4 => Just(Outcome::Failure),
            1 => select(Outcome::ALL),
        ]
    };
    let step = prop_oneof![
        40 => (outcome(), any::<bool>()).prop_map(|(outcome, slow)| Step::Record(outcome, slow)),
        6 => (1_u64..4, outcome(), any::<bool>()).prop_map(|(ago, o, slow)| Step::Late(ago, o, slow)),
        1 => (1_u64..4).prop_map(Step::NextGeneration),
        8 => (0_u64..2_500).prop_map(Step::Wait),
        1 => select(&[9_u32, 10, 11, 15, 16, 17, 32, 1_014, 1_024, 1_040, 2_048]).prop_map(Step::Rest),
        1 => select(&[60_u64 * 24 * 60 * 60, 30, 1]).prop_map(|rest| Step::Idle(seconds(rest))),
        4 => (0..=APART).prop_map(Step::Behind),
    ];
    vec(step, 0..400)
}

fn windows() -> impl Strategy<Value = Window> {
    let time = select(&[10_u64, 15, 100, 10_000, 30_000, 3_600_000]);
    prop_oneof![
        (1_u32..40).prop_map(Window::Calls),
        time.prop_map(|time| Window::Time(millis(time))),
    ]
}

/// Hundredths, a window and a minimum that it can have.
fn rates() -> impl Strategy<Value = (u64, Window, u32)> {
    (1_u64..=100, windows(), 1_u32..25).prop_map(|(hundredths, window, minimum)| {
        let minimum = if let Window::Calls(calls) = window {
            minimum.min(calls)
        } else {
            minimum
        };
        (hundredths, window, minimum)
    })
}

fn slot_of(window: Window) -> Option<Duration> {
    if let Window::Time(time) = window {
        Some(time / 10)
    } else {
        None
    }
}

/// What a generation has seen, all of it.
struct Rate {
    hundredths: u64,
    window: Window,
    minimum: u32,
    /// The slot, and whether it failed.
    calls: VecDeque<(u64, bool)>,
    /// The slot in which a clock behind the others recorded something.
    disturbed: bool,
}

impl Rate {
    fn new((hundredths, window, minimum): (u64, Window, u32)) -> Self {
        Self {
            hundredths,
            window,
            minimum,
            calls: VecDeque::new(),
            disturbed: false,
        }
    }

    fn slot(&self, since: Duration) -> u64 {
        slot_of(self.window).map_or(0, |slot| (since.as_nanos() / slot.as_nanos()) as u64)
    }

    fn record(&mut self, since: Duration, failed: bool) {
        let slot = self.slot(since);
        self.disturbed |= self.calls.iter().any(|(of, _)| *of > slot);
        self.calls.push_back((slot, failed));
        if let Window::Calls(size) = self.window
            && self.calls.len() > size as usize
        {
            self.calls.pop_front();
        }
    }

    fn counts(&self, since: Duration) -> Counts {
        let slot = self.slot(since);
        let mut counts = Counts::default();
        for (of, failed) in &self.calls {
            if *of <= slot && of + 10 > slot {
                counts.calls += 1;
                counts.failures += u64::from(*failed);
            }
        }
        counts
    }

    fn trips(&self, since: Duration) -> bool {
        let counts = self.counts(since);
        counts.calls >= u64::from(self.minimum)
            && counts.failures * 100 >= counts.calls * self.hundredths
    }
}

struct Pair {
    statistics: Statistics,
    origin: Instant,
    generation: u64,
    limit: u32,
    run: u32,
    failures: Rate,
    slow: Rate,
    rates: [(u64, Window, u32); 2],
    /// Since the origin, by the clock that is ahead.
    newest: Duration,
    now: Duration,
}

impl Pair {
    fn new(limit: u32, rates: [(u64, Window, u32); 2]) -> Self {
        let [failures, slow] = rates;
        let config = BreakerConfig::default()
            .with_consecutive_failures(limit)
            .with_failure_rate(failures.0 as f64 / 100.0, failures.1, failures.2)
            .with_slow_calls(THRESHOLD, slow.0 as f64 / 100.0, slow.1, slow.2);
        let origin = origin();
        Self {
            statistics: Statistics::new(&Rules::new(config).unwrap(), origin),
            origin,
            // late calls of three generations ago are of none below the first
            generation: 4,
            limit,
            run: 0,
            failures: Rate::new(failures),
            slow: Rate::new(slow),
            rates,
            newest: Duration::ZERO,
            now: Duration::ZERO,
        }
    }

    fn begin(&mut self, generation: u64) {
        self.generation = generation;
        self.run = 0;
        self.failures = Rate::new(self.rates[0]);
        self.slow = Rate::new(self.rates[1]);
    }

    /// The slot of the shorter of the windows of time.
    fn slot(&self) -> Duration {
        let slots = self
            .rates
            .iter()
            .filter_map(|(_, window, _)| slot_of(*window));
        slots.min().unwrap_or(Duration::from_millis(1))
    }

    fn advance(&mut self, by: Duration) {
        self.newest += by;
        self.now = self.newest;
    }

    fn report(outcome: Outcome, slow: bool) -> Report {
        Report::new(outcome).with_took(slow.then_some(THRESHOLD))
    }

    fn record(&mut self, outcome: Outcome, slow: bool) -> Result<(), TestCaseError> {
        let mut asked = 0;
        let trip = self
            .statistics
            .record(self.generation, &Self::report(outcome, slow), || {
                asked += 1;
                self.origin + self.now
            });
        prop_assert!(asked <= u32::from(self.statistics.needs_clock()));
        if outcome == Outcome::Ignored {
            prop_assert_eq!(trip, None);
            return Ok(());
        }

        let failed = outcome != Outcome::Success;
        self.failures.record(self.now, failed);
        self.slow.record(self.now, slow);
        if outcome == Outcome::Failure {
            self.run += 1;
        } else if outcome == Outcome::Success {
            self.run = 0;
        }
        let by_run = outcome == Outcome::Failure && self.run >= self.limit;
        let [by_failures, by_slow] = [&self.failures, &self.slow].map(|rate| rate.trips(self.now));
        let run = u64::from(self.run);
        let run = Counts {
            calls: run,
            failures: run,
        };
        // A good call looks once per slot: what a clock behind the others told since then may wait for the next call that looks.
        let overlooked = !failed && self.failures.disturbed || !slow && self.slow.disturbed;
        match trip {
            Some(trip) => {
                let (reason, counts) = if by_run {
                    (Reason::ConsecutiveFailures, run)
                } else if by_failures && trip.reason() == Reason::FailureRate {
                    (Reason::FailureRate, self.failures.counts(self.now))
                } else {
                    prop_assert!(by_slow, "{trip:?}");
                    prop_assert!(!by_failures || overlooked, "{trip:?}");
                    (Reason::SlowCalls, self.slow.counts(self.now))
                };
                prop_assert_eq!((trip.reason(), trip.counts()), (reason, counts));
                self.begin(self.generation + 1);
            }
            None => prop_assert!(!(by_run || by_failures || by_slow) || overlooked && !by_run),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (generation, now) = (self.generation, self.origin + self.now);
        prop_assert_eq!(self.statistics.consecutive_failures(generation), self.run);
        prop_assert_eq!(
            self.statistics.failures(generation, now),
            Some(self.failures.counts(self.now))
        );
        prop_assert_eq!(
            self.statistics.slow_calls(generation, now),
            Some(self.slow.counts(self.now))
        );
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Record(outcome, slow) => self.record(outcome, slow)?,
            Step::Late(ago, outcome, slow) => {
                let report = Self::report(outcome, slow);
                let now = self.origin + self.now;
                self.statistics
                    .record(self.generation - ago, &report, || now);
            }
            Step::NextGeneration(more) => self.begin(self.generation + more),
            Step::Wait(thousandths) => self.advance(self.slot() * thousandths as u32 / 1_000),
            Step::Rest(slots) => self.advance(self.slot() * slots),
            Step::Idle(time) => self.advance(time),
            Step::Behind(slots) => self.now = self.newest.saturating_sub(self.slot() * slots),
        }
        self.check()
    }
}

proptest! {
    #[test]
    fn statistics_answer_as_their_models_do(
        limit in 1_u32..12,
        failures in rates(),
        slow in rates(),
        steps in steps(),
    ) {
        let mut pair = Pair::new(limit, [failures, slow]);
        for step in steps {
            pair.step(step)?;
        }
    }

    #[test]
    fn clocks_that_agree_overlook_nothing(
        limit in 5_u32..50,
        failures in rates(),
        slow in rates(),
        steps in steps(),
    ) {
        let mut pair = Pair::new(limit, [failures, slow]);
        for step in steps {
            if !matches!(step, Step::Behind(_)) {
                pair.step(step)?;
                prop_assert!(!pair.failures.disturbed && !pair.slow.disturbed);
            }
        }
    }

    #[test]
    fn a_rate_trips_as_arithmetic_in_decimals_says(
        thousandths in 1_u64..=1_000,
        minimum in 1_u64..200,
        outcomes in vec(any::<bool>(), 1..300),
    ) {
        let rate = thousandths as f64 / 1e3;
        let now = origin();
        for window in [Window::Calls(1_000), Window::Time(seconds(30))] {
            let config = config()
                .without_consecutive_failures()
                .with_failure_rate(rate, window, minimum as u32);
            let statistics = Statistics::new(&Rules::new(config).unwrap(), now);
            let (mut calls, mut failures) = (0, 0);
            for &failed in &outcomes {
                let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                let trip = statistics.record(1, &Report::new(outcome), || now);
                calls += 1;
                failures += u64::from(failed);
                let trips = calls >= minimum && failures * 1_000 >= calls * thousandths;
                prop_assert_eq!(trip.is_some(), trips);
                if trips {
                    break;
                }
            }
        }
    }
}
