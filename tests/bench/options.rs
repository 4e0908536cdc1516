//! The command line.

use std::time::Duration;

pub(crate) const USAGE: &str = "\
usage: cargo xtask bench [-- [FILTER] [--quick] [--seconds N]]

  FILTER       runs the benchmarks that have it in their name: over-http, bypassed, keyed
  --quick      measures for an instant: shows that everything runs; its figures mean nothing
  --seconds N  measures each point over HTTP for N seconds in each round, 1 by default; calls in process in proportion";

/// Nothing is measured for longer at one point.
const MOST_SECONDS: f64 = 3_600.0;

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Run(Options),
    Help,
    /// What asks for the names of tests gets none: this is one program.
    List,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    filter: Option<String>,
    /// How long one side is measured over HTTP in each round.
    pub(crate) point: Duration,
    /// Has few rounds, and less to compare: enough to see that it works.
    pub(crate) quick: bool,
    /// Started by `cargo test`, which says nothing, and not by `cargo bench`, which passes `--bench`.
    pub(crate) is_test: bool,
}

impl Options {
    pub(crate) fn chooses(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|filter| name.contains(filter))
    }
}

const POINT: Duration = Duration::from_secs(1);
const QUICK_POINT: Duration = Duration::from_millis(30);

pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut arguments: Vec<String> = arguments.into_iter().collect();
    let before = arguments.len();
    arguments.retain(|argument| argument != "--bench");
    if arguments.len() == before {
        return Ok(as_test(&arguments));
    }

    let mut options = Options {
        filter: None,
        point: POINT,
        quick: false,
        is_test: false,
    };
    let mut seconds = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--quick" => {
                options.quick = true;
                options.point = QUICK_POINT;
            }
            "--seconds" => {
                let given = arguments.next().ok_or("`--seconds` takes a number")?;
                seconds = Some(parse_seconds(&given)?);
            }
            unknown if unknown.starts_with('-') => {
                return Err(format!("there is no option `{unknown}`"));
            }
            filter => {
                if options.filter.replace(filter.to_owned()).is_some() {
                    return Err(format!("`{filter}` is a second filter"));
                }
            }
        }
    }
    options.point = seconds.unwrap_or(options.point);
    Ok(Command::Run(options))
}

/// What the harness of tests understands is nothing to this program, but a filter that its own names do not have.
fn as_test(arguments: &[String]) -> Command {
    if arguments.iter().any(|argument| argument == "--list") {
        return Command::List;
    }
    Command::Run(Options {
        filter: arguments
            .iter()
            .find(|argument| !argument.starts_with('-'))
            .cloned(),
        point: QUICK_POINT,
        quick: true,
        is_test: true,
    })
}

fn parse_seconds(given: &str) -> Result<Duration, String> {
    match given.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MOST_SECONDS => {
            Ok(Duration::from_secs_f64(seconds))
        }
        Ok(_) | Err(_) => Err(format!(
            "`--seconds {given}`: a number above 0, {MOST_SECONDS} at most"
        )),
    }
}
