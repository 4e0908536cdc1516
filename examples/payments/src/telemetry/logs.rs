use std::{
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::json::JsonLines;
use crate::config::LogFormat;

/// Where `RUST_LOG` says nothing. The idempotency layer's word for the end of each keyed request is part of the story of a payment.
/// Postgres would tell at each start that the tables are there.
const FILTER: &str = "info,steadfast_idempotency::signal=debug,sqlx::postgres::notice=warn";

/// Sends the log of the whole process to stderr, at the levels of `RUST_LOG`. Does nothing if there is a subscriber already.
///
/// In JSON a panic is an event too, so that each line is an object.
pub fn install(format: LogFormat) {
    let (filter, misread) = filter();
    let layer = match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .boxed(),
        LogFormat::Json => JsonLines::new(io::stderr).boxed(),
    };
    if format == LogFormat::Json {
        panic::set_hook(Box::new(tell_panic));
    }
    let installed = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    if let Err(error) = installed {
        tracing::debug!(%error, "logs go where they went before");
    }
    if let Some(error) = misread {
        tracing::warn!(%error, "RUST_LOG is not understood; the default is used");
    }
}

/// What `RUST_LOG` asks for, or else the default and what is wrong with it.
fn filter() -> (EnvFilter, Option<tracing_subscriber::filter::ParseError>) {
    let asked = env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    if asked.is_empty() {
        return (EnvFilter::new(FILTER), None);
    }
    match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER), Some(error)),
    }
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(
        panic = panic.payload_as_str().unwrap_or("not a text"),
        location,
        "a thread panicked"
    );
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use serde_json::Value;

    use super::*;

    /// Set in a process that is to panic: the log and the hook are the whole process's.
    const TO_PANIC: &str = "PAYMENTS_TEST_PANIC";

    #[test]
    fn a_panic_is_a_line_of_json() {
        if env::var_os(TO_PANIC).is_some() {
            install(LogFormat::Json);
            let panicked = thread::spawn(|| panic!("on \"purpose\"\nof a test")).join();
            assert!(panicked.is_err());
            return;
        }

        let test = "telemetry::logs::tests::a_panic_is_a_line_of_json";
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(TO_PANIC, "1")
            .env_remove(EnvFilter::DEFAULT_ENV)
            .output()
            .unwrap();

        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}")))
            .collect();
        let [line] = &*lines else { panic!("{said}") };
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "a thread panicked");
        assert_eq!(line["panic"], "on \"purpose\"\nof a test");
        let location = line["location"].as_str().unwrap();
        assert!(location.contains("logs.rs:"), "{location}");
    }
}
