use std::time::Duration;

use crate::verdict::{Cause, Failure, Hint, Verdict};

/// What one call says of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It is in good health.
    Success,
    /// It is not.
    Failure,
    /// It asks for fewer calls. That counts as a failure in rates, and of a probe, but neither lengthens a run of failures nor ends
    /// it: who throttles some callers still serves others.
    Throttled,
    /// Nothing.
    Ignored,
}

impl Outcome {
    /// Every outcome there is.
    pub const ALL: &'static [Self] =
        &[Self::Success, Self::Failure, Self::Throttled, Self::Ignored];

    /// The word of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Throttled => "throttled",
            Self::Ignored => "ignored",
        }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure.cause() {
            Cause::Elapsed | Cause::Fault => Self::Failure,
            Cause::Throttled => Self::Throttled,
            // Said by a destination in good health.
            Cause::InProgress | Cause::TooEarly => Self::Success,
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Success => Self::Success,
            Verdict::Failure(failure) => failure.into(),
            Verdict::Ignored => Self::Ignored,
        }
    }
}

/// What is known of one call at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub(super) outcome: Outcome,
    pub(super) took: Option<Duration>,
    pub(super) hint: Option<Duration>,
}

impl Report {
    /// A call with this outcome, of which nothing else is known.
    #[must_use]
    pub const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            took: None,
            hint: None,
        }
    }

    /// How long it took: without it, no call is slow.
    #[must_use]
    pub const fn with_took(self, took: Option<Duration>) -> Self {
        Self { took, ..self }
    }

    /// What the call says of its destination.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// How long the destination asked to be left alone.
    #[must_use]
    pub const fn hint(&self) -> Option<Duration> {
        self.hint
    }
}

impl From<Verdict> for Report {
    /// The outcome, and the wait that the destination asked for.
    fn from(verdict: Verdict) -> Self {
        let hint = match verdict {
            Verdict::Failure(failure) => match failure.hint() {
                Some(Hint::After(wait)) => Some(wait),
                Some(Hint::Stop) | None => None,
            },
            Verdict::Success | Verdict::Ignored => None,
        };
        Self {
            hint,
            ..Self::new(verdict.into())
        }
    }
}
