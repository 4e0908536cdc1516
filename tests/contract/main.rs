//! tower's laws, for every layer: what a service may rely on when a layer is put around it, whatever the layer does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocations;
mod breaker;
mod client_metrics;
mod differential;
mod drops;
mod idempotency;
mod laws;
mod placement;
mod retry;
mod secrets;
mod sharing;
mod support;
mod types;
