#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod call;
mod config;
mod custom;
mod drain;
mod elapsed;
mod exchange;
mod future;
mod head;
mod http;
mod key;
mod layer;
mod limit;
mod metrics;
mod mode;
mod outcome;
mod policy;
#[doc = include_str!("../SEMANTICS.md")]
pub mod semantics {}
mod service;
mod shared;
mod signal;
mod stamp;

pub use steadfast_core::{
    backoff::{Backoff, InvalidBackoff, Jitter},
    budget::{Budget, InvalidBudget},
    retry::StoppedBy,
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};
pub use steadfast_http::classify::ResponseHead;

pub use crate::{
    body::{BodyIdle, ResponseBody},
    config::{ConfigError, RetryConfig},
    custom::CustomFuture,
    elapsed::Elapsed,
    future::ResponseFuture,
    key::{IdempotencyKeyLayer, SetIdempotencyKey},
    layer::RetryLayer,
    mode::{BodyMode, Custom, SameBody, Wrapped},
    outcome::RetryOutcome,
    policy::{Attempted, Policy},
    service::Retry,
};
