//! One version of everything that we use ourselves.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::PackageId;

use crate::workspace::{assert_none, is_ours, members, metadata};

/// Another version of a crate that we use too, brought by somebody else.
struct Accepted {
    name: &'static str,
    version: &'static str,
    /// Why it cannot go, and so when it can.
    because: &'static str,
}

const ACCEPTED: [Accepted; 4] = [
    Accepted {
        name: "base64",
        version: "0.23",
        because: "reqwest 0.13 and hyper-util 0.1 use it, sqlx 0.9 stays on 0.22: whichever we take, the other is there too",
    },
    Accepted {
        name: "getrandom",
        version: "0.2",
        because: "ring 0.17, the cryptography beneath rustls, asks for it",
    },
    Accepted {
        name: "getrandom",
        version: "0.3",
        because: "bolero 0.13, which only tests use, asks for it by itself and by rand 0.9",
    },
    Accepted {
        name: "sha2",
        version: "0.10",
        because: "sqlx-core 0.9 hashes its migrations with it, while sqlx-postgres has moved to 0.11",
    },
];

#[test]
fn there_is_one_version_of_each_crate_that_we_use() {
    let used = used_by_us();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (name, versions) in versions_of(&used) {
        let ours: Vec<_> = versions
            .iter()
            .filter(|(_, users)| !users.is_disjoint(&used.members))
            .collect();
        if ours.len() > 1 {
            problems.push(format!("our crates use {} versions of {name}", ours.len()));
        }
        for (version, users) in &versions {
            if versions.len() == 1 || !users.is_disjoint(&used.members) {
                continue;
            }
            match accepted(&name, version) {
                Some(index) => {
                    seen.insert(index);
                }
                None => problems.push(format!(
                    "{name} {version} comes beside ours, brought by {}",
                    names(users).join(", ")
                )),
            }
        }
    }
    for (index, accepted) in ACCEPTED.iter().enumerate() {
        if !seen.contains(&index) {
            problems.push(format!(
                "{} {} is gone from the tree ({})",
                accepted.name, accepted.version, accepted.because
            ));
        }
    }

    assert_none(
        &problems,
        "move to the version that the others use, or update what brings the other one; if neither can be, enter it with the \
         reason in ACCEPTED of tests/tidy/versions.rs; take out what is gone",
    );
}

struct Used {
    members: BTreeSet<&'static PackageId>,
    names: BTreeSet<&'static str>,
}

fn used_by_us() -> Used {
    Used {
        members: members().iter().map(|package| &package.id).collect(),
        names: members()
            .iter()
            .flat_map(|package| &package.dependencies)
            .filter(|dependency| !is_ours(dependency))
            .map(|dependency| dependency.name.as_str())
            .collect(),
    }
}

type Users = BTreeSet<&'static PackageId>;

/// Each crate that we use, with its versions in the tree and who uses each.
fn versions_of(used: &Used) -> BTreeMap<String, BTreeMap<String, Users>> {
    let resolve = metadata()
        .resolve
        .as_ref()
        .expect("the metadata was asked for with dependencies");
    let mut versions: BTreeMap<String, BTreeMap<String, Users>> = BTreeMap::new();
    for package in &metadata().packages {
        if !used.names.contains(package.name.as_str()) {
            continue;
        }
        let users = resolve
            .nodes
            .iter()
            .filter(|node| node.dependencies.contains(&package.id))
            .map(|node| &node.id)
            .collect();
        versions
            .entry(package.name.to_string())
            .or_default()
            .insert(package.version.to_string(), users);
    }
    versions
}

fn accepted(name: &str, version: &str) -> Option<usize> {
    ACCEPTED.iter().position(|accepted| {
        accepted.name == name
            && version
                .strip_prefix(accepted.version)
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn names(users: &Users) -> Vec<String> {
    users
        .iter()
        .map(|&user| {
            let package = &metadata()[user];
            format!("{} {}", package.name, package.version)
        })
        .collect()
}
