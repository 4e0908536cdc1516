//! The rules of `SEMANTICS.md`, a module for each theme, over the public interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answer;
mod applies;
mod construction;
mod contract;
mod drops;
mod fingerprint;
mod key;
mod large;
mod lease;
mod max_execution;
mod outcome;
mod properties;
mod request_body;
mod resolution;
mod routers;
mod running;
mod scope;
mod signals;
mod store_trouble;
mod waiting;
mod wire;
