use http::Extensions;
use steadfast_core::retry::StoppedBy;

/// How many attempts a call took, and why there was no further one: in the extensions of its response.
///
/// A response without it is that of a first attempt that succeeded, which need not pay for it; or that of a layer with a single attempt
/// and no time limit, which does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOutcome {
    attempts: u32,
    stopped_by: StoppedBy,
}

impl RetryOutcome {
    pub(crate) const fn new(attempts: u32, stopped_by: StoppedBy) -> Self {
        Self {
            attempts,
            stopped_by,
        }
    }

    /// The outcome in the extensions of a response, if there is one.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// Attempts, the first one counted. One that a layer beneath rejected, such as a circuit breaker, counts too, though it was not
    /// sent.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Why there was no further attempt.
    #[must_use]
    pub const fn stopped_by(&self) -> StoppedBy {
        self.stopped_by
    }

    /// Whether the first attempt succeeded: nothing that anybody need be told.
    pub(crate) fn goes_without_saying(&self) -> bool {
        self.attempts == 1 && self.stopped_by == StoppedBy::Success
    }
}
