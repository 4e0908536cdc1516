//! Whatever happens in whatever order.

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*, sample::Index, sample::select};
use steadfast_core::{
    backoff::Sample,
    breaker::{
        Admission, BreakerConfig, Machine, Outcome, Reason, Refusal, Report, Rules, State, Ticket,
        Transition,
    },
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};

use crate::support::{MOST, a_trip, config, millis, origin, seconds};

#[derive(Clone, Debug)]
enum Step {
    Admit(Sample),
    Settle(Index, Outcome, Option<Duration>),
    Release(Index),
    /// A probe is forgotten: it keeps its place.
    Leak(Index),
    /// The statistics of this many generations ago say that it is time to stop.
    Trip(u64),
    /// Another call of a generation that is over ends.
    Late(Outcome),
    Command(usize),
    Wait(Duration),
    /// To the moment at which it would probe.
    WaitForProbes,
    Rewind(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = select(Outcome::ALL);
    let good = prop_oneof![3 => Just(Outcome::Success), 1 => select(Outcome::ALL)];
    let hint = proptest::option::of((0_u64..20_000).prop_map(millis));
    let step = prop_oneof![
        12 => any::<u64>().prop_map(|drawn| Step::Admit(Sample::new(drawn))),
        8 => (any::<Index>(), good, hint).prop_map(|(i, o, h)| Step::Settle(i, o, h)),
        2 => any::<Index>().prop_map(Step::Release),
        1 => any::<Index>().prop_map(Step::Leak),
        3 => prop_oneof![3 => Just(0_u64), 1 => 1_u64..4].prop_map(Step::Trip),
        1 => outcome.prop_map(Step::Late),
        1 => (0_usize..5).prop_map(Step::Command),
        3 => (0_u64..12_000).prop_map(|wait| Step::Wait(millis(wait))),
        3 => Just(Step::WaitForProbes),
        1 => (0_u64..2_000).prop_map(|back| Step::Rewind(millis(back))),
    ];
    vec(step, 0..150)
}

fn configs() -> impl Strategy<Value = (BreakerConfig, Bounds)> {
    let probes = prop_oneof![
        (1_u32..4, 1_u32..5).prop_map(|(at_a_time, successes)| {
            let calls = u32::MAX;
            (
                config().with_probes(at_a_time, successes),
                Bounds {
                    at_a_time,
                    calls,
                    limit: Duration::ZERO,
                },
            )
        }),
        (1_u32..4, 0.01..=1.0, 0_u32..6).prop_map(|(at_a_time, rate, more)| {
            let calls = at_a_time + more;
            (
                config().with_probe_rate(at_a_time, rate, calls),
                Bounds {
                    at_a_time,
                    calls,
                    limit: Duration::ZERO,
                },
            )
        }),
    ];
    let times = (1_u64..10_000, 1_u64..4, 1_u64..10_000, 0_u64..30);
    (probes, times, 0.0..=1.0).prop_map(
        |((config, bounds), (open, growth, limit, hint), jitter)| {
            let config = config
                .with_open_for(millis(open))
                .with_open_growth(growth as f64, seconds(20))
                .with_open_jitter(jitter)
                .with_hint_cap(seconds(hint))
                .with_half_open_limit(millis(limit));
            let limit = millis(limit);
            (config, Bounds { limit, ..bounds })
        },
    )
}

/// How many probes may be under way, and altogether.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    at_a_time: u32,
    calls: u32,
    limit: Duration,
}

struct Driver {
    machine: Machine,
    /// That of the probes.
    generation: u64,
    bounds: Bounds,
    now: Instant,
    /// Probes of the present generation that nobody has heard of.
    probes: Vec<Ticket>,
    leaked: u32,
    /// Probes of the present generation that counted.
    counted: u32,
    /// The first probe that was admitted since one succeeded, or when one did beside others.
    silent_since: Option<Instant>,
    limit: Duration,
}

