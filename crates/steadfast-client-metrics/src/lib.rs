#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod future;
mod host;
mod layer;
mod series;
mod service;

pub use crate::{future::ResponseFuture, layer::ClientMetricsLayer, service::Measured};
