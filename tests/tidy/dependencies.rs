//! What our published crates are built of, from outside the workspace.
//!
//! A *public* dependency shows in a signature or in a trait that we implement: a new major version of it is a new major version of
//! ours, so the column is short and each entry is a decision. A *private* one costs users only time to compile.

use std::collections::BTreeSet;

use cargo_metadata::DependencyKind;

use crate::workspace::{assert_none, is_ours, libraries};

struct Ships {
    library: &'static str,
    public: &'static [&'static str],
    private: &'static [&'static str],
}

const SHIPS: [Ships; 11] = [
    Ships {
        library: "steadfast",
        public: &[],
        private: &[],
    },
    // Std only: policies must run anywhere, and under any clock.
    Ships {
        library: "steadfast-core",
        public: &[],
        private: &[],
    },
    Ships {
        library: "steadfast-http",
        // serde_json: a member of a problem is one of its values. tokio: a deadline is a moment of its clock. axum-core, reqwest, tonic:
        // bodies that can hold any other; and reqwest's client in a stack of layers, hence tower's two.
        public: &[
            "axum-core",
            "bytes",
            "http",
            "http-body",
            "reqwest",
            "serde_json",
            "tokio",
            "tonic",
            "tower-layer",
            "tower-service",
        ],
        private: &[
            "base64",
            "h2",
            "http-body-util",
            "httpdate",
            "hyper",
            "hyper-util",
            "percent-encoding",
            "pin-project-lite",
            "prost",
            "serde",
            "sync_wrapper",
        ],
    },
    Ships {
        library: "steadfast-idempotency",
        // axum: the operation is an extractor.
        public: &[
            "axum",
            "bytes",
            "http",
            "http-body",
            "tower-layer",
            "tower-service",
        ],
        private: &[
            "futures-util",
            "getrandom",
            "metrics",
            "pin-project-lite",
            "sha2",
            "tokio",
            "tokio-util",
            "tracing",
        ],
    },
    Ships {
        library: "steadfast-circuit-breaker",
        // tokio: who subscribes gets its receiver.
        public: &[
            "bytes",
            "http",
            "http-body",
            "tokio",
            "tower-layer",
            "tower-service",
        ],
        private: &["fastrand", "metrics", "pin-project-lite", "tracing"],
    },
    Ships {
        library: "steadfast-client-metrics",
        public: &["http", "tower-layer", "tower-service"],
        private: &["metrics", "pin-project-lite", "tokio"],
    },
    Ships {
        library: "steadfast-retry",
        public: &["bytes", "http", "http-body", "tower-layer", "tower-service"],
        private: &[
            "fastrand",
            "metrics",
            "pin-project-lite",
            "tokio",
            "tracing",
            "uuid",
        ],
    },
    // No HTTP and no tower: a store keeps bytes.
    Ships {
        library: "steadfast-store",
        public: &["bytes"],
        private: &["metrics", "tokio", "tracing"],
    },
    Ships {
        library: "steadfast-store-postgres",
        public: &["bytes", "sqlx"],
        private: &["tokio", "tracing"],
    },
    Ships {
        library: "steadfast-store-sqlite",
        public: &["sqlx"],
        private: &["futures-util", "tokio"],
    },
    Ships {
        library: "steadfast-testkit",
        public: &[],
        private: &["nix", "sqlx", "tempfile", "tokio"],
    },
];

#[test]
fn published_crates_are_built_of_what_was_agreed() {
    let mut problems = Vec::new();
    for package in libraries() {
        let Some(ships) = SHIPS
            .iter()
            .find(|ships| ships.library == package.name.as_str())
        else {
            problems.push(format!("{} has no list", package.name));
            continue;
        };
        let agreed: BTreeSet<&str> = [ships.public, ships.private].concat().into_iter().collect();
        let used: BTreeSet<&str> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .filter(|dependency| !is_ours(dependency))
            .map(|dependency| dependency.name.as_str())
            .collect();
        for new in used.difference(&agreed) {
            problems.push(format!("{} uses {new}, which is not agreed", package.name));
        }
        for gone in agreed.difference(&used) {
            problems.push(format!("{} no longer uses {gone}", package.name));
        }
    }

    assert_none(
        &problems,
        "do without the dependency, or enter it in the table of tests/tidy/dependencies.rs: as public if one of its types or \
         traits shows in our API (then the changelog names it too), else as private; take out what is not used",
    );
}
