//! `cargo xtask check`: everything that reads the code without running it.

use crate::step::Step;

/// The crates that stand on crates.io. Each is checked alone, where no neighbour's features help it to compile.
const LIBRARIES: [&str; 11] = [
    "steadfast",
    "steadfast-circuit-breaker",
    "steadfast-client-metrics",
    "steadfast-core",
    "steadfast-http",
    "steadfast-idempotency",
    "steadfast-retry",
    "steadfast-store",
    "steadfast-store-postgres",
    "steadfast-store-sqlite",
    "steadfast-testkit",
];

/// The features of the facade, each checked without the others.
const FACADE_FEATURES: [&str; 10] = [
    "axum",
    "circuit-breaker",
    "client-metrics",
    "hyper-util",
    "idempotency",
    "reqwest",
    "retry",
    "store-postgres",
    "store-sqlite",
    "tonic",
];

/// The features of `steadfast-http` that the facade has only as parts of others.
const TRANSPORTS: [&str; 2] = ["h2", "hyper"];

/// Runs every step, also after one that failed, and says whether all passed.
pub(crate) fn run() -> bool {
    let steps = steps();
    let total = steps.len();
    let failed: Vec<String> = steps
        .into_iter()
        .filter_map(|step| {
            let name = step.name().to_owned();
            (!step.run()).then_some(name)
        })
        .collect();

    if failed.is_empty() {
        eprintln!("==> check: all {total} steps passed");
    } else {
        eprintln!(
            "==> check: {} of {total} steps failed: {}",
            failed.len(),
            failed.join(", ")
        );
    }
    failed.is_empty()
}

fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::cargo("format", ["fmt", "--all", "--check"]),
        clippy(
            "clippy",
            &["--workspace", "--all-targets", "--all-features"],
        ),
        Step::cargo(
            "docs",
            ["doc", "--workspace", "--no-deps", "--all-features"],
        )
        .with_env("RUSTDOCFLAGS", "-D warnings"),
    ];
    steps.extend(LIBRARIES.map(|library| {
        clippy(
            &format!("{library} alone"),
            &["--package", library, "--no-default-features"],
        )
    }));
    steps.extend(FACADE_FEATURES.map(|feature| with_feature("steadfast", feature)));
    steps.extend(TRANSPORTS.map(|feature| with_feature("steadfast-http", feature)));
    steps
}

fn with_feature(library: &str, feature: &str) -> Step {
    clippy(
        &format!("{library} with {feature} alone"),
        &[
            "--package",
            library,
            "--no-default-features",
            "--features",
            feature,
        ],
    )
}

fn clippy(name: &str, selection: &[&str]) -> Step {
    let arguments = [&["clippy"], selection, &["--", "-D", "warnings"]].concat();
    Step::cargo(name, arguments)
}
