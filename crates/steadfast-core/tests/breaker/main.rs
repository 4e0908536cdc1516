//! The rules of a breaker, each by name: the machine in virtual time, the statistics against slow obvious models.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod by_hand;
mod config;
mod half_open;
mod invariants;
mod models;
mod open;
mod statistics;
mod support;
mod threads;
