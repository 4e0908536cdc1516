//! The rules of `SEMANTICS.md`, a module for each theme, over the public interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answer;
mod applies;
mod blocking;
mod construction;
mod contract;
mod drops;
mod fingerprint;
mod gauges;
mod grpc;
mod grpc_coverage;
mod grpc_heads;
mod grpc_large;
mod grpc_refusals;
mod joined_callers;
mod joined_claims;
mod joined_ends;
mod joined_lost;
mod joined_moment;
mod joined_released;
mod joined_unstarted;
mod joining;
mod key;
mod large;
mod lease;
mod max_execution;
mod metrics;
mod outcome;
mod pace;
mod polling;
mod properties;
mod recipes;
mod request_body;
mod resolution;
mod routers;
mod running;
mod scope;
mod signals;
mod store_trouble;
mod waiting;
mod waiting_for_claims;
mod wire;
