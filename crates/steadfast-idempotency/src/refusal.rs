//! Every refusal of the layer, in words that tell a client what to do.

use steadfast_core::idempotency::{MalformedKey, Promise};
use steadfast_http::problem::{Code, ORIGINAL_STATUS, Problem};
use steadfast_store::{StoreError, StoreErrorKind};

use crate::{IdempotencyConfig, scope::NoPrincipal};

pub(crate) fn missing_key() -> Problem {
    Problem::new(
        Code::MissingKey,
        "send an Idempotency-Key header that is new for each operation and the same for each retry of it",
    )
}

pub(crate) fn two_keys() -> Problem {
    Problem::new(
        Code::MalformedKey,
        "there is more than one Idempotency-Key header",
    )
}

pub(crate) fn malformed_key(error: MalformedKey) -> Problem {
    Problem::new(
        Code::MalformedKey,
        format!("the Idempotency-Key header cannot be read: {error}"),
    )
}

pub(crate) fn no_principal(refused: NoPrincipal) -> Problem {
    let problem = Problem::new(Code::UnauthorizedScope, refused.detail);
    match refused.challenge {
        Some(challenge) => problem.with_challenge(challenge),
        None => problem,
    }
}

pub(crate) fn body_too_large(limit: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("the request body is larger than {limit} bytes; nothing was executed"),
    )
}

pub(crate) fn body_too_large_for_another() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        "the request body is larger than the service allows; nothing was executed",
    )
}

pub(crate) fn body_timeout() -> Problem {
    Problem::new(
        Code::BodyTimeout,
        "the request body did not arrive in time; nothing was executed",
    )
}

pub(crate) fn body_unreadable() -> Problem {
    Problem::new(
        Code::BodyUnreadable,
        "the request body could not be read to its end; nothing was executed",
    )
}

pub(crate) fn overloaded(config: &IdempotencyConfig) -> Problem {
    Problem::new(
        Code::Overloaded,
        "the service holds as many operations as it may; nothing was executed, send the same request again later",
    )
    .with_retry_after(config.retry_after)
}

/// The service failed before the handler was started.
pub(crate) fn not_ready(config: &IdempotencyConfig) -> Problem {
    Problem::new(
        Code::Overloaded,
        "the service could not start the operation; nothing was executed, send the same request again later",
    )
    .with_retry_after(config.retry_after)
}

/// The store failed before anything ran.
pub(crate) fn store_failed(error: &StoreError, config: &IdempotencyConfig) -> Problem {
    match error.kind() {
        StoreErrorKind::Misconfigured => Problem::new(
            Code::StoreUnavailable,
            "the store of operations is not set up for this; nothing was executed",
        )
        .with_retryable(false),
        StoreErrorKind::Refused => overloaded(config),
        StoreErrorKind::Unavailable | _ => Problem::new(
            Code::StoreUnavailable,
            "the store of operations cannot be used; nothing was executed for this request, send it again later",
        )
        .with_retry_after(config.retry_after),
    }
}

/// The execution was cancelled, since another may have started.
pub(crate) fn store_lost(config: &IdempotencyConfig) -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        "the store of operations was lost during the execution; send the same request again to learn its outcome",
    )
    .with_retry_after(config.retry_after)
}

/// A newer version of the service wrote the answer, or it is damaged.
pub(crate) fn record_unreadable(config: &IdempotencyConfig) -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        "the operation has its answer, and this process of the service cannot read it; send the same request again later",
    )
    .with_retry_after(config.retry_after)
}

pub(crate) fn key_reused() -> Problem {
    Problem::new(
        Code::KeyReused,
        "the key belongs to a request that asked for something else; repeat that request unchanged, or use a new key only for a new operation",
    )
}

pub(crate) fn in_progress(config: &IdempotencyConfig) -> Problem {
    Problem::new(
        Code::InProgress,
        "the operation is pending: a request with this key is being executed; send the same request again later to get its answer",
    )
    .with_retry_after(config.retry_after)
}

/// The owner was lost and nobody may run the operation again.
pub(crate) fn indeterminate() -> Problem {
    Problem::new(
        Code::OutcomeUnknown,
        "the execution of the operation was lost and its outcome is unknown until the service has resolved it; do not use a new key for it",
    )
}

/// This execution ended without an outcome.
pub(crate) fn outcome_lost(promise: Promise, config: &IdempotencyConfig) -> Problem {
    match promise {
        Promise::AtLeastOnce => Problem::new(
            Code::OutcomeUnknown,
            "the execution ended without an outcome; send the same request again to execute it anew",
        )
        .with_status(http::StatusCode::SERVICE_UNAVAILABLE)
        .with_retryable(true)
        .with_retry_after(config.retry_after),
        Promise::AtMostOnce | _ => indeterminate(),
    }
}

pub(crate) fn not_retained(status: http::StatusCode, location: Option<&str>) -> Problem {
    let problem = Problem::new(
        Code::ResponseNotRetained,
        "the operation has its answer, which was too large or endless to be kept; it was not executed again",
    )
    .with_member(ORIGINAL_STATUS, status.as_u16());
    match location {
        Some(location) => problem.with_member("location", location),
        None => problem,
    }
}
