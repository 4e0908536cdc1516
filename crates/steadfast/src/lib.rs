// First, so that in rustdoc these links win over those of the README, which lead to the files.
#![cfg_attr(feature = "full", doc = include_str!("../guide/links.md"))]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "circuit-breaker")]
pub use steadfast_circuit_breaker as circuit_breaker;
#[cfg(feature = "client-metrics")]
pub use steadfast_client_metrics as client_metrics;
pub use steadfast_core as core;
pub use steadfast_http as http;
#[cfg(feature = "idempotency")]
pub use steadfast_idempotency as idempotency;
#[cfg(feature = "retry")]
pub use steadfast_retry as retry;
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

#[cfg(feature = "full")]
pub mod guide;
#[doc = include_str!("../PROBLEMS.md")]
pub mod problems {}

/// Compiles the front page's example.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../../README.md")]
struct FrontPage;

#[cfg(test)]
mod tests {
    use crate::http::problem::Code;

    #[test]
    fn the_page_of_problems_has_a_heading_for_each_code_and_its_status() {
        let page = include_str!("../PROBLEMS.md");

        for code in Code::ALL {
            let heading = format!("\n## {}\n\n**{}.**", code.as_str(), code.status().as_u16());
            assert!(page.contains(&heading), "{heading:?} is missing");
        }
        assert_eq!(page.matches("\n## ").count(), Code::ALL.len());
    }
}
