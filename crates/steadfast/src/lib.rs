#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use steadfast_core as core;
pub use steadfast_http as http;
#[cfg(feature = "idempotency")]
pub use steadfast_idempotency as idempotency;
#[cfg(any(
    feature = "idempotency",
    feature = "store-postgres",
    feature = "store-sqlite"
))]
pub use steadfast_store as store;
#[cfg(feature = "store-postgres")]
pub use steadfast_store_postgres as store_postgres;
#[cfg(feature = "store-sqlite")]
pub use steadfast_store_sqlite as store_sqlite;

/// Compiles the front page's example.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
