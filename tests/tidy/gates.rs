//! The gates check what there is to check.

use crate::workspace::{assert_none, libraries, read, root};

#[test]
fn the_gate_checks_every_published_crate_and_every_facade_feature_alone() {
    let gate = read(&root().join("crates/xtask/src/check.rs"));
    let facade = libraries()
        .into_iter()
        .find(|package| package.name.as_str() == "steadfast")
        .expect("the facade is a member");

    let features = facade
        .features
        .keys()
        .map(String::as_str)
        .filter(|feature| !["default", "full"].contains(feature));
    let names = libraries().into_iter().map(|package| package.name.as_str());
    let problems: Vec<String> = names
        .chain(features)
        .filter(|name| !gate.contains(&format!("\"{name}\"")))
        .map(|name| format!("{name} is not checked alone"))
        .collect();

    assert_none(
        &problems,
        "enter it in the lists of crates/xtask/src/check.rs",
    );
}

#[test]
fn no_feature_of_the_facade_is_on_by_default_and_full_has_them_all() {
    let facade = libraries()
        .into_iter()
        .find(|package| package.name.as_str() == "steadfast")
        .expect("the facade is a member");

    let mut full = facade.features["full"].clone();
    full.sort();
    let all: Vec<String> = facade
        .features
        .keys()
        .filter(|feature| !["default", "full"].contains(&feature.as_str()))
        .cloned()
        .collect();

    assert_eq!(facade.features["default"], Vec::<String>::new());
    assert_eq!(full, all, "list every feature under `full`");
}
