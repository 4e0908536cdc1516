#![doc = include_str!("../README.md")]

mod answer;
mod body;
mod config;
mod detach;
mod digest;
mod execution;
mod fingerprint;
mod future;
mod handle;
mod intake;
mod join;
mod keyed;
mod layer;
mod lease;
mod metrics;
mod operation;
mod outcome;
mod places;
mod poller;
mod record;
mod refusal;
mod run;
pub mod scope;
#[doc = include_str!("../SEMANTICS.md")]
pub mod semantics {}
mod service;
mod shared;
mod signal;
mod wait;
mod wire;
mod work;

pub use steadfast_core::idempotency::{KeyDigest, MalformedKey, Outcome, Promise};

pub use crate::{
    config::{ConfigError, IdempotencyConfig, KeyRequirement},
    future::ResponseFuture,
    handle::{IdempotencyHandle, Undrained},
    layer::IdempotencyLayer,
    operation::{MissingOperation, Operation},
    scope::Scope,
    service::Idempotency,
};
