//! Where the foreign programs are.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Where `cargo xtask test` puts an interpreter with what the scripts import if the machine has none.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python3");

/// Where it puts what it takes out of a package.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/programs");

/// Names an interpreter; no other is tried then.
const NAMED: &str = "STEADFAST_TEST_PYTHON";

/// An interpreter that has grpcio and requests.
pub(crate) fn python() -> Command {
    static PYTHON: OnceLock<OsString> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let will_do = |python: &OsString| succeeds(python, &["-c", "import grpc, requests"]);
        if let Some(named) = env::var_os(NAMED) {
            assert!(
                will_do(&named),
                "{NAMED} is {}, which cannot `import grpc, requests`",
                named.display()
            );
            return named;
        }
        let known = [OWN, "python3", "/usr/bin/python3"].map(OsString::from);
        known.into_iter().find(will_do).unwrap_or_else(|| {
            panic!("there is no Python with grpcio and requests: run `cargo xtask test`, which makes one, or name yours in {NAMED}")
        })
    });
    alone(python)
}

/// Node.js with `fetch`.
pub(crate) fn node() -> Command {
    static NODE: OnceLock<OsString> = OnceLock::new();
    let probe = [
        "--eval",
        "process.exit(typeof fetch === 'function' ? 0 : 1)",
    ];
    alone(NODE.get_or_init(|| found(&["node", "nodejs"], &probe)))
}

/// An nginx that keeps its errors where it is told; Debian keeps it from the PATH of those who are not root.
pub(crate) fn nginx() -> Command {
    static NGINX: OnceLock<OsString> = OnceLock::new();
    alone(NGINX.get_or_init(|| found(&["nginx", "/usr/sbin/nginx"], &["-e", "stderr", "-v"])))
}

/// A curl that keeps the body of an answer which it takes for an error.
pub(crate) fn curl() -> Command {
    static CURL: OnceLock<OsString> = OnceLock::new();
    let mut curl = alone(CURL.get_or_init(|| found(&["curl"], &["--fail-with-body", "--version"])));
    // What stands in the .curlrc of this machine's user is no part of a test. It has effect as the first argument alone.
    curl.arg("--disable");
    curl
}

fn found(commands: &[&str], probe: &[&str]) -> OsString {
    let known = commands.iter().map(OsString::from);
    known
        .chain([format!("{PROGRAMS}/{}", commands[0]).into()])
        .find(|command| succeeds(command, probe))
        .unwrap_or_else(|| {
            panic!(
                "there is no {} that will do: run `cargo xtask test`, which provides it",
                commands[0]
            )
        })
}

/// What runs the program with no proxy between it and this machine.
fn alone(program: &OsString) -> Command {
    let mut command = Command::new(program);
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

fn succeeds(program: &OsString, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A script that stands beside the tests.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
