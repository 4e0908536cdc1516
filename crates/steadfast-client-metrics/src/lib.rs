#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod future;
mod hosts;
mod layer;
mod measurement;
mod series;
mod service;

pub use crate::{future::ResponseFuture, layer::ClientMetricsLayer, service::ClientMetrics};
