use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::LaunchError;

/// Where Debian and Ubuntu put each major version, out of `PATH`.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The folder with the server's programs: the first of `PATH` that has them, else the newest version installed.
pub(super) fn find() -> Result<PathBuf, LaunchError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .find(|folder| has_server(folder))
        .or_else(newest)
        .ok_or_else(|| {
            LaunchError::new(format!(
                "no Postgres for the tests: set {} or install PostgreSQL, for example `apt-get install postgresql`",
                super::SERVER_VARIABLE
            ))
        })
}

fn newest() -> Option<PathBuf> {
    fs::read_dir(VERSIONS)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| has_server(folder))
        .max_by_key(|(version, _)| *version)
        .map(|(_, folder)| folder)
}

fn has_server(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"]
        .iter()
        .all(|program| folder.join(program).is_file())
}
