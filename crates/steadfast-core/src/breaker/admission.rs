use std::time::Duration;

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// To call.
    Admitted(Ticket),
    /// Not to call.
    Rejected(Rejection),
}

/// The right to make one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a probe that is neither settled nor released keeps its place until the half-open limit"]
pub struct Ticket {
    pub(super) generation: u64,
    pub(super) is_probe: bool,
}

impl Ticket {
    /// One of a machine that is closed, in this generation.
    #[inline]
    pub const fn closed(generation: u64) -> Self {
        Self {
            generation,
            is_probe: false,
        }
    }

    /// The generation in which it was given.
    #[inline]
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether its outcome decides for others: it is to be [settled](super::Machine::settle), or [released](super::Machine::release).
    #[inline]
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }
}

/// Why a call was not admitted, and when another one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    refusal: Refusal,
    retry_after: Duration,
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The open time is not over.
    Open,
    /// As many probes are under way as may be.
    Probing,
    /// Somebody opened it by hand.
    Forced,
}

impl Refusal {
    /// Every refusal there is.
    pub const ALL: &'static [Self] = &[Self::Open, Self::Probing, Self::Forced];

    /// The word of logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Probing => "probing",
            Self::Forced => "forced",
        }
    }
}

impl Rejection {
    /// A rejection for this reason.
    #[must_use]
    pub const fn new(refusal: Refusal, retry_after: Duration) -> Self {
        Self {
            refusal,
            retry_after,
        }
    }

    /// Why.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// What is left of the open time; zero where another call may be admitted at any moment. Opened by hand, it has no end that is
    /// known: then it is the shortest open time.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        self.retry_after
    }
}
