use std::error::Error;

use steadfast_http::problem::Code;
use steadfast_store::StoreError;
use tracing::{Span, field};

/// How a keyed request ended: the span field `idempotency.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The handler ran and its outcome is unknown.
    Abandoned,
    /// The handler ran, for the first time, and its answer is kept.
    Executed,
    /// The handler failed with an error instead of a response.
    Failed,
    /// The handler panicked.
    Panicked,
    /// The layer answered by itself.
    Refused(Code),
    /// The handler ran and declared that nothing happened.
    Released,
    /// The answer was given before.
    Replayed,
    /// The handler ran after an owner was lost, and its answer is kept.
    TakenOver,
    /// The handler ran and the store has not acknowledged its answer.
    Unstored,
}

impl Signal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Refused(code) => match code {
                Code::InProgress => "in_progress",
                Code::KeyReused => "conflict",
                Code::OutcomeUnknown => "outcome_unknown",
                Code::ResponseNotRetained => "not_retained",
                Code::StoreUnavailable => "store_unavailable",
                Code::Overloaded => "overloaded",
                Code::MissingKey => "missing_key",
                Code::MalformedKey => "malformed_key",
                Code::UnauthorizedScope => "unauthorized",
                Code::BodyTooLarge | Code::BodyTimeout | Code::BodyUnreadable => "body_refused",
                Code::AttemptTimeout
                | Code::CircuitOpen
                | Code::DeadlinePassed
                | Code::TransactionEnded
                | _ => "refused",
            },
            Self::Released => "released",
            Self::Replayed => "replayed",
            Self::TakenOver => "takeover",
            Self::Unstored => "unstored",
        }
    }

    /// Sets the field of the current span.
    pub(crate) fn record(self) {
        let outcome = self.as_str();
        Span::current().record("idempotency.outcome", outcome);
        tracing::debug!(outcome, "idempotency");
    }
}

/// The span of one keyed request. It lasts until its work is done, also when its caller has left.
pub(crate) fn span(key: &steadfast_core::idempotency::KeyDigest) -> Span {
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
