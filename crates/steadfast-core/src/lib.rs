#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod budget;
pub mod idempotency;
pub mod retry;
pub mod verdict;
