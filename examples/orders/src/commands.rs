//! The commands of the client.

use std::io::{self, Write};

use steadfast::{circuit_breaker::BreakerConfig, http::grpc::Code};
use tokio::time::timeout;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use uuid::Uuid;

use crate::{
    client::{Clients, Limits},
    config::{CancelConfig, ClientConfig, ListConfig, OrderConfig, PlaceConfig},
    failure::Failure,
    proto::{
        CancelOrderRequest, GetOrderRequest, ListOrdersRequest, Order, PlaceOrderRequest,
        WatchOrderRequest,
    },
};

/// Places an order and shows it.
///
/// # Errors
///
/// It was refused, or no answer came: then the order may have been placed, and the same key finds it.
///
/// # Cancel safety
///
/// The order may be placed although the future is dropped; the same key finds it.
pub async fn place(config: PlaceConfig) -> Result<(), Failure> {
    let order = PlaceOrderRequest {
        sku: config.sku,
        quantity: config.quantity,
    };
    let mut client = clients(config.client)?.unary;
    let answer = client.place_order(keyed(order, config.key)?).await;
    show_answer(answer)
}

/// Cancels an order and shows it.
///
/// # Errors
///
/// It was refused, or no answer came: then the order may have been cancelled, and the same key tells.
///
/// # Cancel safety
///
/// The order may be cancelled although the future is dropped; the same key tells.
pub async fn cancel(config: CancelConfig) -> Result<(), Failure> {
    let order = CancelOrderRequest { id: config.id };
    let mut client = clients(config.client)?.unary;
    let answer = client.cancel_order(keyed(order, config.key)?).await;
    show_answer(answer)
}

/// Shows an order.
///
/// # Errors
///
/// There is none, or no answer came.
///
/// # Cancel safety
///
/// It only reads.
pub async fn get(config: OrderConfig) -> Result<(), Failure> {
    let request = GetOrderRequest { id: config.id };
    let answer = clients(config.client)?.unary.get_order(request).await;
    show(&line(answer.map_err(refused)?.get_ref()))
}

/// Shows the newest orders.
///
/// # Errors
///
/// No answer came.
///
/// # Cancel safety
///
/// It only reads.
pub async fn list(config: ListConfig) -> Result<(), Failure> {
    let mut client = clients(config.client)?.unary;
    let answer = client.list_orders(ListOrdersRequest {}).await;
    for order in answer.map_err(refused)?.into_inner().orders {
        show(&line(&order))?;
    }
    Ok(())
}

/// Shows an order and each change, until it is cancelled.
///
/// # Errors
///
/// There is none, the stream did not begin before the deadline, or it broke off.
///
/// # Cancel safety
///
/// It only reads.
pub async fn watch(config: OrderConfig) -> Result<(), Failure> {
    let begins_within = config.client.deadline;
    let mut client = clients(config.client)?.streams;
    let begun = client.watch_order(WatchOrderRequest { id: config.id });
    // The layers would tell the server of a limit, and it is not one of the whole stream.
    let answer = timeout(begins_within, begun)
        .await
        .map_err(|_| Failure::new(format!("the watch did not begin within {begins_within:?}")))?;
    let mut orders = answer.map_err(refused)?.into_inner();
    while let Some(order) = orders.message().await.map_err(refused)? {
        show(&line(&order))?;
    }
    Ok(())
}

fn clients(config: ClientConfig) -> Result<Clients, Failure> {
    let limits = Limits {
        deadline: config.deadline,
        attempt_timeout: config.attempt_timeout,
        attempts: config.attempts,
        breaker: BreakerConfig::default(),
    };
    Clients::new(&config.server, &config.api_key, &limits)
        .map_err(|error| Failure::because("failed to make a client", error))
}

/// Gives the call its key. One that is made here is told before anything is sent: whoever gets no answer needs it to ask again.
fn keyed<T>(message: T, key: Option<String>) -> Result<Request<T>, Failure> {
    let key = match key {
        Some(key) => key,
        None => {
            let key = Uuid::new_v4().to_string();
            writeln!(io::stderr(), "key={key}")
                .map_err(|error| Failure::because("failed to tell the key", error))?;
            key
        }
    };
    let key = key
        .parse()
        .map_err(|error| Failure::because("the key cannot be sent", error))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key);
    Ok(request)
}

fn show_answer(answer: Result<Response<Order>, Status>) -> Result<(), Failure> {
    let answer = answer.map_err(refused)?;
    show(&format!(
        "{} execution={} replayed={}",
        line(answer.get_ref()),
        told(answer.metadata(), "order-execution"),
        told(answer.metadata(), "idempotent-replayed"),
    ))
}

fn line(order: &Order) -> String {
    let state = order.state().as_str_name();
    let state = state.trim_start_matches("STATE_").to_lowercase();
    let Order {
        id, sku, quantity, ..
    } = order;
    format!("order={id} sku={sku} quantity={quantity} state={state}")
}

fn told<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    let value = metadata.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or("?")
}

/// Writes to stdout, which is what the command is for.
fn show(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}")
        .map_err(|error| Failure::because("failed to write to stdout", error))
}

fn refused(status: Status) -> Failure {
    let code = Code::from_u32(status.code() as u32);
    Failure::new(format!("{}: {}", code.as_str(), status.message()))
}
