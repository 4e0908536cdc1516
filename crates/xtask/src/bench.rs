//! `cargo xtask bench`: what the layers cost, measured.

use crate::{postgres, step::Step};

/// Runs the benchmarks, `passed_on` going to them, and says whether all ran, every answer they saw was right, and no bar was
/// missed.
pub(crate) fn run(passed_on: &[String]) -> bool {
    if !postgres::provide() {
        return false;
    }
    let mut arguments = vec![
        "bench",
        "--package",
        "steadfast-tests",
        "--bench",
        "idempotency",
        "--",
    ];
    arguments.extend(passed_on.iter().map(String::as_str));
    Step::cargo("bench", arguments).run()
}
