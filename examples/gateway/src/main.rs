//! `cargo run -p gateway -- --route /orders=http://127.0.0.1:4001`
//!
//! Reads the configuration and serves; see the crate's README.

use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
};

use gateway::config::Config;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::from_arguments();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();

    match gateway::serve::serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "gateway failed");
            ExitCode::FAILURE
        }
    }
}
