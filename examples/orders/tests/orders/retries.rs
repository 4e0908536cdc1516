//! What the client's layers do about answers that fail and answers that are lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use http::{Request, Response, request::Parts};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use orders::{
    client::Limits,
    faults::FaultLayer,
    methods::{GET_ORDER, PLACE_ORDER, WATCH_ORDER},
    proto::{GetOrderRequest, ListOrdersRequest, WatchOrderRequest},
};
use steadfast::circuit_breaker::BreakerConfig;
use tokio::{net::TcpListener, sync::Notify};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

use crate::server::{
    Heads, Running, clients, deps, keyed, limits, list, plain, recorded, replayed, tea, within,
};

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    Some(head.headers.get(name)?.to_str().unwrap())
}

#[tokio::test]
async fn attempts_that_are_refused_are_followed_by_one_that_places_the_order() {
    let mut deps = deps().await;
    deps.faults.fail_first = 2;
    let server = Running::start(deps).await;

    let answer = within(server.clients().unary.place_order(tea())).await;

    assert_eq!(replayed(&answer.unwrap()), Some("false"));
    let heads = server.heads.of(PLACE_ORDER);
    let before = heads
        .iter()
        .map(|head| header(head, "grpc-previous-rpc-attempts"));
    assert_eq!(before.collect::<Vec<_>>(), [None, Some("1"), Some("2")]);
    let key = header(&heads[0], "idempotency-key");
    assert!(key.is_some());
    for head in &heads {
        assert_eq!(header(head, "idempotency-key"), key);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_given_by_the_next_attempt() {
    let mut deps = deps().await;
    deps.faults.lose_first = 1;
    let server = Running::start(deps).await;

    let mut client = server.clients().unary;

    let answer = within(client.place_order(tea())).await.unwrap();

    assert_eq!(replayed(&answer), Some("true"));
    assert_eq!(server.heads.of(PLACE_ORDER).len(), 2);
    let placed = within(client.list_orders(ListOrdersRequest {})).await;
    assert_eq!(placed.unwrap().into_inner().orders, [answer.into_inner()]);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_commit_costs_no_second_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Heads::default());
    tokio::spawn(serve_and_break(listener, recorded(deps().await, &heads)));

    let answer = within(clients(address, &limits()).unary.place_order(tea())).await;

    let answer = answer.unwrap();
    assert_eq!(replayed(&answer), Some("true"));
    assert_eq!(heads.of(PLACE_ORDER).len(), 2);
    let placed = list(&mut plain(address, "sk_test")).await;
    assert_eq!(placed, [answer.into_inner()]);
}

/// Serves on, but closes the connection of the first answer there is, in place of sending it.
async fn serve_and_break<S>(listener: TcpListener, service: S)
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send> + Clone + Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let is_first = Arc::new(AtomicBool::new(true));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (is_first, service) = (Arc::clone(&is_first), service.clone());
        tokio::spawn(async move {
            let broken = Arc::new(Notify::new());
            let breaks = Arc::clone(&broken);
            let service = tower::service_fn(move |request: Request<Incoming>| {
                let answer = service.clone().oneshot(request.map(Body::new));
                let (is_first, breaks) = (Arc::clone(&is_first), Arc::clone(&breaks));
                async move {
                    let answer = answer.await;
                    if is_first.swap(false, Ordering::SeqCst) {
                        breaks.notify_one();
                        std::future::pending::<()>().await;
                    }
                    answer
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::select! {
                _ = connection => {}
                () = broken.notified() => {}
            }
        });
    }
}

#[tokio::test]
async fn a_read_is_sent_again_without_a_key() {
    let mut deps = deps().await;
    deps.faults.fail_first = 1;
    let server = Running::start(deps).await;
    let mut client = server.clients().unary;
    let order = within(client.place_order(tea())).await.unwrap();

    let id = order.get_ref().id.clone();
    let found = within(client.get_order(GetOrderRequest { id })).await;

    assert_eq!(found.unwrap().into_inner(), order.into_inner());
    let heads = server.heads.of(GET_ORDER);
    assert_eq!(heads.len(), 2);
    assert!(
        heads
            .iter()
            .all(|head| header(head, "idempotency-key").is_none())
    );
}

#[tokio::test]
async fn the_last_failure_reaches_the_caller() {
    let mut deps = deps().await;
    deps.faults = FaultLayer {
        fail_first: u32::MAX,
        lose_first: 0,
    };
    let server = Running::start(deps).await;

    let status = within(server.clients().unary.place_order(keyed("k", tea()))).await;

    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "refused on purpose, nothing was done");
    assert_eq!(server.heads.of(PLACE_ORDER).len(), 3);
}

#[tokio::test]
async fn calls_and_streams_have_one_budget_of_retries() {
    let mut deps = deps().await;
    deps.faults.fail_first = u32::MAX;
    let server = Running::start(deps).await;
    let limits = Limits {
        // The breaker would end the retries too.
        breaker: BreakerConfig::default()
            .with_consecutive_failures(1000)
            .without_failure_rate(),
        ..limits()
    };
    let clients = clients(server.address, &limits);
    // The budget holds a hundred retries, and a fifth of one for each call.
    let calls = (0..80).map(|_| {
        let mut client = clients.unary.clone();
        async move { client.place_order(tea()).await }
    });
    within(join_all(calls)).await;
    let attempts = server.heads.of(PLACE_ORDER).len();
    assert!((180..240).contains(&attempts), "{attempts}");

    let watch = WatchOrderRequest::default();
    let refused = within(clients.streams.clone().watch_order(watch)).await;

    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.heads.of(WATCH_ORDER).len(), 1);
}
