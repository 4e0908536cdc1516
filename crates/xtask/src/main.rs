//! `cargo xtask <command>`: the gates of the workspace, the same ones that CI runs.
//!
//! Std only, so that a gate starts within seconds of a fresh clone.
#![expect(
    clippy::print_stderr,
    reason = "a command line tool tells its user what it does"
)]

mod apt;
mod bench;
mod check;
mod peers;
mod postgres;
mod python;
mod step;
mod test;

use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask <command>

  check              formatting, clippy, docs, each crate and each facade feature alone; warnings are errors
  test [-- ARGS...]  every test and doctest, over a throwaway Postgres; ARGS go to `cargo test`
  bench [-- ARGS...] what the layers cost, measured side by side; `bench -- --help` lists what ARGS can be

`test` and `bench` use STEADFAST_TEST_POSTGRES_URL, or the PostgreSQL binaries of this machine, or installs them with apt-get.
`test` also finds a Python with grpcio and requests (STEADFAST_TEST_PYTHON names one), or makes one in target/python of this
workspace; curl and Node.js, or installs them with apt-get; nginx and promtool, or takes them out of the distribution's packages into
target/programs of this workspace, and installs nothing.
To run the tests of one crate: cargo test -p <crate>";

/// A command line that means nothing here, and why.
struct Misuse(String);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Misuse(reason)) => {
            eprintln!("error: {reason}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command and says whether it passed.
fn run(arguments: &[String]) -> Result<bool, Misuse> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Misuse("a command is missing".to_owned()));
    };
    match command.as_str() {
        "check" => match rest {
            [] => Ok(check::run()),
            [unexpected, ..] => Err(Misuse(format!("`check` takes no `{unexpected}`"))),
        },
        "test" => match rest {
            [] => Ok(test::run(&[])),
            [separator, passed @ ..] if separator == "--" => {
                // Beside `--workspace` cargo ignores it, and would run everything.
                let mut for_cargo = passed.iter().take_while(|&argument| argument != "--");
                match for_cargo.find(|argument| names_a_package(argument)) {
                    Some(package) => Err(Misuse(format!(
                        "`{package}` means nothing here: `test` runs the whole workspace"
                    ))),
                    None => Ok(test::run(passed)),
                }
            }
            [unexpected, ..] => Err(Misuse(format!(
                "`test` takes no `{unexpected}`; what is for cargo stands after `--`"
            ))),
        },
        "bench" => match rest {
            [] => Ok(bench::run(&[])),
            [separator, passed @ ..] if separator == "--" => Ok(bench::run(passed)),
            [unexpected, ..] => Err(Misuse(format!(
                "`bench` takes no `{unexpected}`; what is for the benchmarks stands after `--`"
            ))),
        },
        "help" | "--help" | "-h" => {
            eprintln!("{USAGE}");
            Ok(true)
        }
        unknown => Err(Misuse(format!("there is no command `{unknown}`"))),
    }
}

fn names_a_package(argument: &str) -> bool {
    argument.starts_with("--package") || (argument.starts_with("-p") && !argument.starts_with("--"))
}

#[cfg(test)]
mod tests {
    use super::{Misuse, run};

    fn misuse(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        match run(&arguments) {
            Ok(_) => panic!("{arguments:?} ran"),
            Err(Misuse(reason)) => reason,
        }
    }

    #[test]
    fn what_is_not_a_command_is_refused_before_anything_runs() {
        assert_eq!(misuse(&[]), "a command is missing");
        assert_eq!(misuse(&["bnech"]), "there is no command `bnech`");
        assert_eq!(misuse(&["check", "--fix"]), "`check` takes no `--fix`");
    }

    #[test]
    fn an_argument_to_pass_on_without_the_separator_is_refused() {
        assert!(misuse(&["test", "claim"]).contains("`claim`"));
        assert!(misuse(&["bench", "--quick"]).contains("`--quick`"));
    }

    #[test]
    fn a_package_that_cargo_would_ignore_is_refused() {
        for spelling in ["-p", "-psteadfast", "--package", "--package=steadfast"] {
            assert!(misuse(&["test", "--", spelling, "steadfast"]).contains(spelling));
        }
    }
}
