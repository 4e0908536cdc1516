//! A PostgreSQL that the tests can use: one that is here, or one from the distribution.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use crate::apt;

/// Names a running server for the tests; read by `steadfast-testkit`.
const URL: &str = "STEADFAST_TEST_POSTGRES_URL";

/// Where Debian and its descendants keep the server's programs, a folder per major version.
const DEBIAN: &str = "/usr/lib/postgresql";

const INSTALL: &str = include_str!("install-postgres.sh");

const ADVICE: &str = "install PostgreSQL and put its `initdb` on PATH (for example `apt-get install postgresql`, \
    `dnf install postgresql-server`, `brew install postgresql@17`), or set STEADFAST_TEST_POSTGRES_URL";

/// What the tests will find.
enum Source {
    /// A server that the environment names; and whether there are programs for the tests that start and kill their own.
    Url { binaries: bool },
    /// The folder of the programs.
    Binaries(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { binaries: true } => write!(f, "the server that {URL} names"),
            Self::Url { binaries: false } => write!(
                f,
                "the server that {URL} names; tests that start and kill a server of their own will fail, for there is no \
                 `initdb` here"
            ),
            Self::Binaries(folder) => write!(f, "throwaway servers from {}", folder.display()),
        }
    }
}

/// Finds a PostgreSQL, or installs one, and says which, or what to do; true if there is one.
pub(crate) fn provide() -> bool {
    match ensure() {
        Ok(source) => {
            eprintln!("==> postgres: {source}");
            true
        }
        Err(reason) => {
            eprintln!("==> postgres: {reason}");
            false
        }
    }
}

/// An error says in one line what to do.
fn ensure() -> Result<Source, String> {
    let found = find();
    if env::var_os(URL).is_some() {
        return Ok(Source::Url {
            binaries: found.is_some(),
        });
    }
    if let Some(folder) = found {
        return Ok(Source::Binaries(folder));
    }
    apt::install("postgres", INSTALL, &[]).map_err(|error| format!("{error}; {ADVICE}"))?;
    find()
        .map(Source::Binaries)
        .ok_or_else(|| format!("installed, but its programs were not found; {ADVICE}"))
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(env::split_paths(&path), Path::new(DEBIAN))
}

/// The first folder of `path` that holds a server, else the newest version under `debian`: what `steadfast_testkit::postgres`
/// does, which is too long to build before a command starts.
fn find_in(path: impl IntoIterator<Item = PathBuf>, debian: &Path) -> Option<PathBuf> {
    path.into_iter()
        .find(|folder| holds_server(folder))
        .or_else(|| {
            let versions = fs::read_dir(debian).ok()?;
            versions
                .filter_map(Result::ok)
                .filter_map(|entry| {
                    let version: u32 = entry.file_name().to_str()?.parse().ok()?;
                    let folder = entry.path().join("bin");
                    holds_server(&folder).then_some((version, folder))
                })
                .max()
                .map(|(_, folder)| folder)
        })
}

fn holds_server(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"]
        .iter()
        .all(|program| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::find_in;

    fn lay_server(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for program in ["initdb", "pg_ctl", "postgres"] {
            fs::write(folder.join(program), "").unwrap();
        }
    }

    #[test]
    fn a_server_on_the_path_goes_before_the_distributions() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        lay_server(&own);
        lay_server(&root.path().join("debian/15/bin"));

        let found = find_in(
            [root.path().join("empty"), own.clone()],
            &root.path().join("debian"),
        );

        assert_eq!(found, Some(own));
    }

    #[test]
    fn the_newest_version_is_chosen_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "17", "15"] {
            lay_server(&root.path().join(version).join("bin"));
        }

        let found = find_in([], root.path());

        assert_eq!(found, Some(root.path().join("17/bin")));
    }

    #[test]
    fn a_client_without_a_server_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("17/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("psql"), "").unwrap();

        assert_eq!(find_in([bin], root.path()), None);
    }
}
