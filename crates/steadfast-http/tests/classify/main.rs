//! What real clients say when real connections fail, and what it is taken to mean.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hyper_client;
mod reqwest_client;
mod support;
mod tonic_channel;
