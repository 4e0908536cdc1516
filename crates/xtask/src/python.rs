//! A Python with grpcio and requests, for tests with clients and servers of another make.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::Command,
};

use crate::apt;

/// Names an interpreter for the tests.
const NAMED: &str = "STEADFAST_TEST_PYTHON";

/// The one that is made here if the machine has none; the tests look there too. It stays there wherever cargo builds: a compiled
/// test knows its workspace, but not each way in which cargo's own folder can be moved (CARGO_TARGET_DIR is one of them).
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python");

/// What the own one gets.
const PACKAGES: [&str; 2] = ["grpcio==1.85.1", "requests==2.34.2"];

/// What to do where none can be made: many a system forbids pip to change its own Python.
const ADVICE: &str = "make one (`python3 -m venv FOLDER`, for which Debian has python3-venv, and `FOLDER/bin/pip install grpcio \
    requests`), and name it: STEADFAST_TEST_PYTHON=FOLDER/bin/python3";

/// What all of them must be able to do.
const IMPORT: &str = "import grpc, requests";

const INSTALL: &str = include_str!("install-python.sh");

/// Finds a Python with both, or makes one, and says which, or what to do; true if there is one.
pub(crate) fn provide() -> bool {
    match ensure(env::var_os(NAMED)) {
        Ok(python) => {
            eprintln!("==> python: {}", python.display());
            true
        }
        Err(reason) => {
            eprintln!("==> python: {reason}");
            false
        }
    }
}

/// An error says in one line what to do.
fn ensure(named: Option<OsString>) -> Result<OsString, String> {
    // Another one in its place would test what nobody asked for.
    if let Some(python) = named {
        return if is_equipped(&python) {
            Ok(python)
        } else {
            Err(format!(
                "{NAMED} names `{}`, which does not run or cannot `{IMPORT}`: {ADVICE}; or unset {NAMED}",
                python.display()
            ))
        };
    }
    if let Some(python) = find().or_else(|| make().and_then(|()| find())) {
        return Ok(python);
    }
    apt::install("python with grpcio and requests", INSTALL, &[])
        .map_err(|reason| format!("{reason}; {ADVICE}"))?;
    find().ok_or_else(|| format!("installed, but no Python has both; {ADVICE}"))
}

fn find() -> Option<OsString> {
    let own = format!("{OWN}/bin/python3");
    [own.as_str(), "python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| is_equipped(python))
        .map(OsString::from)
}

fn is_equipped(python: impl AsRef<OsStr>) -> bool {
    apt::succeeds(python, &["-c", IMPORT])
}

/// Makes an environment of its own, without root; `None` if this machine cannot.
fn make() -> Option<()> {
    if !apt::succeeds("python3", &["-m", "venv", "--help"]) {
        return None;
    }
    eprintln!("==> python: none has grpcio and requests; making an environment for them");
    let succeeds = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let made = succeeds(Command::new("python3").args(["-m", "venv", OWN]));
    let pip = Path::new(OWN).join("bin/pip");
    let installed = made
        && succeeds(
            Command::new(pip)
                .args(["install", "--quiet", "--disable-pip-version-check"])
                // To build grpcio from source takes a compiler and many minutes; the distribution's package does not.
                .args([
                    "--only-binary",
                    ":all:",
                    "--timeout",
                    "20",
                    "--retries",
                    "1",
                ])
                .args(PACKAGES),
        );
    installed.then_some(())
}

#[cfg(test)]
mod tests {
    use super::{NAMED, ensure};

    #[test]
    fn a_named_python_without_the_packages_is_an_error_of_one_line() {
        let reason = ensure(Some("false".into())).unwrap_err();

        assert!(reason.contains(NAMED) && reason.contains("`false`"));
        assert!(reason.contains("-m venv"), "{reason}");
        assert_eq!(reason.lines().count(), 1);
    }
}
