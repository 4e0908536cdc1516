#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod idempotency;
pub mod retry;
mod sync;
pub mod verdict;
