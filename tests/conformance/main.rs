//! Every clause of the store contract, on every store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adapters;
mod memory;
mod postgres;
mod sqlite;
