//! Bodies that can be sent again: rule R9 of the retry layer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod model;
mod rules;
mod support;
mod wire;
