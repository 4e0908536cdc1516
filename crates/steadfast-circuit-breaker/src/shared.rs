use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use steadfast_core::{
    backoff::Sample,
    breaker::{
        Admission, Machine, Outcome, Refusal, Rejection, Report, Rules, State, Statistics, Ticket,
        Transition, Trip,
    },
};
use tokio::time::Instant;

use crate::{
    metrics::Metrics,
    notice::Notices,
    sync::{AtomicU64, Mutex, MutexGuard, Ordering},
};

/// One breaker, as its handles, services and permits share it.
pub(crate) struct Shared {
    name: Arc<str>,
    rules: Rules,
    statistics: Statistics,
    /// What the machine says, for those who only look: written under its lock.
    gate: AtomicU64,
    /// When the open time is over, in nanoseconds since the origin.
    open_until: AtomicU64,
    origin: Instant,
    /// A std mutex: it is held for a few steps and never over an await, and taken only where something changes.
    machine: Mutex<Machine>,
    notices: Notices,
}

impl Shared {
    pub(crate) fn new(name: Arc<str>, rules: Rules, now: Instant) -> Self {
        let origin = now.into_std();
        let machine = Machine::new(rules, origin);
        Self {
            statistics: Statistics::new(&rules, origin),
            gate: AtomicU64::new(Gate::of(&machine).0),
            open_until: AtomicU64::new(0),
            origin: now,
            machine: Mutex::new(machine),
            notices: Notices::new(Arc::clone(&name)),
            name,
            rules,
        }
    }

    pub(crate) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub(crate) const fn notices(&self) -> &Notices {
        &self.notices
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.notices.metrics()
    }

    #[inline]
    pub(crate) fn gate(&self) -> Gate {
        Gate(self.gate.load(Ordering::Acquire))
    }

    /// What is left of the open time; zero once it is over.
    pub(crate) fn open_left(&self, now: Instant) -> Duration {
        let until = Duration::from_nanos(self.open_until.load(Ordering::Acquire));
        until.saturating_sub(now.saturating_duration_since(self.origin))
    }

    /// Whether a call that comes now would pass, as far as one can tell without letting it.
    #[inline]
    pub(crate) fn would_admit(&self) -> bool {
        let gate = self.gate();
        gate.lets_all_pass() || self.would_admit_some(gate.state())
    }

    #[cold]
    fn would_admit_some(&self, state: State) -> bool {
        let now = Instant::now();
        if state == State::Open {
            return self.open_left(now).is_zero();
        }
        self.change(|machine| machine.would_admit(now.into_std(), chance()))
    }

    #[inline]
    pub(crate) fn admit(&self) -> Result<Ticket, Rejection> {
        let gate = self.gate();
        if gate.lets_all_pass() {
            Ok(Ticket::closed(gate.generation()))
        } else {
            self.ask(gate.state())
        }
    }

    #[cold]
    fn ask(&self, state: State) -> Result<Ticket, Rejection> {
        let now = Instant::now();
        let left = self.open_left(now);
        let admission = if state == State::Open && !left.is_zero() {
            Admission::Rejected(Rejection::new(Refusal::Open, left))
        } else {
            self.change(|machine| machine.admit(now.into_std(), chance()))
        };
        match admission {
            Admission::Admitted(ticket) => Ok(ticket),
            Admission::Rejected(rejection) => {
                self.metrics().rejected(rejection.refusal());
                Err(rejection)
            }
        }
    }

    /// Rejects a call whose service was not asked whether it is ready, since it was open then.
    pub(crate) fn reject_unready(&self) -> Rejection {
        let (refusal, left) = match self.gate().state() {
            State::ForcedOpen => (Refusal::Forced, self.rules.config().open_for()),
            State::Open => (Refusal::Open, self.open_left(Instant::now())),
            State::HalfOpen => (Refusal::Probing, Duration::ZERO),
            State::Closed | State::Disabled | State::ObserveOnly | _ => {
                (Refusal::Open, Duration::ZERO)
            }
        };
        self.metrics().rejected(refusal);
        Rejection::new(refusal, left)
    }

