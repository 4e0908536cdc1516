//! Clients that go away in the middle of a handler. hyper drops the handler then; behind the layer it goes on.

use std::net::{Shutdown, SocketAddr};

use axum::Router;
use http::StatusCode;

use crate::support::{
    Bank, Connection, PROMISES, Protocol, Raw, charge, eventually, memory, serve, until_done,
};

const REQUEST: &str = "POST /charges HTTP/1.1\r\nhost: bank\r\nidempotency-key: k\r\n\
                       content-length: 8\r\n\r\namount=5";

async fn by_closing(bank: &Bank, address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send(REQUEST).await.unwrap();
    bank.until_started(1).await;
}

async fn by_resetting(bank: &Bank, address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send(REQUEST).await.unwrap();
    bank.until_started(1).await;
    raw.reset();
}

/// The client goes on reading; hyper takes it for gone all the same.
async fn by_finishing_to_send(bank: &Bank, address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send(REQUEST).await.unwrap();
    bank.until_started(1).await;
    raw.finish_sending().await;
    raw.until_closed().await;
}

async fn by_resetting_a_stream(bank: &Bank, address: SocketAddr) {
    let mut client = Connection::open(Protocol::Http2, address).await;
    tokio::select! {
        answer = client.send(charge("/charges", "k", "amount=5")) => panic!("{answer:?}"),
        () = bank.until_started(1) => {}
    }
    // The stream is gone; the connection stays and serves.
    let other = client.send(charge("/open", "l", "amount=6")).await.unwrap();
    assert_eq!(other.status, StatusCode::OK);
}

async fn by_severing_the_connection(bank: &Bank, address: SocketAddr) {
    let mut client = Connection::open(Protocol::Http2, address).await;
    let socket = client.socket();
    let (answer, ()) = tokio::join!(client.send(charge("/charges", "k", "amount=5")), async {
        bank.until_started(1).await;
        socket.shutdown(Shutdown::Both).unwrap();
    });
    assert!(answer.is_err());
}

/// The handler finishes, it was started once, and a retry gets its answer.
async fn nothing_is_lost(leave: impl AsyncFn(&Bank, SocketAddr)) {
    for promise in PROMISES {
        let bank = Bank::with_its_door_shut();
        let layer = memory(promise);
        let router = routes(&bank).route_layer(layer.clone());
        let address = serve(bank.watch(router)).await;

        leave(&bank, address).await;
        eventually("hyper sees that its client left", || bank.left() == 1).await;
        assert_eq!((bank.finished(), bank.cut()), (0, 0), "{promise}");
        bank.open();
        until_done(&layer.handle()).await;
        assert_eq!((bank.finished(), bank.cut()), (1, 0), "{promise}");

        for protocol in Protocol::ALL {
            let mut client = Connection::open(protocol, address).await;
            let retry = client.send(charge("/charges", "k", "amount=5")).await;
            let retry = retry.unwrap();
            assert_eq!(retry.marker(), Some("true"), "{promise}");
            assert_eq!(retry.text(), "amount=5 run=1 execution=1");
        }
        assert_eq!(bank.started(), 1, "{promise}");
    }
}

/// What the layer is there for, and what shows that the ways to leave are real.
async fn without_the_layer_the_handler_is_cut(leave: impl AsyncFn(&Bank, SocketAddr)) {
    let bank = Bank::with_its_door_shut();
    let address = serve(bank.watch(routes(&bank))).await;

    leave(&bank, address).await;

    eventually("the handler is cut", || bank.cut() == 1).await;
    assert_eq!((bank.started(), bank.finished()), (1, 0));
}

fn routes(bank: &Bank) -> Router {
    let open = axum::routing::post(async || "open");
    Router::new()
        .route("/charges", bank.route())
        .route("/open", open)
}

#[tokio::test]
async fn an_http1_client_closes() {
    nothing_is_lost(by_closing).await;
    without_the_layer_the_handler_is_cut(by_closing).await;
}

#[tokio::test]
async fn an_http1_client_resets() {
    nothing_is_lost(by_resetting).await;
    without_the_layer_the_handler_is_cut(by_resetting).await;
}

#[tokio::test]
async fn an_http1_client_closes_its_half() {
    nothing_is_lost(by_finishing_to_send).await;
    without_the_layer_the_handler_is_cut(by_finishing_to_send).await;
}

#[tokio::test]
async fn an_http2_client_resets_its_stream() {
    nothing_is_lost(by_resetting_a_stream).await;
    without_the_layer_the_handler_is_cut(by_resetting_a_stream).await;
}

#[tokio::test]
async fn an_http2_connection_is_severed() {
    nothing_is_lost(by_severing_the_connection).await;
    without_the_layer_the_handler_is_cut(by_severing_the_connection).await;
}

#[tokio::test]
async fn a_client_that_comes_back_while_the_handler_runs_waits_for_the_same_run() {
    for promise in PROMISES {
        let bank = Bank::with_its_door_shut();
        let layer = memory(promise);
        let address = serve(bank.watch(routes(&bank).route_layer(layer.clone()))).await;

        by_closing(&bank, address).await;
        eventually("hyper sees that its client left", || bank.left() == 1).await;
        let retry = tokio::spawn(async move {
            let mut client = Connection::open(Protocol::Http1, address).await;
            client.send(charge("/charges", "k", "amount=5")).await
        });
        eventually("the retry comes", || bank.callers() == 2).await;
        bank.open();

        let retry = retry.await.unwrap().unwrap();
        assert_eq!(retry.marker(), Some("true"));
        assert_eq!(retry.text(), "amount=5 run=1 execution=1");
        assert_eq!(bank.started(), 1);
    }
}
