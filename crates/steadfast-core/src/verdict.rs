//! What a layer concluded about an outcome: the word that retry and breaker read alike.

use std::time::Duration;

/// What a layer concluded about one call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The destination did what was asked, or said in good health that it will not.
    Success,
    /// The call failed.
    Failure(Failure),
    /// Says nothing about the destination: a local rejection, or a caller that left.
    Ignored,
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    class: SafetyClass,
    cause: Cause,
    hint: Option<Hint>,
}

impl Failure {
    /// A failure of this class, from this cause, without a hint.
    #[must_use]
    pub const fn new(class: SafetyClass, cause: Cause) -> Self {
        Self {
            class,
            cause,
            hint: None,
        }
    }

    /// Adds the destination's word about when, or whether, to try again.
    #[must_use]
    pub const fn with_hint(self, hint: Option<Hint>) -> Self {
        Self { hint, ..self }
    }

    /// Whether the operation may be sent again.
    #[must_use]
    pub const fn class(&self) -> SafetyClass {
        self.class
    }

    /// What went wrong.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// The destination's word about when, or whether, to try again.
    #[must_use]
    pub const fn hint(&self) -> Option<Hint> {
        self.hint
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Whether a failed call may be sent again without doing its effect twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SafetyClass {
    /// The destination provably did not process the call: any operation may be sent again.
    NotProcessed,
    /// The fault may pass, and the call may have been processed: only an idempotent operation may be sent again.
    Transient,
    /// Sending the call again would fail alike, or was forbidden.
    Permanent,
}

impl SafetyClass {
    /// Whether a call of this class may be sent again, given whether its operation is idempotent.
    #[must_use]
    pub const fn permits_retry(self, idempotent: bool) -> bool {
        match self {
            Self::NotProcessed => true,
            Self::Transient => idempotent,
            Self::Permanent => false,
        }
    }
}

/// What went wrong, where policies tell the cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// A time limit of ours ended the attempt.
    Elapsed,
    /// The destination, or the way to it, is not in order.
    Fault,
    /// Another call with this key is being executed: the destination is in good health, and will have the answer.
    InProgress,
    /// The destination asks for fewer calls.
    Throttled,
    /// The call came in early data, and would be welcome once the handshake is done (RFC 8470).
    TooEarly,
}

impl Cause {
    /// Every cause there is.
    pub const ALL: &'static [Self] = &[
        Self::Elapsed,
        Self::Fault,
        Self::InProgress,
        Self::Throttled,
        Self::TooEarly,
    ];

    /// The word of logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Elapsed => "elapsed",
            Self::Fault => "fault",
            Self::InProgress => "in_progress",
            Self::Throttled => "throttled",
            Self::TooEarly => "too_early",
        }
    }
}

/// The server's word about when, or whether, to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Not before this much time has passed.
    After(Duration),
    /// Not at all.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_processed_is_safe_for_every_operation() {
        assert!(SafetyClass::NotProcessed.permits_retry(false));

        assert!(SafetyClass::Transient.permits_retry(true));
        assert!(!SafetyClass::Transient.permits_retry(false));

        assert!(!SafetyClass::Permanent.permits_retry(true));
    }
}
