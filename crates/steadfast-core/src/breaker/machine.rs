use std::time::{Duration, Instant};

use super::{
    admission::{Admission, Refusal, Rejection, Ticket},
    config::{ProbeRule, Rules},
    outcome::{Outcome, Report},
    state::{Counts, Reason, State, Transition, Trip},
    window::is_rate_reached,
};
use crate::backoff::Sample;

/// The states of a breaker, and who may pass.
///
/// Its owner asks it where the state is not plain, and tells it what probes came to. Calls that were admitted while it was closed
/// are for the [`Statistics`](super::Statistics), which know when to [`trip`](Self::trip) it.
#[derive(Debug)]
pub struct Machine {
    rules: Rules,
    generation: u64,
    phase: Phase,
    /// Openings in a row, that did not come after a close that held.
    openings: u32,
    /// How long it was open the last time.
    open_for: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// To `Open` when it trips.
    Closed {
        since: Instant,
    },
    /// To `HalfOpen` with the first call that comes after.
    Open {
        until: Instant,
    },
    /// To `Closed`, or back to `Open`.
    ///
    /// It begins with its first probe, so that there is always one to hear of.
    HalfOpen(Probes),
    ForcedOpen,
    Disabled,
    /// Silent until the time is over for which it would have been open.
    ObserveOnly {
        silent_until: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Probes {
    under_way: u32,
    succeeded: u32,
    failed: u32,
    /// When it began to probe; or when a probe succeeded while others were under way, or else the next one after it was admitted.
    /// `None` between those two: that nobody comes says nothing of the destination.
    silent_since: Option<Instant>,
}

impl Machine {
    /// One that is closed.
    #[must_use]
    pub const fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            generation: 1,
            phase: Phase::Closed { since: now },
            openings: 0,
            open_for: Duration::ZERO,
        }
    }

