//! The command line and the environment.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue},
    value_parser,
};
use reqwest::Url;

/// A payments API that charges once, whatever the client, the network or the process does.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API, with a fake card provider beside it (the default command)
    Serve(Box<ServeConfig>),
    /// Serve the fake card provider alone
    Provider(ProviderConfig),
    /// Play the story of a payment that must not happen twice, with real processes; exits 1 if a promise was broken
    Demo(DemoConfig),
}

impl Command {
    /// Reads the arguments of the process; without any it is `serve`. Ends the process if they mean nothing.
    #[must_use]
    pub fn from_arguments() -> Self {
        Cli::try_parse()
            .unwrap_or_else(|error| without_secrets(error).exit())
            .command
            .or_else(|| {
                Cli::try_parse_from(["payments", "serve"])
                    .unwrap_or_else(|error| without_secrets(error).exit())
                    .command
            })
            .expect("the arguments name a command")
    }

    /// How its log is written.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        let log = match self {
            Self::Serve(config) => config.log,
            Self::Provider(config) => config.log,
            Self::Demo(config) => config.log,
        };
        log.log_format
    }
}

/// The flags whose values may hold a password.
const SECRET: [&str; 3] = ["--store", "--postgres-url", "--provider-url"];

/// The same error, which does not repeat a value that may hold a password: one with a mistake in it is one still.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && SECRET.iter().any(|secret| flag.starts_with(secret))
    {
        let hidden = ContextValue::String("(not shown)".to_owned());
        error.insert(ContextKind::InvalidValue, hidden);
    }
    error
}

/// The configuration of `payments serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeConfig {
    /// Where the API listens; port 0 takes a free one
    #[arg(long, env = "PAYMENTS_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:3000")]
    pub listen: String,

    /// Where charges and idempotency records are kept: sqlite:PATH, postgres://... or memory:
    #[arg(
        long,
        env = "PAYMENTS_STORE",
        value_name = "URL",
        hide_env_values = true
    )]
    #[arg(default_value = "sqlite:payments.db")]
    pub store: StoreUrl,

    /// Where the built-in provider listens; port 0 takes a free one
    #[arg(long, env = "PAYMENTS_PROVIDER_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:3001")]
    pub provider_listen: String,

    /// The provider to use; with it the built-in one is not started
    #[arg(
        long,
        env = "PAYMENTS_PROVIDER_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    #[arg(value_parser = provider_url)]
    pub provider_url: Option<Url>,

    /// What calls of the provider may cost.
    #[command(flatten)]
    pub limits: ProviderLimits,

    /// How long a charge stays untouched after the death of its process; at least 100ms
    #[arg(long, env = "PAYMENTS_LEASE", value_name = "DURATION")]
    #[arg(default_value = "5s", value_parser = positive_duration)]
    pub lease: Duration,

    /// What operators read.
    #[command(flatten)]
    pub log: LogConfig,

    /// End at once, as if killed, when stdin closes: for a parent that leaves nothing behind, however it ends
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
}

/// How often the provider is called, for how long, and when it is left alone.
#[derive(Clone, Copy, Debug, Args)]
pub struct ProviderLimits {
    /// How often one charge calls the provider at most, the first call counted; 1 disables retries
    #[arg(long, env = "PAYMENTS_PROVIDER_ATTEMPTS", value_name = "NUMBER")]
    #[arg(default_value = "3", value_parser = value_parser!(u32).range(1..))]
    pub provider_attempts: u32,

    /// How long one call of the provider may take, to the end of its answer, each attempt by itself
    #[arg(long, env = "PAYMENTS_PROVIDER_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "2s", value_parser = positive_duration)]
    pub provider_timeout: Duration,

    /// After how many failed calls in a row, of all charges, the provider is left alone
    #[arg(long, env = "PAYMENTS_BREAKER_FAILURES", value_name = "NUMBER")]
    #[arg(default_value = "5", value_parser = value_parser!(u32).range(1..))]
    pub breaker_failures: u32,

    /// How long the provider is left alone before a call probes it; chance adds up to a tenth
    #[arg(long, env = "PAYMENTS_BREAKER_OPEN", value_name = "DURATION")]
    #[arg(default_value = "30s", value_parser = positive_duration)]
    pub breaker_open: Duration,

    /// How many probes in a row, one at a time, must succeed before the provider is called as before
    #[arg(long, env = "PAYMENTS_BREAKER_SUCCESSES", value_name = "NUMBER")]
    #[arg(default_value = "3", value_parser = value_parser!(u32).range(1..))]
    pub breaker_successes: u32,
}

/// The configuration of `payments provider`.
#[derive(Clone, Debug, Args)]
pub struct ProviderConfig {
    /// Where the provider listens; port 0 takes a free one
    #[arg(long, env = "PAYMENTS_PROVIDER_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:3001")]
    pub listen: String,

