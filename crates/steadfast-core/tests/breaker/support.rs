//! A machine with its own time.

use std::time::{Duration, Instant};

use steadfast_core::{
    backoff::Sample,
    breaker::{
        Admission, BreakerConfig, Machine, Outcome, Rejection, Report, Rules, State, Statistics,
        Ticket, Transition, Trip,
    },
};

/// The chance that lengthens nothing.
pub(crate) const LEAST: Sample = Sample::new(0);
/// The chance that lengthens most.
pub(crate) const MOST: Sample = Sample::new(u64::MAX);

pub(crate) const OPEN_FOR: Duration = BreakerConfig::DEFAULT_OPEN_FOR;
pub(crate) const LIMIT: Duration = BreakerConfig::DEFAULT_HALF_OPEN_LIMIT;
pub(crate) const NANO: Duration = Duration::from_nanos(1);

#[expect(
    clippy::disallowed_methods,
    reason = "any moment is as good as another, and there is no other way to one"
)]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn config() -> BreakerConfig {
    BreakerConfig::default()
}

/// What statistics say after one failure, where one is enough.
pub(crate) fn a_trip() -> Trip {
    let rules = Rules::new(config().with_consecutive_failures(1)).unwrap();
    let now = origin();
    Statistics::new(&rules, now)
        .record(1, &Report::new(Outcome::Failure), || now)
        .unwrap()
}

pub(crate) struct Breaker {
    pub(crate) machine: Machine,
    pub(crate) now: Instant,
    pub(crate) chance: Sample,
    trip: Trip,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        let now = origin();
        Self {
            machine: Machine::new(Rules::new(config).unwrap(), now),
            now,
            chance: LEAST,
            trip: a_trip(),
        }
    }

    /// One in this state, as it comes there by the shortest way.
    pub(crate) fn in_state(state: State) -> Self {
        let mut breaker = Self::new(config());
        match state {
            State::Closed => {}
            State::Open => {
                breaker.open();
            }
            State::HalfOpen => {
                let _probe = breaker.half_open();
            }
            State::ForcedOpen => {
                breaker.machine.force_open().unwrap();
            }
            State::Disabled => {
                breaker.machine.disable().unwrap();
            }
            State::ObserveOnly => {
                breaker.machine.observe_only().unwrap();
            }
            _ => panic!("{state:?} has no way to it"),
        }
        assert_eq!(breaker.state(), state);
        breaker
    }

    pub(crate) fn state(&self) -> State {
        self.machine.state()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.machine.generation()
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// The statistics of the present generation say that it is time to stop.
    pub(crate) fn trip(&mut self) -> Option<Transition> {
        self.trip_with_hint(None)
    }

    pub(crate) fn trip_with_hint(&mut self, hint: Option<Duration>) -> Option<Transition> {
        self.trip_of(self.generation(), hint)
    }

    pub(crate) fn trip_of(
        &mut self,
        generation: u64,
        hint: Option<Duration>,
    ) -> Option<Transition> {
        self.machine
            .trip(generation, self.trip, hint, self.now, self.chance)
    }

    /// Trips, and returns for how long it opened.
    pub(crate) fn open(&mut self) -> Duration {
        self.trip().unwrap().open_for().unwrap()
    }

    /// Trips, waits, and probes.
    pub(crate) fn half_open(&mut self) -> Ticket {
        let open_for = self.open();
        self.wait(open_for);
        self.probe()
    }

    pub(crate) fn admit(&mut self) -> (Admission, Option<Transition>) {
        self.machine.admit(self.now, self.chance)
    }

    /// A call that passes.
    pub(crate) fn ticket(&mut self) -> Ticket {
        match self.admit().0 {
            Admission::Admitted(ticket) => ticket,
            Admission::Rejected(rejection) => panic!("{rejection:?}"),
        }
    }

    /// A call that passes as a probe.
    pub(crate) fn probe(&mut self) -> Ticket {
        let ticket = self.ticket();
        assert!(ticket.is_probe());
        assert_eq!(ticket.generation(), self.generation());
        ticket
    }

    /// A call that does not pass, and changes nothing.
    pub(crate) fn rejection(&mut self) -> Rejection {
        let (admission, transition) = self.admit();
        assert_eq!(transition, None);
        match admission {
            Admission::Rejected(rejection) => rejection,
            Admission::Admitted(ticket) => panic!("{ticket:?}"),
        }
    }

    /// The probe of the present generation came to this.
    pub(crate) fn settle(&mut self, probe: Ticket, outcome: Outcome) -> Option<Transition> {
        self.report(probe, &Report::new(outcome))
    }

    pub(crate) fn report(&mut self, probe: Ticket, report: &Report) -> Option<Transition> {
        let (heard, transition) =
            self.machine
                .settle(probe.generation(), report, self.now, self.chance);
        assert!(heard, "the generation of {probe:?} is over");
        transition
    }

    /// Probes until it closes.
    pub(crate) fn close(&mut self) {
        while self.state() != State::Closed {
            let probe = self.probe();
            self.settle(probe, Outcome::Success);
        }
    }

    /// Waits for the open time to end and fails a probe; returns for how long it is open then.
    pub(crate) fn fail_to_come_back(&mut self) -> Duration {
        self.now = self.machine.open_until().unwrap();
        let probe = self.probe();
        self.settle(probe, Outcome::Failure)
            .unwrap()
            .open_for()
            .unwrap()
    }
}