    /// The state it is in.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
            Phase::ForcedOpen => State::ForcedOpen,
            Phase::Disabled => State::Disabled,
            Phase::ObserveOnly { .. } => State::ObserveOnly,
        }
    }

    /// 1, and one more for each time that it changed its state, or began to count anew.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Until when no call passes, if it is open.
    #[must_use]
    pub const fn open_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::Closed { .. }
            | Phase::HalfOpen(_)
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::ObserveOnly { .. } => None,
        }
    }

    /// Whether a call that comes now may pass. The transition, if there is one, was made before the call was looked at.
    pub fn admit(&mut self, now: Instant, chance: Sample) -> (Admission, Option<Transition>) {
        match &mut self.phase {
            Phase::Closed { .. } | Phase::Disabled | Phase::ObserveOnly { .. } => {
                (Admission::Admitted(Ticket::closed(self.generation)), None)
            }
            Phase::ForcedOpen => {
                let wait = self.rules.config().open_for;
                (rejected(Refusal::Forced, wait), None)
            }
            Phase::Open { until } if now < *until => {
                let left = until.saturating_duration_since(now);
                (rejected(Refusal::Open, left), None)
            }
            Phase::Open { .. } => {
                let probes = Probes {
                    under_way: 1,
                    succeeded: 0,
                    failed: 0,
                    silent_since: Some(now),
                };
                let transition = self.change(
                    Phase::HalfOpen(probes),
                    Reason::OpenTimeOver,
                    Counts::default(),
                );
                (self.probe(), Some(transition))
            }
            Phase::HalfOpen(probes) => {
                if probes.are_silent(&self.rules, now) {
                    let counts = probes.counts();
                    let transition = self.open(Reason::ProbesSilent, counts, None, now, chance);
                    return (rejected(Refusal::Open, self.open_for), Some(transition));
                }
                if !probes.has_room(&self.rules) {
                    return (rejected(Refusal::Probing, Duration::ZERO), None);
                }
                probes.under_way += 1;
                probes.silent_since.get_or_insert(now);
                (self.probe(), None)
            }
        }
    }

    /// Whether a call that comes now would pass, for who must know before the call is there. It takes no place; but where probes
    /// were silent for too long, it finds that out as a call would.
    pub fn would_admit(&mut self, now: Instant, chance: Sample) -> (bool, Option<Transition>) {
        match &self.phase {
            Phase::Closed { .. } | Phase::Disabled | Phase::ObserveOnly { .. } => (true, None),
            Phase::ForcedOpen => (false, None),
            Phase::Open { until } => (now >= *until, None),
            Phase::HalfOpen(probes) => {
                if probes.are_silent(&self.rules, now) {
                    let counts = probes.counts();
                    let transition = self.open(Reason::ProbesSilent, counts, None, now, chance);
                    return (false, Some(transition));
                }
                (probes.has_room(&self.rules), None)
            }
        }
    }

    /// The statistics of this generation say that it is time to stop. `hint`: how long the destination asked to be left alone.
    ///
    /// Nothing happens if the generation is over, or it would not open from the state it is in.
    pub fn trip(
        &mut self,
        generation: u64,
        trip: Trip,
        hint: Option<Duration>,
        now: Instant,
        chance: Sample,
    ) -> Option<Transition> {
        if generation != self.generation {
            return None;
        }
        match self.phase {
            Phase::Closed { since } => {
                if now.saturating_duration_since(since) >= self.open_for {
                    self.openings = 0;
                }
                Some(self.open(trip.reason, trip.counts, hint, now, chance))
            }
            Phase::ObserveOnly { silent_until } => {
                if silent_until.is_some_and(|until| now < until) {
                    return None;
                }
                let open_for = self.rules.config().open_for;
                self.generation += 1;
                self.phase = Phase::ObserveOnly {
                    silent_until: now.checked_add(open_for),
                };
                Some(Transition {
                    from: State::ObserveOnly,
                    to: State::Open,
                    reason: trip.reason,
                    counts: trip.counts,
                    open_for: Some(open_for),
                })
            }
            Phase::Open { .. } | Phase::HalfOpen(_) | Phase::ForcedOpen | Phase::Disabled => None,
        }
    }

    /// What the probe of this generation came to. `false` if the generation is over: then nothing happens.
    pub fn settle(
        &mut self,
        generation: u64,
        report: &Report,
        now: Instant,
        chance: Sample,
    ) -> (bool, Option<Transition>) {
        let rules = self.rules;
        let Some(probes) = self.probes(generation) else {
            return (false, None);
        };
        probes.under_way = probes.under_way.saturating_sub(1);
        match report.outcome {
            Outcome::Ignored => return (true, None),
            Outcome::Success if !rules.is_slow(report.took) => {
                probes.succeeded += 1;
                probes.silent_since = (probes.under_way > 0).then_some(now);
            }
            Outcome::Success | Outcome::Failure | Outcome::Throttled => probes.failed += 1,
        }
        let counts = probes.counts();
        let transition = match probes.conclusion(rules.config().probe_rule) {
            None => None,
            Some(Conclusion::Healthy) => Some(self.change(
                Phase::Closed { since: now },
                Reason::ProbesSucceeded,
                counts,
            )),
            Some(Conclusion::Sick) => {
                Some(self.open(Reason::ProbesFailed, counts, report.hint, now, chance))
            }
        };
        (true, transition)
    }

    /// The probe of this generation ended without an outcome: another one may take its place. `false` if the generation is over.
    pub fn release(&mut self, generation: u64) -> bool {
        match self.probes(generation) {
            Some(probes) => {
                probes.under_way = probes.under_way.saturating_sub(1);
                true
            }
            None => false,
        }
    }

    /// Lets nothing pass, until it is told otherwise.
    pub fn force_open(&mut self) -> Option<Transition> {
        self.by_hand(Phase::ForcedOpen)
    }

    /// Closes at once, as if probes had succeeded, and goes on by itself.
    pub fn force_closed(&mut self, now: Instant) -> Option<Transition> {
        self.by_hand(Phase::Closed { since: now })
    }

    /// Lets everything pass and counts nothing, until it is told otherwise.
    pub fn disable(&mut self) -> Option<Transition> {
        self.by_hand(Phase::Disabled)
    }

    /// Lets everything pass, and only tells when it would have opened, until it is told otherwise.
    pub fn observe_only(&mut self) -> Option<Transition> {
        self.by_hand(Phase::ObserveOnly { silent_until: None })
    }

    /// Begins anew: closed, with nothing counted and the shortest open time. Calls that are under way do not count any more.
    pub fn reset(&mut self, now: Instant) -> Option<Transition> {
        self.openings = 0;
        self.open_for = Duration::ZERO;
        let phase = Phase::Closed { since: now };
        if self.state() == State::Closed {
            self.generation += 1;
            self.phase = phase;
            return None;
        }
        Some(self.change(phase, Reason::ByHand, Counts::default()))
    }

    fn probes(&mut self, generation: u64) -> Option<&mut Probes> {
        match &mut self.phase {
            Phase::HalfOpen(probes) if generation == self.generation => Some(probes),
            Phase::HalfOpen(_)
            | Phase::Closed { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::ObserveOnly { .. } => None,
        }
    }

    const fn probe(&self) -> Admission {
        Admission::Admitted(Ticket {
            generation: self.generation,
            is_probe: true,
        })
    }

    fn by_hand(&mut self, phase: Phase) -> Option<Transition> {
        let before = self.state();
        let transition = Self { phase, ..*self }.state() != before;
        transition.then(|| self.change(phase, Reason::ByHand, Counts::default()))
    }

    fn open(
        &mut self,
        reason: Reason,
        counts: Counts,
        hint: Option<Duration>,
        now: Instant,
        chance: Sample,
    ) -> Transition {
        self.open_for = self.next_open_time(hint, chance);
        self.openings = self.openings.saturating_add(1);
        let until = now.checked_add(self.open_for).unwrap_or(now);
        let transition = self.change(Phase::Open { until }, reason, counts);
        Transition {
            open_for: Some(self.open_for),
            ..transition
        }
    }

    fn next_open_time(&self, hint: Option<Duration>, chance: Sample) -> Duration {
        let config = self.rules.config();
        let growth = config
            .multiplier
            .powi(i32::try_from(self.openings).unwrap_or(i32::MAX));
        let grown = config.open_for.as_secs_f64() * growth;
        let open_for = if growth == 1.0 {
            config.open_for
        } else {
            Duration::from_secs_f64(grown.min(config.open_cap.as_secs_f64()))
        };
        let longest = open_for.mul_f64(config.jitter);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let open_for = open_for + Duration::from_nanos(chance.within(0, nanos));
        match hint {
            Some(hint) => open_for.max(hint.min(config.hint_cap)),
            None => open_for,
        }
    }

    fn change(&mut self, phase: Phase, reason: Reason, counts: Counts) -> Transition {
        let from = self.state();
        self.generation += 1;
        self.phase = phase;
        Transition {
            from,
            to: self.state(),
            reason,
            counts,
            open_for: None,
        }
    }
}

