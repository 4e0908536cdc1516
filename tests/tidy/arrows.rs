//! Which of our crates may use which.
//!
//! ```text
//! core <- http <- circuit-breaker, client-metrics, idempotency, retry <- steadfast <- examples, tests
//! core <- store <- store-postgres, store-sqlite <- steadfast
//!         store <- idempotency
//!   http, store <- testkit
//! ```
//!
//! What is absent, is so on purpose: a layer knows no concrete store, a store knows no HTTP, nothing knows the facade but programs
//! and tests.

use std::collections::BTreeSet;

use cargo_metadata::DependencyKind;

use crate::workspace::{assert_none, is_ours, members};

struct Arrows {
    from: &'static str,
    /// What the crate may be built of.
    ships: &'static [&'static str],
    /// What its own tests may use beside that.
    ///
    /// `steadfast-testkit` is built of core, http and store: in their tests it would meet a second copy of the crate, whose types
    /// do not match.
    tests: &'static [&'static str],
}

const ARROWS: [Arrows; 16] = [
    Arrows {
        from: "steadfast-core",
        ships: &[],
        tests: &[],
    },
    Arrows {
        from: "steadfast-http",
        ships: &["steadfast-core"],
        tests: &[],
    },
    Arrows {
        from: "steadfast-store",
        ships: &["steadfast-core"],
        tests: &[],
    },
    Arrows {
        from: "steadfast-idempotency",
        ships: &["steadfast-core", "steadfast-http", "steadfast-store"],
        tests: &["steadfast-testkit"],
    },
    Arrows {
        from: "steadfast-circuit-breaker",
        ships: &["steadfast-core", "steadfast-http"],
        tests: &[],
    },
    Arrows {
        from: "steadfast-client-metrics",
        ships: &["steadfast-http"],
        tests: &[],
    },
    Arrows {
        from: "steadfast-retry",
        ships: &["steadfast-core", "steadfast-http"],
        tests: &[],
    },
    Arrows {
        from: "steadfast-store-postgres",
        ships: &["steadfast-core", "steadfast-store"],
        tests: &["steadfast-testkit"],
    },
    Arrows {
        from: "steadfast-store-sqlite",
        ships: &["steadfast-core", "steadfast-store"],
        tests: &["steadfast-testkit"],
    },
    Arrows {
        from: "steadfast-testkit",
        ships: &["steadfast-core", "steadfast-http", "steadfast-store"],
        tests: &[],
    },
    Arrows {
        from: "steadfast",
        ships: &[
            "steadfast-circuit-breaker",
            "steadfast-client-metrics",
            "steadfast-core",
            "steadfast-http",
            "steadfast-idempotency",
            "steadfast-retry",
            "steadfast-store",
            "steadfast-store-postgres",
            "steadfast-store-sqlite",
        ],
        tests: &["steadfast-testkit"],
    },
    Arrows {
        from: "gateway",
        ships: &["steadfast"],
        tests: &[],
    },
    Arrows {
        from: "orders",
        ships: &["steadfast"],
        tests: &[],
    },
    Arrows {
        from: "payments",
        ships: &["steadfast"],
        tests: &["steadfast-testkit"],
    },
    Arrows {
        from: "xtask",
        ships: &[],
        tests: &[],
    },
    // Tests of several crates go through the facade, as a user does.
    Arrows {
        from: "steadfast-tests",
        ships: &[],
        tests: &[
            "gateway",
            "orders",
            "payments",
            "steadfast",
            "steadfast-testkit",
        ],
    },
];

#[test]
fn every_arrow_between_our_crates_is_drawn() {
    let mut problems = Vec::new();
    for package in members() {
        let Some(arrows) = ARROWS
            .iter()
            .find(|arrows| arrows.from == package.name.as_str())
        else {
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| is_ours(d)) {
            let to = dependency.name.as_str();
            let in_tests = dependency.kind == DependencyKind::Development;
            if !(arrows.ships.contains(&to) || in_tests && arrows.tests.contains(&to)) {
                let kind = if in_tests { " in its tests" } else { "" };
                problems.push(format!("{} uses {to}{kind}", package.name));
            }
        }
    }

    assert_none(
        &problems,
        "move the code to the crate that may use both, or to `tests/` if it is a test of two crates; a new arrow is a decision \
         about the design, to be drawn in crates/README.md and in the table of tests/tidy/arrows.rs",
    );
}

#[test]
fn every_crate_has_its_place_in_the_arrows() {
    let members: BTreeSet<&str> = members()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let drawn: BTreeSet<&str> = ARROWS.iter().map(|arrows| arrows.from).collect();

    let unplaced = members
        .difference(&drawn)
        .map(|name| format!("{name} is a member of the workspace without a place"));
    let gone = drawn
        .difference(&members)
        .map(|name| format!("{name} has a place and is no member of the workspace"));
    let problems: Vec<String> = unplaced.chain(gone).collect();

    assert_none(
        &problems,
        "bring the table of tests/tidy/arrows.rs in line with the workspace",
    );
}

#[test]
fn a_folder_has_the_name_of_its_crate() {
    let problems: Vec<String> = members()
        .iter()
        .filter(|package| package.name.as_str() != "steadfast-tests")
        .filter(|package| {
            let folder = crate::workspace::folder(package);
            folder
                .file_name()
                .is_none_or(|name| *name != **package.name)
        })
        .map(|package| format!("{} stands in {}", package.name, package.manifest_path))
        .collect();

    assert_none(&problems, "rename the folder");
}
