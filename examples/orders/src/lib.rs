//! `cargo run -p orders`: a tonic service that places each order once, and a client that keeps asking until it knows.
//!
//! [`app`] is the whole service without a socket; [`client`] is the other side. See the crate's README.

pub mod account;
pub mod client;
pub mod commands;
pub mod config;
pub mod database;
pub mod deadline;
pub mod failure;
pub mod faults;
pub mod serve;
mod shop;
mod shutdown;
pub mod table;
mod watches;

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use steadfast::{
    idempotency::{ConfigError, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer, scope},
    store::DynStore,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::{InterceptorLayer, Routes},
};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_http::trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::{
    account::Account, deadline::TimeNeededLayer, faults::FaultLayer,
    proto::orders_server::OrdersServer, shop::Shop, table::Orders,
};

/// What is generated from `proto/orders/v1/orders.proto`.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::use_self,
    reason = "it is generated"
)]
pub mod proto {
    tonic::include_proto!("orders.v1");
}

/// The methods of the service, by their paths.
pub mod methods {
    /// Takes effect once for each key.
    pub const PLACE_ORDER: &str = "/orders.v1.Orders/PlaceOrder";
    /// Takes effect once for each key.
    pub const CANCEL_ORDER: &str = "/orders.v1.Orders/CancelOrder";
    /// Reads.
    pub const GET_ORDER: &str = "/orders.v1.Orders/GetOrder";
    /// Reads.
    pub const LIST_ORDERS: &str = "/orders.v1.Orders/ListOrders";
    /// Reads, and answers with a stream.
    pub const WATCH_ORDER: &str = "/orders.v1.Orders/WatchOrder";
}

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    /// Remembers the operations.
    pub store: DynStore,
    /// The table of orders, in the same database.
    pub orders: Orders,
    /// How long an operation stays untouched after the death of its process.
    pub lease: Duration,
    /// How long it takes to place an order.
    pub work_time: Duration,
    /// What goes wrong on purpose.
    pub faults: FaultLayer,
    /// Ends the streams when the server stops.
    pub stopping: CancellationToken,
}

/// The service, ready to be served.
#[derive(Debug)]
pub struct App {
    /// Answers the calls.
    pub service: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
    /// The operations that run; drain it after the server has stopped, so that those whose clients left can end too.
    pub operations: IdempotencyHandle<DynStore>,
}

/// Puts the service together.
///
/// # Errors
///
/// The lease is one that the idempotency layer does not take.
pub fn app(deps: Deps) -> Result<App, ConfigError> {
    let idempotency = idempotency(deps.store, deps.lease)?;
    let operations = idempotency.handle();

    let trace = TraceLayer::new_for_grpc()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO))
        // Whoever answers with a failure knows why, and has logged it.
        .on_failure(());
    let shop = Shop::new(deps.orders, deps.work_time, deps.stopping);
    let service = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .layer(trace)
        // The time of a call runs from here.
        .layer(InterceptorLayer::new(deadline::read))
        // Outside of idempotency: keys are an account's own, and a stranger claims none.
        .layer(InterceptorLayer::new(account::authenticate))
        // As the network does, it loses answers that are kept.
        .layer(deps.faults)
        // Outside of idempotency: who comes too late claims no key, and answers for nobody else who has it.
        .layer(TimeNeededLayer::new(methods::PLACE_ORDER, deps.work_time))
        .layer(idempotency)
        .service(Routes::new(OrdersServer::new(shop)).prepare());
    Ok(App {
        service: BoxCloneSyncService::new(service),
        operations,
    })
}

fn idempotency(
    store: DynStore,
    lease: Duration,
) -> Result<IdempotencyLayer<DynStore>, ConfigError> {
    let config = IdempotencyConfig::default()
        .with_namespace("orders")
        .with_lease(lease)
        // Only these; every other method, streams among them, passes untouched.
        .with_grpc_methods([methods::PLACE_ORDER, methods::CANCEL_ORDER]);
    // At least once: after a lost execution the next call runs the handler again, which finds the order that was placed, since its
    // id is derived from the operation.
    let layer = IdempotencyLayer::at_least_once(
        store,
        scope::from_extension(|account: &Account| account.id()),
    )?
    .with_config(config)?;
    Ok(layer)
}
