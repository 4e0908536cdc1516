//! The documents that stand beside each published crate.

use std::collections::BTreeSet;

use crate::{
    files,
    workspace::{assert_none, folder, libraries, read, relative, root},
};

#[test]
fn every_published_crate_has_a_readme_that_says_something() {
    let mut problems = Vec::new();
    for package in libraries() {
        let path = folder(package).join("README.md");
        let words = if path.is_file() {
            read(&path).split_whitespace().count()
        } else {
            0
        };
        if words < 40 {
            problems.push(format!("{}: {words} words", relative(&path)));
        }
    }

    assert_none(
        &problems,
        "say in one sentence what the crate is, then what it promises and what not, then show the shortest example that runs",
    );
}

#[test]
fn every_published_crate_shows_its_readme_as_its_documentation() {
    let include = r#"#![doc = include_str!("../README.md")]"#;
    let problems: Vec<String> = libraries()
        .iter()
        .map(|package| folder(package).join("src/lib.rs"))
        .filter(|path| !read(path).lines().any(|line| line == include))
        .map(|path| relative(&path))
        .collect();

    assert_none(
        &problems,
        &format!("write `{include}` into lib.rs: then its examples are tested"),
    );
}

#[test]
fn every_published_crate_tells_its_users_what_changed() {
    let mut problems = Vec::new();
    for package in libraries() {
        let path = folder(package).join("CHANGELOG.md");
        let shown = relative(&path);
        if !path.is_file() {
            problems.push(format!("{shown} is missing"));
            continue;
        }
        let text = read(&path);
        let version = format!("## {}", package.version);
        if !text.lines().any(|line| {
            line.strip_prefix(&version)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        }) {
            problems.push(format!("{shown} has no entry `{version}`"));
        }
        for entry in text.lines().filter(|line| line.starts_with("- ")) {
            if ![
                "- **breaking:**",
                "- **added:**",
                "- **changed:**",
                "- **fixed:**",
            ]
            .iter()
            .any(|tag| entry.starts_with(tag))
            {
                problems.push(format!("{shown}: {entry}"));
            }
        }
    }

    assert_none(
        &problems,
        "write what changes for a user, in the user's words, under the version; each entry opens with **breaking:**, \
         **added:**, **changed:** or **fixed:**",
    );
}

#[test]
fn no_two_crates_open_with_the_same_sentence() {
    let mut openings: Vec<(String, String)> = libraries()
        .iter()
        .map(|package| {
            let readme = read(&folder(package).join("README.md"));
            let opening = readme
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with('#'))
                .unwrap_or_default()
                .to_owned();
            (opening, package.name.to_string())
        })
        .collect();
    openings.sort();

    let problems: Vec<String> = openings
        .windows(2)
        .filter(|pair| pair[0].0 == pair[1].0)
        .map(|pair| format!("{} and {}: {}", pair[0].1, pair[1].1, pair[0].0))
        .collect();

    assert_none(
        &problems,
        "open each README with what this crate is and its neighbours are not",
    );
}

/// A table of metrics, and where the code reports them.
const METRICS: [(&str, &[&str]); 3] = [
    (
        "crates/steadfast-idempotency/README.md",
        &[
            "crates/steadfast-idempotency/src",
            "crates/steadfast-store/src",
        ],
    ),
    (
        "crates/steadfast-circuit-breaker/README.md",
        &["crates/steadfast-circuit-breaker/src"],
    ),
    (
        "crates/steadfast-retry/README.md",
        &["crates/steadfast-retry/src"],
    ),
];

#[test]
fn each_table_of_metrics_names_those_that_the_code_reports_and_no_others() {
    let mut problems = Vec::new();
    for (table, sources) in METRICS {
        let readme = read(&root().join(table));
        let documented: BTreeSet<&str> = readme
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("steadfast_"))
            .collect();
        let texts: Vec<String> = files::with_extension("rs")
            .iter()
            .filter(|path| {
                sources
                    .iter()
                    .any(|folder| path.starts_with(root().join(folder)))
            })
            .map(|path| read(path))
            .collect();
        let reported: BTreeSet<&str> = texts
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"))
            .filter(|name| name.starts_with("steadfast_"))
            .collect();
        assert!(!reported.is_empty(), "a name is a constant on a line");
        let differing = reported.symmetric_difference(&documented);
        problems.extend(differing.map(|name| format!("{name} ({table})")));
    }

    assert_none(
        &problems,
        "give each metric its row in the README of its layer, the reaper's in that of steadfast-idempotency, and its name a constant \
         in the code",
    );
}
