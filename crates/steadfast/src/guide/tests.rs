//! The pages say what the crates say.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::core::{
    breaker::{Outcome, Reason, Refusal, State},
    retry::StoppedBy,
    verdict::Cause,
};

mod dependencies;
mod numbers;

const SIGNALS: &str = include_str!("../../guide/signals.md");

/// The pages that read like a book, by name; `links` is for the front page.
fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<_> = files(&root().join("crates/steadfast/guide"), "md")
        .iter()
        .map(|path| {
            let name = path.file_stem().expect("a file has a name");
            (name.to_string_lossy().into_owned(), read(path))
        })
        .filter(|(name, _)| name != "links")
        .collect();
    pages.sort();
    pages
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("a listed entry can be read").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn each_page_is_a_module_and_one_click_from_the_index_and_the_front_page() {
    let modules = include_str!("../guide.rs");
    let links = include_str!("../../guide/links.md");
    let front = include_str!("../../README.md");
    let pages = pages();
    let index = &pages
        .iter()
        .find(|(name, _)| name == "index")
        .expect("there is an index")
        .1;

    let mut problems = Vec::new();
    for (name, _) in pages.iter().filter(|(name, _)| name != "index") {
        for (place, text, expected) in [
            ("src/guide.rs", modules, format!("pub mod {name} {{}}")),
            ("guide/index.md", index, format!("| [{name}] |")),
            ("README.md", front, format!("| [{name}][{name}] |")),
            ("README.md", front, format!("[{name}]: guide/{name}.md\n")),
            (
                "guide/links.md",
                links,
                format!("[{name}]: crate::guide::{name}\n"),
            ),
        ] {
            if !text.contains(&expected) {
                problems.push(format!("{place}: {expected} is missing"));
            }
        }
    }

    assert_none(&problems);
}

#[test]
fn a_page_reads_well_as_a_file_too() {
    let mut problems = Vec::new();
    for (name, page) in pages() {
        for block in page.split("```").skip(1).step_by(2) {
            let language = block.lines().next().unwrap_or_default();
            if !["rust", "text", "toml"].contains(&language) {
                problems.push(format!("{name}: a block of {language:?}"));
            }
            let hidden = block.lines().filter(|line| line.starts_with("# ")).count();
            if language == "rust" && hidden > 2 {
                problems.push(format!("{name}: {hidden} hidden lines"));
            }
        }
        for link in page
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if !["#", "crate::", "https://"]
                .iter()
                .any(|start| link.starts_with(start))
            {
                problems.push(format!("{name}: {link} leads nowhere"));
            }
        }
    }

    assert_none(&problems);
}

#[test]
fn the_metrics_of_the_page_are_those_of_the_crates() {
    let documented = |text: &'static str| {
        text.lines()
            .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("steadfast_") || name.starts_with("http_client_"))
            .collect::<BTreeSet<_>>()
    };
    let crates: BTreeSet<_> = [
        include_str!("../../../steadfast-circuit-breaker/README.md"),
        include_str!("../../../steadfast-client-metrics/README.md"),
        include_str!("../../../steadfast-idempotency/README.md"),
        include_str!("../../../steadfast-retry/README.md"),
    ]
    .into_iter()
    .flat_map(documented)
    .collect();

    // What to alert on names some of them again, with a condition behind.
    let page: BTreeSet<_> = documented(SIGNALS)
        .into_iter()
        .filter_map(|name| name.split(['{', ' ']).next())
        .collect();

    assert!(!crates.is_empty());
    assert_eq!(page, crates);
}

#[test]
fn the_labels_of_the_page_are_all_that_there_are() {
    let words = StoppedBy::ALL
        .iter()
        .map(|word| word.as_str())
        .chain(Cause::ALL.iter().map(|word| word.as_str()))
        .chain(Outcome::ALL.iter().map(|word| word.as_str()))
        .chain(Reason::ALL.iter().map(|word| word.as_str()))
        .chain(Refusal::ALL.iter().map(|word| word.as_str()))
        .chain(State::ALL.iter().map(|word| word.as_str()));

    let problems: Vec<String> = words
        .filter(|word| !SIGNALS.contains(&format!("`{word}`")))
        .map(str::to_owned)
        .collect();

    assert_none(&problems);
}

#[test]
fn each_event_that_a_crate_logs_stands_on_the_page() {
    let mut found = 0;
    let mut problems = Vec::new();
    for folder in [
        "circuit-breaker",
        "idempotency",
        "retry",
        "store",
        "store-postgres",
        "store-sqlite",
    ] {
        let source = root().join(format!("crates/steadfast-{folder}/src"));
        for path in files(&source, "rs") {
            let text = read(&path);
            for event in events(&text) {
                found += 1;
                if !SIGNALS.contains(event) {
                    problems.push(format!("{}: {event}", path.display()));
                }
            }
        }
    }

    assert!(found > 30, "{found} events were found");
    assert_none(&problems);
}

/// The last string of each call that logs.
fn events(source: &str) -> impl Iterator<Item = &str> {
    let calls = ["tracing::", "log(", "log_again("];
    let starts = calls
        .into_iter()
        .flat_map(|call| source.match_indices(call).map(|(at, _)| at));
    starts.filter_map(|at| {
        let call = source[at..].split_once('(')?;
        let levels = ["debug!", "error!", "info!", "warn!"];
        let is_event = match call.0.strip_prefix("tracing::") {
            Some(name) => levels.contains(&name),
            None => true,
        };
        let arguments = call.1.split_once(");").filter(|_| is_event)?.0;
        let message = arguments.trim_end().trim_end_matches(',');
        let message = message.strip_suffix('"')?.rsplit_once('"')?.1;
        (!message.contains('{')).then_some(message)
    })
}

#[test]
fn each_test_that_a_page_names_is_there() {
    let tests: String = files(&root().join("tests/compose"), "rs")
        .iter()
        .map(|path| read(path))
        .collect();
    let page = include_str!("../../guide/order.md");

    let named: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.matches('_').count() > 3)
        .collect();
    let problems: Vec<String> = named
        .iter()
        .filter(|name| !tests.contains(&format!("fn {name}(")))
        .map(|name| (*name).to_owned())
        .collect();

    assert!(named.len() > 20, "{named:?}");
    assert_none(&problems);
}

#[test]
fn each_rule_that_a_page_names_is_there() {
    let rules = [
        (
            'B',
            include_str!("../../../steadfast-circuit-breaker/SEMANTICS.md"),
        ),
        (
            'I',
            include_str!("../../../steadfast-idempotency/SEMANTICS.md"),
        ),
        ('R', include_str!("../../../steadfast-retry/SEMANTICS.md")),
    ];
    let mut found = 0;
    let mut problems = Vec::new();
    for (name, page) in pages() {
        for word in page.split(|c: char| !c.is_ascii_alphanumeric()) {
            let Some((_, text)) = rules.iter().find(|(letter, _)| word.starts_with(*letter)) else {
                continue;
            };
            let number = &word[1..];
            if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
                continue;
            }
            found += 1;
            if !text.contains(&format!("- **{word} ")) {
                problems.push(format!("{name}: {word}"));
            }
        }
    }

    assert!(found > 100, "{found} rules are named");
    assert_none(&problems);
}
