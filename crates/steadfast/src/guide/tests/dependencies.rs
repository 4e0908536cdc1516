//! What the pages let their readers paste into `Cargo.toml`.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, files, pages, read, root};

/// The pages with programs for a stack that people have.
const WITH_A_BLOCK: [&str; 8] = [
    "axum_client",
    "axum_server",
    "hyper_client",
    "own_middleware",
    "reqwest_client",
    "signals",
    "tonic_client",
    "tonic_server",
];

/// What the code that tonic generates uses, and the runtime in which all of it runs.
const WITHOUT_A_WORD: [&str; 4] = ["prost", "tokio", "tonic-prost", "tonic-prost-build"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Dependency {
    version: Option<String>,
    path: Option<String>,
    features: BTreeSet<String>,
}

#[test]
fn each_page_with_programs_says_what_to_depend_on() {
    let problems: Vec<String> = pages()
        .iter()
        .filter(|(name, page)| {
            WITH_A_BLOCK.contains(&name.as_str()) != page.contains("```toml\n[dependencies]\n")
        })
        .map(|(name, _)| name.clone())
        .collect();

    assert_none(&problems);
}

#[test]
fn the_versions_and_features_are_those_with_which_the_pages_are_tested() {
    let known = known();
    let facade = of_manifest("crates/steadfast/Cargo.toml");
    let mut problems = Vec::new();
    for (page, name, said) in blocks() {
        if name == "steadfast" {
            assert_eq!(
                said.path.as_deref(),
                Some("../steadfast/crates/steadfast"),
                "{page}"
            );
            continue;
        }
        let is_known = said
            .version
            .as_ref()
            .is_some_and(|version| known.get(&name).is_some_and(|all| all.contains(version)));
        if !is_known {
            problems.push(format!("{page}: {name} {:?}", said.version));
        }
        let tested = facade.get(&name).map(|tested| &tested.features);
        for feature in &said.features {
            if !tested.is_some_and(|tested| tested.contains(feature)) {
                problems.push(format!("{page}: {name} has no {feature} here"));
            }
        }
    }

    assert_none(&problems);
}

#[test]
fn the_crates_are_those_that_the_code_uses() {
    let mut problems = Vec::new();
    for (page, text) in with_a_block() {
        let code = code(&text);
        let named = block(&text);
        let named: BTreeSet<_> = named.keys().map(|name| name.replace('-', "_")).collect();
        for line in code.lines() {
            let used = line
                .strip_prefix("use ")
                .or_else(|| line.strip_prefix("#["))
                .and_then(|path| path.split_once("::"))
                .map(|(root, _)| root);
            if let Some(used) = used
                && !["std", "shop"].contains(&used)
                && !named.contains(used)
            {
                problems.push(format!("{page}: {used} is not named"));
            }
        }
        for name in named {
            let is_silent = WITHOUT_A_WORD.contains(&name.replace('_', "-").as_str());
            if !is_silent && !code.contains(&format!("{name}::")) {
                problems.push(format!("{page}: {name} is not used"));
            }
        }
    }

    assert_none(&problems);
}

#[test]
fn the_features_are_those_that_the_code_needs() {
    let there = features();
    let front = read(&root().join("README.md"));
    let mut problems = Vec::new();
    for (page, text) in with_a_block()
        .into_iter()
        .chain([("README".to_owned(), front)])
    {
        let Some(steadfast) = block(&text).remove("steadfast") else {
            continue;
        };
        let code = code(&text);
        let needed: BTreeSet<String> = there
            .iter()
            .filter(|feature| needs(&code, feature))
            .cloned()
            .collect();
        for missing in needed.difference(&steadfast.features) {
            problems.push(format!("{page}: {missing} is missing"));
        }
        for more in steadfast.features.difference(&needed) {
            // A program that is generic over its store runs with one.
            if !(more.starts_with("store-") && there.contains(more)) {
                problems.push(format!("{page}: {more} is not needed"));
            }
        }
    }

    assert_none(&problems);
}

#[test]
fn the_readme_of_the_facade_names_features_that_are_there() {
    let said = block(include_str!("../../../README.md"));

    let said = &said["steadfast"].features;

    assert!(!said.is_empty() && said.is_subset(&features()), "{said:?}");
}

/// Whether code uses what is behind a feature of the facade: a module of that name, or the client that it is called after.
fn needs(code: &str, feature: &str) -> bool {
    match feature {
        "axum" => false,
        "hyper-util" => code.contains("hyper_util::"),
        "reqwest" => code.contains("ReqwestLayer"),
        "tonic" => code.contains("Channel,"),
        _ => {
            let module = format!("{}::", feature.replace('-', "_"));
            code.contains(&format!("steadfast::{module}"))
                || code.contains(&format!("\n    {module}"))
                || code.contains(&format!(", {module}"))
                || code.contains(&format!("{{{module}"))
        }
    }
}

/// The features of the facade that open something.
fn features() -> BTreeSet<String> {
    let manifest = read(&root().join("crates/steadfast/Cargo.toml"));
    let (_, features) = manifest.split_once("[features]\n").unwrap();
    features
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !["default", "full"].contains(&name.as_str()))
        .collect()
}

/// The versions that the workspace asks for, by name.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut manifests = files(&root().join("examples"), "toml");
    manifests.extend(["Cargo.toml", "crates/steadfast/Cargo.toml"].map(|path| root().join(path)));
    for manifest in manifests {
        for (name, dependency) in dependencies(&read(&manifest)) {
            known.entry(name).or_default().extend(dependency.version);
        }
    }
    known
}

fn of_manifest(path: &str) -> BTreeMap<String, Dependency> {
    dependencies(&read(&root().join(path)))
}

/// The page, the name and what it says of it.
fn blocks() -> Vec<(String, String, Dependency)> {
    with_a_block()
        .into_iter()
        .flat_map(|(page, text)| {
            block(&text)
                .into_iter()
                .map(move |(name, said)| (page.clone(), name, said))
        })
        .collect()
}

fn with_a_block() -> Vec<(String, String)> {
    let pages: Vec<_> = pages()
        .into_iter()
        .filter(|(name, _)| WITH_A_BLOCK.contains(&name.as_str()))
        .collect();
    assert_eq!(pages.len(), WITH_A_BLOCK.len());
    pages
}

fn block(page: &str) -> BTreeMap<String, Dependency> {
    dependencies(&fenced(page, "toml"))
}

/// What a reader sees of the code of a page.
fn code(page: &str) -> String {
    fenced(page, "rust")
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn fenced(page: &str, language: &str) -> String {
    page.split(&format!("```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .map(|block| format!("{block}\n"))
        .collect()
}

/// The lines of a manifest that name a dependency.
fn dependencies(manifest: &str) -> BTreeMap<String, Dependency> {
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((name, said)) = line.split_once(" = ") else {
            continue;
        };
        if section.ends_with("dependencies]") {
            found.insert(name.to_owned(), dependency(said));
        }
    }
    found
}

fn dependency(said: &str) -> Dependency {
    if let Some(version) = said.strip_prefix('"') {
        return Dependency {
            version: version.strip_suffix('"').map(str::to_owned),
            ..Dependency::default()
        };
    }
    let text = |name: &str| {
        let (_, value) = said.split_once(&format!("{name} = \""))?;
        value.split('"').next().map(str::to_owned)
    };
    let features = said
        .split_once("features = [")
        .and_then(|(_, features)| features.split(']').next())
        .unwrap_or_default();
    Dependency {
        version: text("version"),
        path: text("path"),
        features: features
            .split('"')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    }
}
