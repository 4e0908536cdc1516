//! `cargo run -p payments`: a payments API that charges once, whatever the client, the network or the process does.
//!
//! [`app`] is the whole API without a socket; [`serve`](mod@serve) binds it to the world.

pub mod account;
pub mod api;
pub mod charges;
pub mod config;
pub mod database;
pub mod demo;
pub mod failure;
mod lifeline;
pub mod problem;
pub mod provider;
pub mod provider_client;
mod request;
pub mod serve;
mod server;
mod shutdown;
pub mod telemetry;

use std::{sync::Arc, time::Duration};

use axum::Router;
use steadfast::{
    idempotency::{ConfigError, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer, scope},
    store::DynStore,
};

use crate::{
    account::Account, charges::Charges, provider_client::ProviderClient, telemetry::Metrics,
};

/// How long a client may take for the body of a charge, of which it sends some hundred bytes.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// What the API works with.
#[derive(Debug)]
pub struct Deps {
    /// Remembers the operations.
    pub store: DynStore,
    /// The table of charges, in the same database.
    pub charges: Charges,
    /// Makes the charges.
    pub provider: ProviderClient,
    /// How long an operation stays untouched after the death of its process.
    pub lease: Duration,
    /// What the whole process counts.
    pub metrics: Metrics,
}

/// The API, ready to be served.
#[derive(Debug)]
pub struct App {
    /// The routes.
    pub router: Router,
    /// The operations that run; drain it after the server has stopped, so that those whose clients left can end too.
    pub operations: IdempotencyHandle<DynStore>,
}

/// Puts the API together.
///
/// # Errors
///
/// The lease is one that the idempotency layer does not take.
pub fn app(deps: Deps) -> Result<App, ConfigError> {
    let config = IdempotencyConfig::default()
        .with_namespace("payments")
        // Shorter than the server's own limit: this one tells the client what was wrong.
        .with_body_timeout(BODY_LIMIT)
        .with_lease(deps.lease);
    // At least once: after a lost execution the next request runs the charge again, and the provider, which deduplicates on the
    // key that is derived from the operation, makes no second one.
    let idempotency = IdempotencyLayer::at_least_once(
        deps.store,
        scope::from_extension(|account: &Account| account.id()),
    )?
    .with_config(config)?;
    let operations = idempotency.handle();

    let state = Arc::new(api::Api {
        charges: deps.charges,
        provider: deps.provider,
        metrics: deps.metrics,
    });
    Ok(App {
        router: api::routes(state, idempotency),
        operations,
    })
}
