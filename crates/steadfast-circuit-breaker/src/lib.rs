#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
mod body;
mod breaker;
mod error_mode;
mod future;
mod http_mode;
mod layer;
mod metrics;
mod mode;
mod notice;
mod permit;
mod registry;
mod rejected;
#[doc = include_str!("../SEMANTICS.md")]
pub mod semantics {}
mod service;
mod shared;
mod snapshot;
mod source;
mod sync;

#[cfg(all(loom, test))]
mod loom;

pub use steadfast_core::{
    breaker::{
        BreakerConfig, Counts, InvalidBreaker, Outcome, Reason, Refusal, State, Transition, Window,
    },
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};
pub use steadfast_http::Destination;

pub use crate::{
    body::ResponseBody,
    breaker::CircuitBreaker,
    error_mode::OnResult,
    future::ResponseFuture,
    http_mode::{OverHttp, When},
    layer::CircuitBreakerLayer,
    mode::Mode,
    permit::Permit,
    registry::{BreakerKey, BreakerRegistry, PerDestination},
    rejected::Rejected,
    service::Guarded,
    snapshot::Snapshot,
    source::Breakers,
};
