#![doc = include_str!("../README.md")]

pub mod body;
mod deadline;
pub mod grpc;
pub mod header;
pub mod problem;
mod rejection;

pub use crate::{deadline::Deadline, rejection::LocalRejection};

/// An error of any kind, as tower and its users pass it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
