use std::time::Duration;

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// All pass, and their outcomes count.
    Closed,
    /// None passes, until the open time is over.
    Open,
    /// Probes pass, a few at a time.
    HalfOpen,
    /// None passes, until somebody says otherwise.
    ForcedOpen,
    /// All pass, and nothing counts.
    Disabled,
    /// All pass, and their outcomes count, but it never opens.
    ObserveOnly,
}

impl State {
    /// Every state there is.
    pub const ALL: &'static [Self] = &[
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Disabled,
        Self::ObserveOnly,
    ];

    /// The word of logs, metrics and health checks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
            Self::ObserveOnly => "observe_only",
        }
    }
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// So many calls failed in a row.
    ConsecutiveFailures,
    /// So large a part of the calls failed.
    FailureRate,
    /// So large a part of the calls was slow.
    SlowCalls,
    /// A call came after the open time.
    OpenTimeOver,
    /// A probe failed, or too many of them did.
    ProbesFailed,
    /// Probes told nothing for too long.
    ProbesSilent,
    /// Probes succeeded, as many as it takes.
    ProbesSucceeded,
    /// Somebody said so.
    ByHand,
}

impl Reason {
    /// Every reason there is.
    pub const ALL: &'static [Self] = &[
        Self::ConsecutiveFailures,
        Self::FailureRate,
        Self::SlowCalls,
        Self::OpenTimeOver,
        Self::ProbesFailed,
        Self::ProbesSilent,
        Self::ProbesSucceeded,
        Self::ByHand,
    ];

    /// The word of logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::SlowCalls => "slow_calls",
            Self::OpenTimeOver => "open_time_over",
            Self::ProbesFailed => "probes_failed",
            Self::ProbesSilent => "probes_silent",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::ByHand => "by_hand",
        }
    }
}

/// What a statistic has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that counted: for a run of failures, those of the run.
    pub calls: u64,
    /// Those of them that failed, or were slow where that is the question.
    pub failures: u64,
}

/// It is time to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    pub(super) reason: Reason,
    pub(super) counts: Counts,
}

impl Trip {
    /// Which statistic says so.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// What it had counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub(super) from: State,
    pub(super) to: State,
    pub(super) reason: Reason,
    pub(super) counts: Counts,
    pub(super) open_for: Option<Duration>,
}

impl Transition {
    /// The state before.
    #[must_use]
    pub const fn from(&self) -> State {
        self.from
    }

    /// The state after.
    #[must_use]
    pub const fn to(&self) -> State {
        self.to
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// What was counted: by the statistic that says to stop, or of the probes. Zero for the other reasons.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How long no call passes, if it opened.
    #[must_use]
    pub const fn open_for(&self) -> Option<Duration> {
        self.open_for
    }

    /// Whether nothing changed, since the breaker only observes: it would have opened.
    #[must_use]
    pub fn is_hypothetical(&self) -> bool {
        self.from == State::ObserveOnly && self.to == State::Open
    }
}
