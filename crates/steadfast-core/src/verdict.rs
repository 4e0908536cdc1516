//! What a layer concluded about an outcome: the word that retry and breaker read alike.

use std::time::Duration;

/// What a layer concluded about one call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The destination did what was asked, or said in good health that it will not.
    Success,
    /// The call failed.
    Failure {
        /// Whether the operation may be sent again.
        class: SafetyClass,
        /// The destination's word about when, or whether, to try again.
        hint: Option<Hint>,
    },
    /// Says nothing about the destination: a local rejection, or a caller that left.
    Ignored,
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
