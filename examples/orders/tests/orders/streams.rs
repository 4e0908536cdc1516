//! A stream passes all layers, of the server and of the client, as if they were not there.

use std::time::Duration;

use orders::{
    client::Limits,
    methods::WATCH_ORDER,
    proto::{CancelOrderRequest, Order, State, WatchOrderRequest},
};
use steadfast::circuit_breaker::State as Circuit;
use tokio::time::sleep;
use tonic::{Code, Streaming};

use crate::server::{Running, clients, deps, eventually, keyed, limits, tea, within};

async fn next(orders: &mut Streaming<Order>) -> Option<State> {
    let order = within(orders.message()).await.unwrap()?;
    Some(order.state())
}

#[tokio::test]
async fn a_watch_outlives_the_limits_of_calls_and_shows_each_change_to_the_end() {
    let server = Running::start(deps().await).await;
    let brief = Limits {
        deadline: Duration::from_millis(300),
        attempt_timeout: Duration::from_millis(300),
        ..limits()
    };
    let watchers = clients(server.address, &brief);
    let mut watcher = watchers.streams.clone();
    let mut client = server.plain();
    let order = within(client.place_order(keyed("k", tea()))).await.unwrap();
    let id = order.into_inner().id;

    // A key means nothing here.
    let request = keyed("k", WatchOrderRequest { id: id.clone() });
    let answer = within(watcher.watch_order(request)).await.unwrap();
    assert!(answer.metadata().get("idempotent-replayed").is_none());
    let mut orders = answer.into_inner();
    assert_eq!(next(&mut orders).await, Some(State::Placed));
    // That it began shows that the server is well: its end may be far.
    let counts = watchers.breaker.snapshot().failures().unwrap();
    assert_eq!((counts.calls, counts.failures), (1, 0));
    // Nothing happens for longer than any call may take.
    tokio::select! {
        changed = orders.message() => panic!("{changed:?}"),
        () = sleep(brief.deadline * 3) => {}
    }
    within(client.cancel_order(keyed("c", CancelOrderRequest { id })))
        .await
        .unwrap();

    assert_eq!(next(&mut orders).await, Some(State::Cancelled));
    assert_eq!(next(&mut orders).await, None);
    assert_eq!(server.heads.of(WATCH_ORDER).len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_asked_for_again_and_one_that_began_is_not() {
    let mut deps = deps().await;
    deps.faults.fail_first = 1;
    let server = Running::start(deps).await;
    let clients = server.clients();
    let order = within(clients.unary.clone().place_order(tea())).await;
    let id = order.unwrap().into_inner().id;

    let watch = WatchOrderRequest { id };
    let answer = within(clients.streams.clone().watch_order(watch)).await;
    let mut orders = answer.unwrap().into_inner();
    assert_eq!(next(&mut orders).await, Some(State::Placed));
    server.stop();
    let status = within(orders.message()).await.unwrap_err();

    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "the server stops; watch the order again");
    assert_eq!(server.heads.of(WATCH_ORDER).len(), 2);
    assert_eq!(clients.breaker.state(), Circuit::Closed);
}

#[tokio::test]
async fn an_account_has_so_many_watches_at_a_time() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();
    let order = within(client.place_order(keyed("k", tea()))).await.unwrap();
    let id = order.into_inner().id;
    let mut begin = async || {
        client
            .watch_order(WatchOrderRequest { id: id.clone() })
            .await
    };
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(within(begin()).await.unwrap());
    }

    let refused = within(begin()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    watches.pop();
    eventually(async || begin().await.ok()).await;
}
