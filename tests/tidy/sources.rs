//! What no file says, and what every file of a kind says.

use crate::{
    files,
    workspace::{assert_none, read, relative, root},
};

/// Lines of code in one source file; past them it does more than one thing.
const MOST_LINES: usize = 500;

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    // In parts, for this file is read too.
    let folders = ["home", "root", "Users", "work"].map(|folder| format!("/{folder}/"));

    let problems = lines_where(|line| {
        folders.iter().any(|folder| {
            line.match_indices(folder.as_str())
                .any(|(at, _)| starts_a_path(line, at))
        })
    });

    assert_none(
        &problems,
        "write the path relative to the repository, or take it from the environment",
    );
}

#[test]
fn no_file_puts_work_off() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];

    let problems = lines_where(|line| marks.iter().any(|mark| line.contains(mark)));

    assert_none(&problems, "do it, or open an issue and take the line out");
}

#[test]
fn no_test_is_ignored() {
    let mark = ["#[ig", "nore"].concat();

    let problems = lines_where(|line| line.trim_start().starts_with(&mark));

    assert_none(
        &problems,
        "make it pass, or assert what happens today and say why it is wrong",
    );
}

#[test]
fn every_statement_file_opens_with_its_invariant() {
    let problems: Vec<String> = files::with_extension("sql")
        .iter()
        .filter(|path| {
            let text = read(path);
            let opening = text.lines().next().unwrap_or_default();
            opening
                .strip_prefix("--")
                .is_none_or(|comment| comment.split_whitespace().count() < 3)
        })
        .map(|path| relative(path))
        .collect();

    assert_none(
        &problems,
        "open the file with a `--` comment that says what the statement does and what always holds after it",
    );
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_hold() {
    let crates = root().join("crates");
    let problems: Vec<String> = files::with_extension("rs")
        .iter()
        .filter(|path| path.starts_with(&crates) && !path.ends_with("tests.rs"))
        .filter(|path| !path.components().any(|part| part.as_os_str() == "tests"))
        .filter_map(|path| {
            let lines = code_lines(&read(path));
            (lines > MOST_LINES).then(|| format!("{}: {lines} lines of code", relative(path)))
        })
        .collect();

    assert_none(
        &problems,
        "split it by what it does, as a folder of its own; comments, docs, empty lines and the test module do not count",
    );
}

fn code_lines(source: &str) -> usize {
    source
        .lines()
        .map(str::trim)
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// Where the condition holds, as `file:line: text`.
fn lines_where(condition: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in files::all() {
        let text = read(&path);
        for (index, line) in text.lines().enumerate() {
            if condition(line) {
                found.push(format!(
                    "{}:{}: {}",
                    relative(&path),
                    index + 1,
                    line.trim()
                ));
            }
        }
    }
    found
}

/// Whether the text at `at` begins a path, and is not the middle of one such as `docs/work/`.
fn starts_a_path(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-{}<>*".contains(before))
}
