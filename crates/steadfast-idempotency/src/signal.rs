use std::error::Error;

use steadfast_core::idempotency::KeyDigest;
use steadfast_http::problem::Code;
use steadfast_store::StoreError;
use tracing::{Span, field};

macro_rules! signals {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// How a keyed request ended: the span field `idempotency.outcome`, and the label `outcome`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Signal {
            $($(#[$doc])* $variant,)*
        }

        impl Signal {
            /// Every one, in the order of their numbers.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

signals! {
    /// The handler ran and its outcome is unknown.
    Abandoned = "abandoned",
    /// The request body could not be read whole.
    BodyRefused = "body_refused",
    /// The key belongs to another request.
    Conflict = "conflict",
    /// The handler ran, for the first time, and its answer is kept.
    Executed = "executed",
    /// The handler failed with an error instead of a response.
    Failed = "failed",
    /// Another request with the key is being executed.
    InProgress = "in_progress",
    /// The answer is that of another request's execution in this process.
    Joined = "joined",
    /// The key cannot be read.
    MalformedKey = "malformed_key",
    /// There is no key.
    MissingKey = "missing_key",
    /// The operation has its answer, which was too large or endless.
    NotRetained = "not_retained",
    /// The execution was lost.
    OutcomeUnknown = "outcome_unknown",
    /// There was no slot, or no room for the body.
    Overloaded = "overloaded",
    /// The handler panicked.
    Panicked = "panicked",
    /// The layer answered by itself, for another reason.
    Refused = "refused",
    /// The handler ran and declared that nothing happened.
    Released = "released",
    /// The answer was given before.
    Replayed = "replayed",
    /// The store failed before anything ran, or during the execution.
    StoreUnavailable = "store_unavailable",
    /// The handler ran after an owner was lost, and its answer is kept.
    TakenOver = "takeover",
    /// The request has no principal.
    Unauthorized = "unauthorized",
    /// The handler ran and the store has not acknowledged its answer.
    Unstored = "unstored",
}

impl Signal {
    /// The word of a refusal.
    pub(crate) const fn of_refusal(code: Code) -> Self {
        match code {
            Code::InProgress => Self::InProgress,
            Code::KeyReused => Self::Conflict,
            Code::OutcomeUnknown => Self::OutcomeUnknown,
            Code::ResponseNotRetained => Self::NotRetained,
            Code::StoreUnavailable => Self::StoreUnavailable,
            Code::Overloaded => Self::Overloaded,
            Code::MissingKey => Self::MissingKey,
            Code::MalformedKey => Self::MalformedKey,
            Code::UnauthorizedScope => Self::Unauthorized,
            Code::BodyTooLarge | Code::BodyTimeout | Code::BodyUnreadable => Self::BodyRefused,
            Code::AttemptTimeout
            | Code::CircuitOpen
            | Code::DeadlinePassed
            | Code::TransactionEnded
            | _ => Self::Refused,
        }
    }

    /// Sets the field of the current span.
    pub(crate) fn show(self) {
        let outcome = self.as_str();
        Span::current().record("idempotency.outcome", outcome);
        tracing::debug!(outcome, "idempotency");
    }
}

/// The span of one keyed request. It lasts until its work is done, also when its caller has left.
pub(crate) fn span(key: &KeyDigest) -> Span {
    tracing::info_span!(
        "idempotency",
        idempotency.key = %key.prefix(),
        idempotency.execution = field::Empty,
        idempotency.outcome = field::Empty,
    )
}

/// Logs what the store failed at, with the driver's error.
pub(crate) fn log(error: &StoreError, what: &'static str) {
    let error: &(dyn Error + 'static) = error;
    tracing::warn!(error, "{what}");
}

/// Logs a failure that was logged before and is tried again.
pub(crate) fn log_again(error: &StoreError, what: &'static str) {
    let error: &(dyn Error + 'static) = error;
    tracing::debug!(error, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbered_in_the_order_of_the_list() {
        for (number, &signal) in Signal::ALL.iter().enumerate() {
            assert_eq!(signal as usize, number);
        }
    }
}
