use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_core::breaker::{Rules, State, Transition};
use tokio::time::Instant;

use crate::{
    CircuitBreaker,
    admission::{Held, Lane},
    notice::Hook,
    shared::Shared,
    source::Lanes,
};

pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A breaker that is kept.
pub(super) struct Slot {
    /// One for all threads: it is written to by those of one key only.
    lane: Arc<Lane>,
    /// The name of its key, which may not be that of the breaker.
    label: Arc<str>,
    /// Since the last turn.
    is_used: AtomicBool,
    /// The turn at which it was found used the last time.
    seen_at: Instant,
}

impl Slot {
    pub(super) fn new(name: Arc<str>, label: Arc<str>, rules: Rules, now: Instant) -> Self {
        let shared = Arc::new(Shared::new(name, rules, now));
        let slot = Self {
            lane: Arc::new(Lane { shared }),
            label,
            is_used: AtomicBool::new(false),
            seen_at: now,
        };
        if !slot.has_own_name() {
            let log: Hook = Arc::new(log);
            slot.add_hook(&log);
        }
        slot
    }

    #[inline]
    pub(super) fn hold(&self) -> Held {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        self.hold_unused()
    }

    /// Who comes once does not get a second turn.
    #[inline]
    pub(super) fn hold_unused(&self) -> Held {
        Held(Arc::clone(&self.lane))
    }

    pub(super) fn handle(&self) -> CircuitBreaker {
        let shared = Arc::clone(&self.lane.shared);
        let lanes = Lanes::of(&shared, 1);
        CircuitBreaker { shared, lanes }
    }

    /// The hook is told of the key, whatever the name of the breaker.
    pub(super) fn add_hook(&self, hook: &Hook) {
        let hook = if self.has_own_name() {
            Arc::clone(hook)
        } else {
            let (label, hook) = (Arc::clone(&self.label), Arc::clone(hook));
            Arc::new(move |_: &str, transition: &Transition| hook(&label, transition))
        };
        self.lane.shared.notices().add_hook(hook);
    }

    fn has_own_name(&self) -> bool {
        self.lane.shared.name() == &self.label
    }

    /// Looks at it in its turn.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        let was_used = std::mem::take(self.is_used.get_mut());
        if was_used {
            self.seen_at = now;
        }
        let is_forgotten = now.saturating_duration_since(self.seen_at) >= FORGET_AFTER;
        match self.alone() {
            Some(shared) if may_go(shared, is_forgotten, now) => {
                if was_used {
                    Look::Used
                } else {
                    Look::Unused
                }
            }
            Some(_) | None => Look::Needed,
        }
    }

    /// The breaker, if nobody else has it. Who has a permit, has the lane; who has a handle, has the breaker.
    fn alone(&mut self) -> Option<&Shared> {
        let lane = Arc::get_mut(&mut self.lane)?;
        Arc::get_mut(&mut lane.shared).map(|shared| &*shared)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Of breakers that share a name, the gauge is that of the last one which changed.
        if self.has_own_name() {
            self.lane.shared.notices().end();
        }
    }
}

/// What a look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It may not go.
    Needed,
    /// It may go if there is nothing better.
    Used,
    /// It may go.
    Unused,
}

fn may_go(shared: &Shared, is_forgotten: bool, now: Instant) -> bool {
    match shared.gate().state() {
        State::Closed => is_forgotten || is_blank(shared, now),
        State::Open => is_forgotten && shared.open_left(now).is_zero(),
        State::HalfOpen => is_forgotten,
        State::ForcedOpen | State::Disabled | State::ObserveOnly | _ => false,
    }
}

/// Whether a new one would be as good. One that has changed its state may have a longer open time before it.
fn is_blank(shared: &Shared, now: Instant) -> bool {
    const FIRST_GENERATION: u64 = 1;

    let generation = shared.gate().generation();
    let statistics = shared.statistics();
    let now = now.into_std();
    generation == FIRST_GENERATION
        && statistics.consecutive_failures(generation) == 0
        && [
            statistics.failures(generation, now),
            statistics.slow_calls(generation, now),
        ]
        .iter()
        .flatten()
        .all(|counts| counts.failures == 0)
}

/// For breakers whose name says nothing.
fn log(key: &str, transition: &Transition) {
    tracing::info!(
        key,
        from = transition.from().as_str(),
        to = transition.to().as_str(),
        is_hypothetical = transition.is_hypothetical(),
        "the circuit that changed is that of this key"
    );
}