enum Conclusion {
    Healthy,
    Sick,
}

impl Probes {
    fn are_silent(&self, rules: &Rules, now: Instant) -> bool {
        let limit = rules.config().half_open_limit;
        self.silent_since
            .is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    fn has_room(&self, rules: &Rules) -> bool {
        let config = rules.config();
        let left = match config.probe_rule {
            ProbeRule::Successes(_) => u32::MAX,
            ProbeRule::Rate { calls, .. } => calls - self.succeeded - self.failed,
        };
        self.under_way < config.probes_at_a_time.min(left)
    }

    fn conclusion(&self, rule: ProbeRule) -> Option<Conclusion> {
        match rule {
            ProbeRule::Successes(_) if self.failed > 0 => Some(Conclusion::Sick),
            ProbeRule::Successes(successes) => {
                (self.succeeded >= successes).then_some(Conclusion::Healthy)
            }
            ProbeRule::Rate { rate, calls } => {
                // As soon as no other probe could change it.
                let opens = |failed: u32| {
                    let counts = Counts {
                        calls: calls.into(),
                        failures: failed.into(),
                    };
                    is_rate_reached(counts, rate)
                };
                if opens(self.failed) {
                    Some(Conclusion::Sick)
                } else {
                    let worst = calls.saturating_sub(self.succeeded);
                    (!opens(worst)).then_some(Conclusion::Healthy)
                }
            }
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            calls: u64::from(self.succeeded) + u64::from(self.failed),
            failures: self.failed.into(),
        }
    }
}

const fn rejected(refusal: Refusal, retry_after: Duration) -> Admission {
    Admission::Rejected(Rejection::new(refusal, retry_after))
}
