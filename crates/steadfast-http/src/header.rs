//! The names of the headers that the layers read and write.

use http::HeaderName;

/// `idempotency-key`: names the operation (draft-ietf-httpapi-idempotency-key-header). In gRPC, the metadata of this name.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `idempotent-replayed`: `true` on an answer that was given before, `false` on the answer of the execution itself. Absent on a
/// refusal.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// `idempotent-stored`: `false` on an answer whose storage is not acknowledged; a later request with the key may get another.
pub const IDEMPOTENT_STORED: HeaderName = HeaderName::from_static("idempotent-stored");