    /// A call that was admitted has ended, and says something of its destination or not.
    #[inline]
    pub(crate) fn settle(&self, ticket: Ticket, report: &Report) {
        if ticket.is_probe() {
            return self.settle_probe(ticket, report);
        }
        let gate = self.gate();
        if gate.generation() != ticket.generation() {
            return self.metrics().stale();
        }
        if gate.state() == State::Disabled {
            return;
        }
        self.count(report);
        let trip = self
            .statistics
            .record(ticket.generation(), report, || Instant::now().into_std());
        if let Some(trip) = trip {
            self.trip(ticket, trip, report);
        }
    }

    /// A call that was admitted ended without a word.
    pub(crate) fn release(&self, ticket: Ticket) {
        if ticket.is_probe() {
            self.lock().release(ticket.generation());
        }
    }

    /// Changes the state by hand.
    pub(crate) fn command(
        &self,
        command: impl FnOnce(&mut Machine, std::time::Instant) -> Option<Transition>,
    ) {
        let now = Instant::now().into_std();
        self.change(|machine| ((), command(machine, now)));
    }

    #[cold]
    fn settle_probe(&self, ticket: Ticket, report: &Report) {
        let now = Instant::now().into_std();
        let is_of_now =
            self.change(|machine| machine.settle(ticket.generation(), report, now, chance()));
        if is_of_now {
            self.count(report);
        } else {
            self.metrics().stale();
        }
    }

    #[cold]
    fn trip(&self, ticket: Ticket, trip: Trip, report: &Report) {
        let now = Instant::now().into_std();
        self.change(|machine| {
            let generation = ticket.generation();
            let transition = machine.trip(generation, trip, report.hint(), now, chance());
            ((), transition)
        });
    }

    fn count(&self, report: &Report) {
        let is_slow = report.outcome() == Outcome::Success && self.statistics.is_slow(report);
        self.metrics().called(report.outcome(), is_slow);
    }

    /// Lets the machine take a step. Who listens is told after the lock is free, and in the order of the steps.
    fn change<T>(&self, step: impl FnOnce(&mut Machine) -> (T, Option<Transition>)) -> T {
        let mut machine = self.lock();
        let before = machine.generation();
        let (result, transition) = step(&mut machine);
        if machine.generation() == before {
            // What others look at is as it was: no need to take it from their caches.
            return result;
        }
        if let Some(until) = machine.open_until() {
            let since = until.saturating_duration_since(self.origin.into_std());
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            self.open_until.store(nanos, Ordering::Release);
        }
        self.gate.store(Gate::of(&machine).0, Ordering::Release);
        if let Some(transition) = transition {
            self.notices.add(transition);
        }
        drop(machine);
        if transition.is_some() {
            self.notices.deliver();
        }
        result
    }

    /// A step is whole before anything could panic, so that a poisoned lock hides nothing.
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.name)
            .field("state", &self.gate().state())
            .finish_non_exhaustive()
    }
}

/// State and generation in one word, so that they are of one moment.
#[derive(Clone, Copy)]
pub(crate) struct Gate(u64);

impl Gate {
    const STATE_BITS: u32 = 3;
    const STATE: u64 = (1 << Self::STATE_BITS) - 1;

    fn of(machine: &Machine) -> Self {
        Self(machine.generation() << Self::STATE_BITS | machine.state() as u64)
    }

    #[inline]
    pub(crate) fn state(self) -> State {
        // The order of the list is that of the numbers.
        State::ALL[(self.0 & Self::STATE) as usize]
    }

    /// Whether every call passes: most look no further.
    #[inline]
    const fn lets_all_pass(self) -> bool {
        const SUCH: u64 = 1 << State::Closed as u64
            | 1 << State::Disabled as u64
            | 1 << State::ObserveOnly as u64;
        SUCH >> (self.0 & Self::STATE) & 1 == 1
    }

    #[inline]
    pub(crate) const fn generation(self) -> u64 {
        self.0 >> Self::STATE_BITS
    }
}

fn chance() -> Sample {
    Sample::new(fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_in_the_order_of_the_list_and_have_room_in_the_gate() {
        for (number, &state) in State::ALL.iter().enumerate() {
            assert_eq!(state as usize, number);
        }
        assert!(State::ALL.len() <= 1 << Gate::STATE_BITS);
    }
}
