//! The rules of `SEMANTICS.md`, each by name, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attempts;
mod backoff;
mod bodies;
mod budget;
mod classification;
mod configuration;
mod decision;
mod drops;
mod freeing;
mod generic;
mod hints;
mod keys;
mod limits;
mod readiness;
mod replay;
mod safety;
mod support;
mod time;
mod visible;
