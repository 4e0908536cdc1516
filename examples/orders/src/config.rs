//! The command line and the environment.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, value_parser};
use tonic::transport::Endpoint;

/// A tonic service that places each order once, and a client that keeps asking until it knows.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve orders (the default command)
    Serve(ServeConfig),
    /// Place an order
    Place(PlaceConfig),
    /// Cancel an order
    Cancel(CancelConfig),
    /// Show an order
    Get(OrderConfig),
    /// Show the newest orders
    List(ListConfig),
    /// Show an order and each change, until it is cancelled
    Watch(OrderConfig),
}

impl Command {
    /// Reads the arguments of the process; without any it is `serve`. Ends the process if they mean nothing.
    #[must_use]
    pub fn from_arguments() -> Self {
        Cli::parse()
            .command
            .or_else(|| Cli::parse_from(["orders", "serve"]).command)
            .expect("the arguments name a command")
    }
}

/// The configuration of `orders serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeConfig {
    /// Where the service listens; port 0 takes a free one
    #[arg(long, env = "ORDERS_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:50051")]
    pub listen: String,

    /// Where orders and idempotency records are kept: sqlite:PATH, postgres://... or memory:
    #[arg(long, env = "ORDERS_STORE", value_name = "URL", hide_env_values = true)]
    #[arg(default_value = "sqlite:orders.db")]
    pub store: StoreUrl,

    /// How long an operation stays untouched after the death of its process; at least 100ms
    #[arg(long, env = "ORDERS_LEASE", value_name = "DURATION")]
    #[arg(default_value = "5s", value_parser = positive_duration)]
    pub lease: Duration,

    /// How long it takes to place an order: here it is only waited for
    #[arg(long, env = "ORDERS_WORK_TIME", value_name = "DURATION")]
    #[arg(default_value = "50ms", value_parser = humantime::parse_duration)]
    pub work_time: Duration,

    /// Refuse so many attempts of each call with UNAVAILABLE, as clients count them, before anything is done
    #[arg(long, env = "ORDERS_FAIL_FIRST", value_name = "NUMBER")]
    #[arg(default_value = "0")]
    pub fail_first: u32,

    /// Do so many attempts of each call, as clients count them, and answer UNAVAILABLE all the same
    #[arg(long, env = "ORDERS_LOSE_FIRST", value_name = "NUMBER")]
    #[arg(default_value = "0")]
    pub lose_first: u32,
}

/// Whom to call, as whom, and for how long.
#[derive(Clone, Debug, Args)]
pub struct ClientConfig {
    /// The server
    #[arg(long, env = "ORDERS_SERVER", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:50051", value_parser = server)]
    pub server: Endpoint,

    /// The API key, which names the account; any will do
    #[arg(
        long,
        env = "ORDERS_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    #[arg(default_value = "sk_demo")]
    pub api_key: String,

    /// How long the whole call may take, waits included; of a watch, how long it may take to begin
    #[arg(long, env = "ORDERS_DEADLINE", value_name = "DURATION")]
    #[arg(default_value = "5s", value_parser = positive_duration)]
    pub deadline: Duration,

    /// How long one attempt may take
    #[arg(long, env = "ORDERS_ATTEMPT_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "1s", value_parser = positive_duration)]
    pub attempt_timeout: Duration,

    /// How often the call is sent at most, the first attempt counted; 1 disables retries
    #[arg(long, env = "ORDERS_ATTEMPTS", value_name = "NUMBER")]
    #[arg(default_value = "3", value_parser = value_parser!(u32).range(1..))]
    pub attempts: u32,
}

/// The configuration of `orders place`.
#[derive(Clone, Debug, Args)]
pub struct PlaceConfig {
    /// The article
    #[arg(long)]
    pub sku: String,

    /// How many of it
    #[arg(long)]
    pub quantity: u32,

    /// Names the operation: the same again is the same order. Default: a new one, which is written to stderr
    #[arg(long)]
    pub key: Option<String>,

    /// Whom to call.
    #[command(flatten)]
    pub client: ClientConfig,
}

/// The configuration of `orders cancel`.
#[derive(Clone, Debug, Args)]
pub struct CancelConfig {
    /// The order
    #[arg(long)]
    pub id: String,

    /// Names the operation: the same again gets the same answer. Default: a new one, which is written to stderr
    #[arg(long)]
    pub key: Option<String>,

    /// Whom to call.
    #[command(flatten)]
    pub client: ClientConfig,
}

/// The configuration of `orders get` and `orders watch`.
#[derive(Clone, Debug, Args)]
pub struct OrderConfig {
    /// The order
    #[arg(long)]
    pub id: String,

    /// Whom to call.
    #[command(flatten)]
    pub client: ClientConfig,
}

/// The configuration of `orders list`.
#[derive(Clone, Debug, Args)]
pub struct ListConfig {
    /// Whom to call.
    #[command(flatten)]
    pub client: ClientConfig,
}

/// Where orders and idempotency records are kept.
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

fn server(text: &str) -> Result<Endpoint, String> {
    if !text.starts_with("http://") {
        return Err("only http:// is supported".to_owned());
    }
    Endpoint::from_shared(text.to_owned()).map_err(|error| error.to_string())
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
            ("sqlite:///var/a.db", StoreUrl::Sqlite("/var/a.db".into())),
            (
                "postgres://u:p@h/d",
                StoreUrl::Postgres("postgres://u:p@h/d".into()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(store), "{text}");
        }
        for text in [
            "a.db",
            "memory:x",
            "sqlite:",
            "sqlite::memory:",
            "mysql://h/d",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text} passed");
        }
    }

    #[test]
    fn the_password_of_a_store_is_not_shown() {
        let store: StoreUrl = "postgres://user:secret@host/database".parse().unwrap();

        assert!(!format!("{store:?}").contains("secret"));
    }

    #[test]
    fn a_server_is_named_by_a_plain_http_url() {
        assert!(server("http://127.0.0.1:50051").is_ok());
        for text in ["127.0.0.1:50051", "https://h", "http://"] {
            assert!(server(text).is_err(), "{text} passed");
        }
    }
}