    /// What operators read.
    #[command(flatten)]
    pub log: LogConfig,

    /// End at once, as if killed, when stdin closes: for a parent that leaves nothing behind, however it ends
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
}

/// The configuration of `payments demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoConfig {
    /// Play the scene of two processes on this Postgres database, in a schema that is made for it and dropped at the end; else on
    /// that of PAYMENTS_STORE, if it is one, and else on a SQLite file
    #[arg(
        long,
        env = "PAYMENTS_POSTGRES_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub postgres_url: Option<PostgresUrl>,

    /// Let the provider forget its keys, which no layer in front of it can repair: promises break, and the demo exits 1
    #[arg(long)]
    pub without_dedupe: bool,

    /// What operators read.
    #[command(flatten)]
    pub log: LogConfig,
}

/// How the log is written. `RUST_LOG` says what is in it.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogConfig {
    /// How the log is written to stderr: for people, or one JSON object a line
    #[arg(long, env = "PAYMENTS_LOG_FORMAT", value_name = "FORMAT")]
    #[arg(default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object.
    Json,
}

/// Where a Postgres database is.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// The URL, password and all.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresUrl(..)")
    }
}

impl FromStr for PostgresUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected postgres://...")
        }
    }
}

/// Where charges and idempotency records are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// Nowhere: they are gone with the process.
    Memory,
    /// A Postgres database.
    Postgres(String),
    /// A SQLite file.
    Sqlite(PathBuf),
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("Memory"),
            // The URL may hold a password.
            Self::Postgres(_) => f.write_str("Postgres(..)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text
            .split_once(':')
            .ok_or("expected sqlite:PATH, postgres://... or memory:")?;
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err("nothing may follow memory:"),
            "postgres" | "postgresql" => Ok(Self::Postgres(text.to_owned())),
            "sqlite" => sqlite_path(rest.strip_prefix("//").unwrap_or(rest)).map(Self::Sqlite),
            _ => Err("expected sqlite:PATH, postgres://... or memory:"),
        }
    }
}

fn sqlite_path(path: &str) -> Result<PathBuf, &'static str> {
    if path.is_empty() {
        Err("expected a path after sqlite:")
    } else if path == ":memory:" {
        Err("use memory: to keep nothing")
    } else if path.contains('?') {
        Err("a SQLite path takes no parameters")
    } else {
        Ok(path.into())
    }
}

fn provider_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.scheme() != "http" {
        return Err("only http:// is supported".to_owned());
    }
    // It would go into what is printed at the start.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must name neither a user nor a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must have neither a query nor a fragment".to_owned());
    }
    Ok(url)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("it must be longer than zero".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_store_is_named_by_its_scheme() {
        for (text, store) in [
            ("memory:", StoreUrl::Memory),
            ("sqlite:a.db", StoreUrl::Sqlite("a.db".into())),
            ("sqlite://a.db", StoreUrl::Sqlite("a.db".into())),
            ("sqlite:///var/a.db", StoreUrl::Sqlite("/var/a.db".into())),
            (
                "postgres://u:p@h/d",
                StoreUrl::Postgres("postgres://u:p@h/d".into()),
            ),
            (
                "postgresql://h/d",
                StoreUrl::Postgres("postgresql://h/d".into()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(store), "{text}");
        }
        for text in [
            "",
            "a.db",
            "memory:x",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:a.db?mode=ro",
            "mysql://h/d",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text} passed");
        }
    }

    #[test]
    fn the_password_of_a_store_is_not_shown() {
        let text = "postgres://user:secret@host/database";
        let store: StoreUrl = text.parse().unwrap();
        let postgres: PostgresUrl = text.parse().unwrap();

        assert!(!format!("{store:?}{postgres:?}").contains("secret"));
    }

    #[test]
    fn a_postgres_is_named_by_its_scheme() {
        for text in ["postgres://u:p@h/d?a=b", "postgresql://h/d"] {
            let url: PostgresUrl = text.parse().unwrap();
            assert_eq!(url.as_str(), text);
        }
        for text in ["", "h/d", "sqlite:a.db", "postgres:"] {
            assert!(text.parse::<PostgresUrl>().is_err(), "{text} passed");
        }
    }

    #[test]
    fn a_provider_is_named_by_a_plain_http_url() {
        assert!(provider_url("http://127.0.0.1:3001").is_ok());
        for text in [
            "127.0.0.1:3001",
            "https://h",
            "http://h?a=b",
            "http://h#a",
            "http://u@h",
            "http://u:p@h",
            "http://:p@h",
        ] {
            assert!(provider_url(text).is_err(), "{text} passed");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_is_not_zero() {
        assert_eq!(positive_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["5", "0s", "-1s", "soon"] {
            assert!(positive_duration(text).is_err(), "{text} passed");
        }
    }
}
