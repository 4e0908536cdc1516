use std::time::Duration;

use steadfast_core::breaker::{Counts, State};
use tokio::time::Instant;

use crate::shared::Shared;

/// What a breaker was at one moment. Calls go on meanwhile: its numbers are of about the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    state: State,
    open_left: Duration,
    consecutive_failures: u32,
    failures: Option<Counts>,
    slow_calls: Option<Counts>,
}

impl Snapshot {
    pub(crate) fn of(shared: &Shared, now: Instant) -> Self {
        let gate = shared.gate();
        let (state, generation) = (gate.state(), gate.generation());
        let statistics = shared.statistics();
        let open_left = match state {
            State::Open => shared.open_left(now),
            State::Closed
            | State::HalfOpen
            | State::ForcedOpen
            | State::Disabled
            | State::ObserveOnly
            | _ => Duration::ZERO,
        };
        Self {
            state,
            open_left,
            consecutive_failures: statistics.consecutive_failures(generation),
            failures: statistics.failures(generation, now.into_std()),
            slow_calls: statistics.slow_calls(generation, now.into_std()),
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What was left of the open time; zero where it was not open, or a call may have probed.
    #[must_use]
    pub const fn open_left(&self) -> Duration {
        self.open_left
    }

    /// How many calls had failed in a row.
    #[must_use]
    pub const fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// The calls in the window of the failure rate; none without such a rule.
    #[must_use]
    pub const fn failures(&self) -> Option<Counts> {
        self.failures
    }

    /// The calls in the window of slow calls, those that were slow as failures; none without such a rule.
    #[must_use]
    pub const fn slow_calls(&self) -> Option<Counts> {
        self.slow_calls
    }
}
