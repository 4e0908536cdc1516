//! gRPC (idempotency I1, I9 to I11): one `.layer(...)` on a tonic server, with tonic's client, bare HTTP/2, and a client that
//! nobody here wrote.

mod answers;
mod authentication;
mod client;
mod failures;
mod fleeting;
mod foreign;
mod outcomes;
mod placements;
mod shop;
mod stores;
mod streams;

use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Promise},
    store::MemoryStore,
};

use crate::support::layer;

/// Covers the unary method.
fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([shop::CREATE])
}

fn memory(promise: Promise) -> IdempotencyLayer<MemoryStore> {
    layer(promise, MemoryStore::default(), config())
}