impl Driver {
    fn new(config: BreakerConfig, bounds: Bounds) -> Self {
        let now = origin() + seconds(1_000_000);
        Self {
            machine: Machine::new(Rules::new(config).unwrap(), now),
            generation: 1,
            bounds,
            now,
            probes: Vec::new(),
            leaked: 0,
            counted: 0,
            silent_since: None,
            limit: bounds.limit,
        }
    }

    fn take(&mut self, which: Index) -> Option<Ticket> {
        (!self.probes.is_empty()).then(|| self.probes.swap_remove(which.index(self.probes.len())))
    }

    fn forget_what_is_over(&mut self) {
        let generation = self.machine.generation();
        if self.generation != generation {
            self.generation = generation;
            self.probes.retain(|probe| probe.generation() == generation);
            self.leaked = 0;
            self.counted = 0;
            if self.probes.is_empty() {
                self.silent_since = None;
            }
        }
    }

    /// Runs one step and checks what it did to state and generation.
    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let before = (self.machine.state(), self.machine.generation());
        let open_until = self.machine.open_until();
        let (transition, counts_anew) = self.apply(step, before)?;
        let after = (self.machine.state(), self.machine.generation());

        match transition {
            Some(transition) if transition.is_hypothetical() => {
                prop_assert_eq!(before.0, State::ObserveOnly);
                prop_assert_eq!(after, (State::ObserveOnly, before.1 + 1));
            }
            Some(transition) => {
                prop_assert_eq!((transition.from(), transition.to()), (before.0, after.0));
                prop_assert_ne!(before.0, after.0);
                prop_assert_eq!(after.1, before.1 + 1);
                prop_assert_eq!(transition.open_for().is_some(), after.0 == State::Open);
            }
            None => {
                prop_assert_eq!(after, (before.0, before.1 + u64::from(counts_anew)));
                prop_assert_eq!(self.machine.open_until(), open_until);
            }
        }
        self.forget_what_is_over();
        let under_way = self.probes.len() as u32 + self.leaked;
        prop_assert!(under_way <= self.bounds.at_a_time);
        prop_assert!(self.counted.saturating_add(under_way) <= self.bounds.calls);
        Ok(())
    }

    fn apply(
        &mut self,
        step: Step,
        (state, generation): (State, u64),
    ) -> Result<(Option<Transition>, bool), TestCaseError> {
        let transition = match step {
            Step::Admit(chance) => self.admit(chance)?,
            Step::Settle(which, outcome, hint) => match self.take(which) {
                Some(probe) => self.settle(probe, report(outcome, hint))?,
                None => None,
            },
            Step::Release(which) => {
                if let Some(probe) = self.take(which) {
                    prop_assert!(self.machine.release(probe.generation()));
                }
                None
            }
            Step::Leak(which) => {
                self.leaked += u32::from(self.take(which).is_some());
                None
            }
            Step::Trip(ago) => {
                let of = generation.saturating_sub(ago);
                let transition = self.machine.trip(of, a_trip(), None, self.now, MOST);
                let may = matches!(state, State::Closed | State::ObserveOnly) && ago == 0;
                prop_assert!(may || transition.is_none());
                prop_assert!(transition.is_some() || state != State::Closed || ago > 0);
                transition
            }
            Step::Late(outcome) => {
                for over in [generation - 1, generation + 1] {
                    let report = Report::new(outcome);
                    let heard = self.machine.settle(over, &report, self.now, MOST);
                    prop_assert_eq!(heard, (false, None));
                    prop_assert!(!self.machine.release(over));
                }
                None
            }
            Step::Command(which) => {
                let transition = match which {
                    0 => self.machine.force_open(),
                    1 => self.machine.force_closed(self.now),
                    2 => self.machine.disable(),
                    3 => self.machine.observe_only(),
                    _ => self.machine.reset(self.now),
                };
                return Ok((transition, which == 4));
            }
            Step::Wait(wait) => {
                self.now += wait;
                None
            }
            Step::WaitForProbes => {
                self.now = self.machine.open_until().unwrap_or(self.now).max(self.now);
                None
            }
            Step::Rewind(back) => {
                self.now -= back;
                None
            }
        };
        Ok((transition, false))
    }

    fn admit(&mut self, chance: Sample) -> Result<Option<Transition>, TestCaseError> {
        let open_until = self.machine.open_until();
        let (admission, transition) = self.machine.admit(self.now, chance);
        let state = self.machine.state();
        match admission {
            Admission::Admitted(ticket) => {
                prop_assert_eq!(ticket.generation(), self.machine.generation());
                prop_assert_eq!(ticket.is_probe(), state == State::HalfOpen);
                prop_assert!(!matches!(state, State::Open | State::ForcedOpen));
                prop_assert!(open_until.is_none_or(|until| until <= self.now));
                if ticket.is_probe() {
                    self.silent_since.get_or_insert(self.now);
                    self.probes.push(ticket);
                }
            }
            Admission::Rejected(rejection) => match rejection.refusal() {
                Refusal::Open => {
                    let until = self.machine.open_until().unwrap();
                    prop_assert!(rejection.retry_after() > Duration::ZERO);
                    prop_assert_eq!(rejection.retry_after(), until - self.now);
                }
                Refusal::Probing => {
                    prop_assert_eq!(state, State::HalfOpen);
                    prop_assert_eq!(rejection.retry_after(), Duration::ZERO);
                    let under_way = self.probes.len() as u32 + self.leaked;
                    let left = self.bounds.calls.saturating_sub(self.counted);
                    prop_assert_eq!(under_way, self.bounds.at_a_time.min(left));
                }
                Refusal::Forced => prop_assert_eq!(state, State::ForcedOpen),
                _ => prop_assert!(false, "{rejection:?}"),
            },
        }
        if transition.is_some_and(|transition| transition.reason() == Reason::ProbesSilent) {
            let since = self.silent_since.unwrap();
            prop_assert!(self.now - since >= self.limit);
        }
        Ok(transition)
    }

    fn settle(
        &mut self,
        probe: Ticket,
        report: Report,
    ) -> Result<Option<Transition>, TestCaseError> {
        let outcome = report.outcome();
        let (heard, transition) = self
            .machine
            .settle(probe.generation(), &report, self.now, MOST);
        prop_assert!(heard);
        self.counted += u32::from(outcome != Outcome::Ignored);
        if outcome == Outcome::Ignored {
            prop_assert_eq!(transition, None);
        } else if outcome == Outcome::Success {
            let others = !self.probes.is_empty() || self.leaked > 0;
            self.silent_since = others.then_some(self.now);
        }
        Ok(transition)
    }

    /// Whatever state it is in, what was under way is never heard of again, and all calls from here on succeed.
    fn recover(&mut self) -> Result<(), TestCaseError> {
        self.leaked += self.probes.len() as u32;
        self.probes.clear();
        for _ in 0..100 {
            let state = self.machine.state();
            if let Some(until) = self.machine.open_until() {
                self.now = self.now.max(until);
            } else if state != State::HalfOpen {
                return Ok(());
            } else if self.leaked > 0 {
                self.now += seconds(10);
            }
            self.step(Step::Admit(MOST))?;
            if let Some(probe) = self.probes.pop() {
                self.settle(probe, Report::new(Outcome::Success))?;
            }
            self.forget_what_is_over();
        }
        prop_assert!(false, "stuck in {:?}", self.machine);
        Ok(())
    }
}

fn report(outcome: Outcome, hint: Option<Duration>) -> Report {
    let failed = |cause| {
        let failure = Failure::new(SafetyClass::Transient, cause);
        Verdict::Failure(failure.with_hint(hint.map(Hint::After))).into()
    };
    if outcome == Outcome::Failure {
        failed(Cause::Fault)
    } else if outcome == Outcome::Throttled {
        failed(Cause::Throttled)
    } else {
        Report::new(outcome)
    }
}

proptest! {
    #[test]
    fn no_probe_too_many_no_way_without_return_and_no_late_word(
        (config, bounds) in configs(),
        steps in steps(),
    ) {
        let mut driver = Driver::new(config, bounds);
        for step in steps {
            driver.step(step)?;
        }
        driver.recover()?;
    }
}
