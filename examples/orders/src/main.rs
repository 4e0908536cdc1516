//! `cargo run -p orders`
//!
//! Reads the configuration and runs what it names; see the crate's README.

use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
};

use orders::{commands, config::Command};
use tracing_subscriber::EnvFilter;

/// Where `RUST_LOG` says nothing. Postgres would tell at each start that the tables are there.
const LOG_FILTER: &str = "info,sqlx::postgres::notice=warn";

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::from_arguments();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();

    let ended = match command {
        Command::Serve(config) => orders::serve::serve(config).await,
        Command::Place(config) => commands::place(config).await,
        Command::Cancel(config) => commands::cancel(config).await,
        Command::Get(config) => commands::get(config).await,
        Command::List(config) => commands::list(config).await,
        Command::Watch(config) => commands::watch(config).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "orders failed");
            ExitCode::FAILURE
        }
    }
}
