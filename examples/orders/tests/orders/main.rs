//! Runs [`orders::app`] and its clients over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod deadlines;
mod idempotency;
mod outages;
mod readme;
mod retries;
mod server;
mod streams;
