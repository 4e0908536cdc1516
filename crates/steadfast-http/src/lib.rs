#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
pub mod classify;
mod deadline;
mod destination;
pub mod grpc;
pub mod header;
pub mod hint;
mod idempotent;
pub mod problem;
mod rejection;
#[cfg(feature = "reqwest")]
pub mod reqwest;

pub use crate::{
    deadline::Deadline, destination::Destination, idempotent::IdempotentRequest,
    rejection::LocalRejection,
};

/// An error of any kind, as tower and its users pass it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
