//! What every manifest says.

use crate::workspace::{assert_none, folder, libraries, members, read};

#[test]
fn every_crate_opts_into_the_lints_of_the_workspace() {
    let problems: Vec<String> = members()
        .iter()
        .filter(|package| {
            let manifest = read(package.manifest_path.as_std_path());
            !section(&manifest, "[lints]").any(|line| line == "workspace = true")
        })
        .map(|package| format!("{} has lints of its own", package.name))
        .collect();

    assert_none(
        &problems,
        "write `[lints]` and `workspace = true` in its Cargo.toml",
    );
}

#[test]
fn every_crate_takes_version_edition_rust_version_and_license_from_the_workspace() {
    let mut problems = Vec::new();
    for package in members() {
        let manifest = read(package.manifest_path.as_std_path());
        for field in ["version", "edition", "rust-version", "license"] {
            let inherited = format!("{field}.workspace = true");
            if !section(&manifest, "[package]").any(|line| line == inherited) {
                problems.push(format!("{} has a {field} of its own", package.name));
            }
        }
    }

    assert_none(
        &problems,
        "write `<field>.workspace = true` under `[package]` in its Cargo.toml",
    );
}

#[test]
fn every_crate_says_in_a_line_what_it_is() {
    let mut problems = Vec::new();
    for package in members() {
        match package.description.as_deref() {
            None => problems.push(format!("{} has no description", package.name)),
            Some(description) if description.contains('\n') || description.ends_with('.') => {
                problems.push(format!("{}: {description:?}", package.name));
            }
            Some(_) => {}
        }
    }

    assert_none(
        &problems,
        "give its Cargo.toml a `description` of one line without a full stop",
    );
}

#[test]
fn published_crates_carry_what_crates_io_shows() {
    let mut problems = Vec::new();
    for package in libraries() {
        let name = &package.name;
        if package.readme.as_deref().map(|readme| readme.as_str()) != Some("README.md") {
            problems.push(format!("{name} has no `readme = \"README.md\"`"));
        }
        if package.keywords.is_empty() || package.categories.is_empty() {
            problems.push(format!("{name} has no keywords or categories"));
        }
        if package.authors.is_empty() {
            problems.push(format!("{name} has no authors"));
        }
        if !folder(package).ends_with(format!("crates/{name}")) {
            problems.push(format!("{name} does not stand in crates/"));
        }
    }

    assert_none(
        &problems,
        "write the fields in its Cargo.toml, `<field>.workspace = true` where the workspace has them; a crate that is not for \
         crates.io says `publish = false`",
    );
}

/// The lines of one section of a manifest.
fn section<'a>(manifest: &'a str, header: &'a str) -> impl Iterator<Item = &'a str> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(move |line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
}
