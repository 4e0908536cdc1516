//! `cargo xtask test`: every test and doctest of the workspace, and every interleaving of what threads share.

mod tally;

use std::io::{self, BufRead, BufReader, Write};

use crate::{peers, postgres, python, step::Step};

use self::tally::Tally;

/// Runs the tests, `passed_on` going to `cargo test`, and says whether all passed.
pub(crate) fn run(passed_on: &[String]) -> bool {
    if !postgres::provide() || !python::provide() || !peers::provide() {
        return false;
    }

    // `cargo test` builds a program as a program only for integration tests of its own package; tests/programs runs the
    // payments program from another one. Selecting tests too gives both steps the same features: nothing is compiled twice.
    let build = Step::cargo(
        "build",
        [
            "build",
            "--workspace",
            "--all-features",
            "--bins",
            "--tests",
        ],
    );
    if !build.run() {
        eprintln!("==> test: nothing was run");
        return false;
    }

    let mut arguments = vec!["test", "--workspace", "--all-features", "--no-fail-fast"];
    arguments.extend(passed_on.iter().map(String::as_str));
    let mut tally = Tally::default();
    let passed = Step::cargo("test", arguments).run_reading(|output| copy(output, &mut tally));
    // Whoever chooses tests did not choose these.
    let explored =
        !passed_on.is_empty() || interleavings().run_reading(|output| copy(output, &mut tally));

    eprintln!("==> test: {tally}");
    passed && explored && !tally.found_failure()
}

/// Every interleaving of what threads do to a budget and to a breaker. loom takes the place of std's atomics and locks there, so it
/// is another build, with a folder of its own: in the common one it would replace the usual build, and be replaced by it.
fn interleavings() -> Step {
    let arguments = [
        "test",
        "--package",
        "steadfast-core",
        "--package",
        "steadfast-circuit-breaker",
        "--lib",
        "--target-dir",
        "target/loom",
        "loom",
    ];
    Step::cargo("interleavings", arguments).with_env("RUSTFLAGS", "--cfg loom")
}

/// Shows the output as it comes, and counts what it reports.
fn copy(output: impl io::Read, tally: &mut Tally) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut shown = io::stdout();
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        shown.write_all(&line)?;
        shown.flush()?;
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}
