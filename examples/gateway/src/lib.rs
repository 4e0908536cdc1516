//! `cargo run -p gateway -- --route /orders=http://127.0.0.1:4001`: a reverse proxy that retries what may be retried, and leaves sick
//! upstreams alone.
//!
//! [`app`] is the whole gateway without a socket; [`serve`](mod@serve) binds it to the world. The layers are put together in
//! [`stack`](mod@stack).

pub mod admin;
pub mod config;
pub mod failure;
mod headers;
mod intake;
pub mod origin;
mod problem;
pub mod proxy;
pub mod serve;
pub mod server;
mod shutdown;
pub mod stack;
mod trailers;
mod unread;
mod upload;
mod upstreams;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use steadfast::{circuit_breaker::BreakerRegistry, http::BoxError};

use crate::{admin::Admin, config::Config, failure::Failure, proxy::Proxy};

/// The body of a request or a response, whoever made it.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The gateway, ready to be served.
#[derive(Clone, Debug)]
pub struct App {
    /// For clients.
    pub proxy: Proxy,
    /// For operators.
    pub admin: Admin,
}

/// Puts the gateway together.
///
/// # Errors
///
/// Two routes have one prefix, a key is to be trusted on a route that is not there, or the limits cannot work together.
pub fn app(config: &Config) -> Result<App, Failure> {
    let breakers = BreakerRegistry::per_destination(stack::breaker_config(&config.limits))
        .map_err(|error| Failure::because("the circuit breakers cannot work", error))?;
    Ok(App {
        proxy: Proxy::new(config, &breakers)?,
        admin: Admin::new(&config.routes, breakers),
    })
}
