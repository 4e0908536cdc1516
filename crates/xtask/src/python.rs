//! A Python with grpcio, for tests with a gRPC client of another make.

use std::{env, path::Path, process::Command};

use crate::apt;

/// Names an interpreter for the tests.
const NAMED: &str = "STEADFAST_TEST_PYTHON";

/// The one that is made here if the machine has none; the tests look there too.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python");

/// The version that the own one gets.
const GRPCIO: &str = "grpcio==1.85.1";

const INSTALL: &str = include_str!("install-grpcio.sh");

/// Finds a Python with grpcio, or makes one, and says which, or what to do; true if there is one.
pub(crate) fn provide() -> bool {
    let found = find().or_else(|| make().and_then(|()| find())).or_else(|| {
        match apt::install("grpcio", INSTALL) {
            Ok(()) => find(),
            Err(reason) => {
                eprintln!(
                    "==> grpcio: {reason}; `pip install grpcio` for your Python, or name one that has it with {NAMED}"
                );
                None
            }
        }
    });
    if let Some(python) = &found {
        eprintln!("==> grpcio: {python}");
    }
    found.is_some()
}

fn find() -> Option<String> {
    let named = env::var(NAMED).ok();
    let known = [
        format!("{OWN}/bin/python3"),
        "python3".to_owned(),
        "/usr/bin/python3".to_owned(),
    ];
    named
        .into_iter()
        .chain(known)
        .find(|python| apt::succeeds(python, &["-c", "import grpc"]))
}

/// Makes an environment of its own, without root; `None` if this machine cannot.
fn make() -> Option<()> {
    if !apt::succeeds("python3", &["-m", "venv", "--help"]) {
        return None;
    }
    eprintln!("==> grpcio: not found; making an environment for it");
    let succeeds = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let made = succeeds(Command::new("python3").args(["-m", "venv", OWN]));
    let pip = Path::new(OWN).join("bin/pip");
    let installed = made
        && succeeds(Command::new(pip).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            GRPCIO,
        ]));
    installed.then_some(())
}
