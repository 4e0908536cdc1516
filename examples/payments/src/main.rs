//! `cargo run -p payments`
//!
//! Reads the configuration and runs what it names; see the crate's README.

use std::{error::Error, process::ExitCode};

use payments::{config::Command, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::from_arguments();
    telemetry::install_logs(command.log_format());

    let ended = match command {
        Command::Serve(config) => payments::serve::serve(*config).await,
        Command::Provider(config) => payments::serve::provider(config).await,
        Command::Demo(config) => payments::demo::play(config).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "payments failed");
            ExitCode::FAILURE
        }
    }
}
