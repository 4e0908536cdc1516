//! What is SQLite's own. The clauses of the store contract run in the conformance suite.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod operations;
mod processes;
mod reference;
mod sharing;
mod support;
mod trouble;
