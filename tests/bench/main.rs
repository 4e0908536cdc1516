//! What the layers cost, beside the same service without them, in one run: `cargo xtask bench`.
//!
//! Figures of different runs do not compare: a machine has slow phases in which everything takes twice as long. So all sides of
//! a comparison take turns, round after round, and what counts is the ratio, or the difference, of neighbours.
//!
//! A benchmark is a module with a `run`, entered in [`BENCHMARKS`]. [`requests`] measures a server over loopback sockets,
//! [`calls`] a service that is called directly.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a command line tool tells its user what it found"
)]

mod breaker;
mod bypassed;
mod calls;
mod keyed;
mod machine;
mod options;
mod over_http;
mod requests;
mod retry;
mod services;
mod spread;
mod stack;
mod table;

use std::{env, error::Error, process::ExitCode};

use self::options::{Command, Options, USAGE};

type BoxError = Box<dyn Error + Send + Sync>;

struct Benchmark {
    name: &'static str,
    /// Measures, and says what it found.
    run: fn(&Options) -> Result<Report, BoxError>,
}

/// What a benchmark found.
struct Report {
    text: String,
    /// What was to be reached and was not, in one line.
    missed: Option<String>,
}

impl Report {
    /// Of a benchmark that is not judged.
    const fn of(text: String) -> Self {
        Self { text, missed: None }
    }
}

const BENCHMARKS: [Benchmark; 6] = [
    Benchmark {
        name: "over-http",
        run: over_http::run,
    },
    Benchmark {
        name: "bypassed",
        run: bypassed::run,
    },
    Benchmark {
        name: "keyed",
        run: keyed::run,
    },
    Benchmark {
        name: "retry",
        run: retry::run,
    },
    Benchmark {
        name: "breaker",
        run: breaker::run,
    },
    Benchmark {
        name: "stack",
        run: stack::run,
    },
];

fn main() -> ExitCode {
    match options::parse(env::args().skip(1)) {
        Ok(Command::Run(options)) => run(&options),
        Ok(Command::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::List) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> ExitCode {
    let chosen: Vec<_> = BENCHMARKS
        .iter()
        .filter(|benchmark| options.chooses(benchmark.name))
        .collect();
    if chosen.is_empty() {
        let names = BENCHMARKS.map(|benchmark| benchmark.name).join(", ");
        eprintln!("no benchmark has the filter in its name: {names}");
        // As a test it was told to run others.
        return if options.is_test {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    }

    if !options.is_test {
        println!("{}", machine::describe());
    }
    let mut missed = Vec::new();
    for benchmark in chosen {
        match (benchmark.run)(options) {
            // Such figures mean nothing, and are better not read.
            Ok(_) if options.is_test => println!("benchmark {} runs", benchmark.name),
            Ok(report) => {
                println!("{}", report.text);
                missed.extend(report.missed);
            }
            Err(error) => {
                eprintln!("{} failed: {}", benchmark.name, chain(&*error));
                return ExitCode::FAILURE;
            }
        }
    }
    if !options.is_test {
        println!("load average at the end: {}", machine::load());
    }
    for missed in &missed {
        eprintln!("missed: {missed}");
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The error with all its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
