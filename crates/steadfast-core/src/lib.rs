#![doc = include_str!("../README.md")]

pub mod idempotency;
pub mod verdict;
