//! The text files of the workspace, as git would see them in a fresh clone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::workspace::root;

/// What holds files of ours; everything else at the root is a file.
const FOLDERS: [&str; 7] = [
    ".cargo", ".ci", ".config", ".github", "crates", "examples", "tests",
];

const TEXT: [&str; 9] = [
    "css", "html", "json", "md", "rs", "sh", "sql", "toml", "yml",
];

/// The text files in the folders of the workspace and at its root, the lock file apart.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = list(root())
        .into_iter()
        .filter(|path| path.is_file() && is_text(path))
        .collect();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut found);
    }
    found.sort();
    found
}

/// Those whose name ends so.
pub(crate) fn with_extension(extension: &str) -> Vec<PathBuf> {
    all()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in list(folder) {
        if path.is_dir() {
            // A crate may have been built by itself, with a target folder of its own.
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, found);
            }
        } else if is_text(&path) {
            found.push(path);
        }
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("a listed entry can be read").path())
        .collect()
}

fn is_text(path: &Path) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => TEXT.contains(&extension),
        // Scripts such as `.ci/run`; at the root the licences.
        None => path.parent() != Some(root()),
    }
}
