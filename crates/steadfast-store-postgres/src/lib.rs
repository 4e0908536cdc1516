#![doc = include_str!("../README.md")]

mod call;
mod connect;
mod error;
mod interval;
mod migrate;
mod row;
mod statements;
mod store;
mod table;

pub use sqlx;

pub use crate::{
    store::PostgresStore,
    table::{InvalidTableName, TableName},
};
