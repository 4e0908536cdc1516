//! What is Postgres' own about the store. The contract itself is the conformance suite's.

#![expect(
    clippy::unwrap_used,
    reason = "clippy frees test functions alone, and these have helpers"
)]

mod cost;
mod failures;
mod reference;
mod schema;
mod support;
