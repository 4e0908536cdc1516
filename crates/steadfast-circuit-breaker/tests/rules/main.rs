//! The rules of `SEMANTICS.md`, each by name, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod configuration;
mod drops;
mod half_open;
mod haste;
mod late;
mod listening;
mod open;
mod outcomes;
mod panics;
mod permits;
mod readiness;
mod rejection;
mod states;
mod support;
mod threads;
mod visible;
mod when;
