use std::fmt;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use steadfast_core::idempotency::{Execution, KeyDigest};
use steadfast_store::StoreId;

use crate::digest;

/// The operation that a handler executes: an axum extractor, and for others a value in the request's extensions.
///
/// ```
/// use steadfast_idempotency::Operation;
///
/// async fn create_charge(operation: Operation) -> String {
///     // The provider deduplicates on this key, whichever execution sends it.
///     operation.derive("charge")
/// }
/// # let _ = axum::routing::MethodRouter::<()>::new().post(create_charge);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Operation {
    store: StoreId,
    key: KeyDigest,
    execution: Execution,
}

impl Operation {
    pub(crate) const fn new(store: StoreId, key: KeyDigest, execution: Execution) -> Self {
        Self {
            store,
            key,
            execution,
        }
    }

    /// Whether this is the operation that `key` names, claimed in `store`: another layer on the path holds it.
    pub(crate) fn is_claimed_in(&self, store: StoreId, key: &KeyDigest) -> bool {
        self.store == store && self.key == *key
    }

    /// The digest that names the operation in the store.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.key
    }

    /// Which run of the operation this is: 1 for the first, one more with each takeover.
    #[must_use]
    pub const fn execution(&self) -> u32 {
        self.execution.get()
    }

    /// A key for a call that the handler makes: the same on every execution of this operation, another for each `name` and each
    /// operation. A receiver that deduplicates on it sees one call. It is 32 hexadecimal digits, as every known provider takes.
    #[must_use]
    pub fn derive(&self, name: &str) -> String {
        digest::downstream_key(&self.key, name)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("key", &self.key.prefix())
            .field("execution", &self.execution.get())
            .finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = MissingOperation;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingOperation> {
        parts.extensions.get().cloned().ok_or(MissingOperation(()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Operation {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, std::convert::Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// The handler asked for its operation and no layer has claimed one: the route is not covered, or the key is optional and the
/// request had none. Answers 500; extract `Option<Operation>` where that can be.
#[derive(Debug)]
pub struct MissingOperation(());

impl fmt::Display for MissingOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no idempotency layer has claimed an operation for this request")
    }
}

impl std::error::Error for MissingOperation {}

impl IntoResponse for MissingOperation {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
