#![doc = include_str!("../README.md")]
//!
//! # Schema
//!
//! `{table}` stands for the table's name, by default `steadfast_idempotency`.
//!
//! ```sql
#![doc = include_str!("../migrations/0001_records.sql")]
//! ```

mod call;
mod durability;
mod error;
mod migrate;
mod open;
mod record;
mod sql;
mod store;

pub use sqlx;

pub use crate::store::SqliteStore;
