//! Real servers over loopback sockets: every placement, clients that leave, handlers that fail, databases that stop, and input
//! that means harm.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod breaker;
mod connections;
mod departures;
mod failures;
mod grpc;
mod herd;
mod hostile;
mod order;
mod outage;
mod placements;
mod retry;
mod round_trips;
mod shutdown;
mod support;
