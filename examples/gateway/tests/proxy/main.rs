//! Runs the gateway on real sockets, between clients and upstreams that are told what to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod bodies;
mod breakers;
mod connections;
mod framing;
mod heads;
mod hostile;
mod passing;
mod retries;
mod slow;
mod support;
mod times;
