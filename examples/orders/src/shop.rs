//! The handlers.

use std::{error::Error, time::Duration};

use futures_util::{StreamExt, future, stream, stream::BoxStream};
use steadfast::idempotency::Operation;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status};

use crate::{
    account::Account,
    proto::{
        CancelOrderRequest, GetOrderRequest, ListOrdersRequest, ListOrdersResponse, Order,
        PlaceOrderRequest, State, WatchOrderRequest, orders_server,
    },
    table::{OrderRow, Orders, TableError},
    watches::Watches,
};

/// How often a watched order is looked at. It may be changed by another process: only the database knows.
const WATCH_PACE: Duration = Duration::from_millis(200);

/// Answers the calls.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    orders: Orders,
    work_time: Duration,
    stopping: CancellationToken,
    watches: Watches,
}

impl Shop {
    pub(crate) fn new(orders: Orders, work_time: Duration, stopping: CancellationToken) -> Self {
        Self {
            orders,
            work_time,
            stopping,
            watches: Watches::default(),
        }
    }

    async fn find(&self, account: &Account, id: &str) -> Result<OrderRow, Status> {
        check_id(id)?;
        let found = self.orders.find(account.id(), id).await?;
        found.ok_or_else(no_such_order)
    }

    /// Waits for the order to be other than it was; `None` if it never will.
    async fn next_change(&self, last: OrderRow) -> Result<Option<OrderRow>, Status> {
        if last.cancelled_by.is_some() {
            return Ok(None);
        }
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => {
                    return Err(Status::unavailable("the server stops; watch the order again"));
                }
                () = sleep(WATCH_PACE) => {}
            }
            let found = self.orders.find(&last.account, &last.id).await?;
            match found {
                Some(order) if order == last => {}
                Some(order) => return Ok(Some(order)),
                None => return Err(no_such_order()),
            }
        }
    }
}

#[tonic::async_trait]
impl orders_server::Orders for Shop {
    /// Runs once for each operation, and again if nobody knows how the last execution ended. The id is derived from the operation:
    /// an order that was placed by then is found.
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<Order>, Status> {
        let (_, extensions, request) = request.into_parts();
        let operation: &Operation = of_layer(&extensions)?;
        let account: &Account = of_layer(&extensions)?;
        check(&request)?;

        // Where another shop asks for stock and payment, with the operation's derived keys.
        sleep(self.work_time).await;
        let order = OrderRow {
            id: format!("{ID_PREFIX}{}", operation.derive("id")),
            account: account.id().to_owned(),
            sku: request.sku,
            quantity: request.quantity,
            cancelled_by: None,
        };
        let placed = self.orders.place(&order).await?;
        if (&placed.sku, placed.quantity) != (&order.sku, order.quantity) {
            // The key has outlived the record of its first use.
            return Err(Status::failed_precondition(
                "an earlier order was placed with this key and another request; nothing was ordered now, use a new key",
            ));
        }
        tracing::info!(
            order = placed.id,
            execution = operation.execution(),
            "placed"
        );
        Ok(answer(placed, operation))
    }

    /// Runs again as `place_order` does: an order that this operation has cancelled is cancelled, one that another has is refused.
    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<Order>, Status> {
        let (_, extensions, CancelOrderRequest { id }) = request.into_parts();
        let operation: &Operation = of_layer(&extensions)?;
        let account: &Account = of_layer(&extensions)?;
        check_id(&id)?;

        let by = operation.derive("cancel");
        let order = self.orders.cancel(account.id(), &id, &by).await?;
        let order = order.ok_or_else(no_such_order)?;
        if order.cancelled_by.as_ref() != Some(&by) {
            return Err(Status::failed_precondition(
                "another call has cancelled this order before",
            ));
        }
        tracing::info!(order = id, execution = operation.execution(), "cancelled");
        Ok(answer(order, operation))
    }

    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<Order>, Status> {
        let account = of_layer(request.extensions())?;
        let order = self.find(account, &request.get_ref().id).await?;
        Ok(Response::new(order.into()))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let account: &Account = of_layer(request.extensions())?;
        let orders = self.orders.list(account.id()).await?;
        Ok(Response::new(ListOrdersResponse {
            orders: orders.into_iter().map(Order::from).collect(),
        }))
    }

    type WatchOrderStream = BoxStream<'static, Result<Order, Status>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let account = of_layer(request.extensions())?;
        let watching = self.watches.begin(account)?;
        let order = self.find(account, &request.get_ref().id).await?;

        let first = stream::once(future::ready(Ok(order.clone().into())));
        let shop = self.clone();
        let changes = stream::try_unfold((order, watching), move |(last, watching)| {
            let shop = shop.clone();
            async move {
                let changed = shop.next_change(last).await?;
                Ok(changed.map(|order| (order.clone().into(), (order, watching))))
            }
        });
        Ok(Response::new(first.chain(changes).boxed()))
    }
}

const ID_PREFIX: &str = "or_";

const MAX_SKU: usize = 64;

const MAX_QUANTITY: u32 = 1000;

fn check(request: &PlaceOrderRequest) -> Result<(), Status> {
    let is_of_sku = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=MAX_SKU).contains(&request.sku.len()) || !request.sku.bytes().all(is_of_sku) {
        return Err(Status::invalid_argument(
            "`sku` must be 1 to 64 letters, digits, `-`, `_` or `.`",
        ));
    }
    if !(1..=MAX_QUANTITY).contains(&request.quantity) {
        return Err(Status::invalid_argument("`quantity` must be 1 to 1000"));
    }
    Ok(())
}

/// Only what can be an id reaches the database.
fn check_id(text: &str) -> Result<(), Status> {
    let is_id = text
        .strip_prefix(ID_PREFIX)
        .is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_id { Ok(()) } else { Err(no_such_order()) }
}

fn no_such_order() -> Status {
    Status::not_found("this account has no order with this id")
}

/// What a layer outside has left for the handler.
fn of_layer<T: Send + Sync + 'static>(extensions: &Extensions) -> Result<&T, Status> {
    extensions
        .get()
        .ok_or_else(|| Status::internal("the stack of layers is incomplete"))
}

/// The answer of an operation tells which execution gave it.
fn answer(order: OrderRow, operation: &Operation) -> Response<Order> {
    let mut response = Response::new(order.into());
    response
        .metadata_mut()
        .insert("order-execution", operation.execution().into());
    response
}

impl From<OrderRow> for Order {
    fn from(row: OrderRow) -> Self {
        let state = match row.cancelled_by {
            None => State::Placed,
            Some(_) => State::Cancelled,
        };
        Self {
            id: row.id,
            sku: row.sku,
            quantity: row.quantity,
            state: state.into(),
        }
    }
}

/// UNAVAILABLE says that the outcome is unknown: the next call with this key takes over at once.
impl From<TableError> for Status {
    fn from(error: TableError) -> Self {
        tracing::error!(error = &error as &dyn Error, "the database failed");
        Self::unavailable("the database cannot be used; send the same call again")
    }
}
