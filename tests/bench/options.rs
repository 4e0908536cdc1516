//! The command line.

use std::time::Duration;

use crate::over_http::StoreKind;

pub(crate) const USAGE: &str = "\
usage: cargo xtask bench [-- [FILTER] [--quick] [--seconds N] [--stores LIST] [--clients LIST]]

  FILTER          runs the benchmarks that have it in their name: over-http, bypassed, keyed, retry, breaker, stack
  --quick         measures for an instant: shows that everything runs; its figures mean nothing and are not judged
  --seconds N     measures each point over HTTP for N seconds in each round, 1 by default; calls in process in proportion
  --stores LIST   measures over-http with these stores: memory, sqlite, postgres, all by default
  --clients LIST  measures over-http with so many clients: 1,16,64,256 by default

A run that is not quick fails where a bar is missed. The bar of over-http alone takes half a minute:
  cargo xtask bench -- over-http --stores memory --clients 64 --seconds 0.5";

/// What the options `--stores` and `--clients` are for.
const OVER_HTTP: &str = "over-http";

/// Each has two sockets in this process.
const MOST_CLIENTS: usize = 4_096;

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
    /// Those over HTTP, in the order in which they have their turns.
    pub(crate) stores: Vec<StoreKind>,
    /// How many at once over HTTP; `None` leaves it to the benchmark.
    pub(crate) clients: Option<Vec<usize>>,
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
        stores: StoreKind::ALL.to_vec(),
        clients: None,
        is_test: false,
    };
    let mut choice = None;
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
            "--stores" => {
                let given = arguments.next().ok_or("`--stores` takes a list")?;
                options.stores = parse_stores(&given)?;
                choice = Some(argument);
            }
            "--clients" => {
                let given = arguments.next().ok_or("`--clients` takes a list")?;
                options.clients = Some(parse_clients(&given)?);
                choice = Some(argument);
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
    if let Some(choice) = choice.filter(|_| !options.chooses(OVER_HTTP)) {
        return Err(format!("`{choice}` is for {OVER_HTTP}, which is not run"));
    }
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
        stores: StoreKind::ALL.to_vec(),
        clients: None,
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

fn parse_stores(given: &str) -> Result<Vec<StoreKind>, String> {
    let mut chosen = Vec::new();
    for name in given.split(',') {
        let store = StoreKind::named(name)
            .ok_or_else(|| format!("`--stores {given}`: there is no store `{name}`"))?;
        chosen.push(store);
    }
    Ok(StoreKind::ALL
        .into_iter()
        .filter(|store| chosen.contains(store))
        .collect())
}

fn parse_clients(given: &str) -> Result<Vec<usize>, String> {
    let mut clients = Vec::new();
    for number in given.split(',') {
        match number.parse() {
            Ok(number) if (1..=MOST_CLIENTS).contains(&number) => clients.push(number),
            Ok(_) | Err(_) => {
                return Err(format!(
                    "`--clients {given}`: numbers from 1 to {MOST_CLIENTS}"
                ));
            }
        }
    }
    clients.sort_unstable();
    clients.dedup();
    Ok(clients)
}
