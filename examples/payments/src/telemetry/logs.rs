use std::{
    env,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::json::JsonLines;
use crate::config::LogFormat;

/// Where `RUST_LOG` says nothing. The idempotency layer's word for the end of each keyed request is part of the story of a payment.
/// Postgres would tell at each start that the tables are there.
const FILTER: &str = "info,steadfast_idempotency::signal=debug,sqlx::postgres::notice=warn";

/// Sends the log of the whole process to stderr, at the levels of `RUST_LOG`. Does nothing if there is a subscriber already.
pub fn install(format: LogFormat) {
    let (filter, misread) = filter();
    let layer = match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .boxed(),
        LogFormat::Json => JsonLines::new(io::stderr).boxed(),
    };
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
