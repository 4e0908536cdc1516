//! A deploy: the server stops accepting, waits for its connections, and then for the operations that have none.

use std::time::Duration;

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::support::{
    Bank, Connection, LONG, PROMISES, Protocol, charge, eventually, memory, until_done,
};

#[tokio::test]
async fn a_graceful_shutdown_keeps_every_answer() {
    for promise in PROMISES {
        let bank = Bank::with_its_door_shut();
        let layer = memory(promise);
        let handle = layer.handle();
        let router = Router::new()
            .route("/charges", bank.route())
            .route_layer(layer.clone());
        let router = bank.watch(router);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, router.clone())
            .with_graceful_shutdown(async { stopped.await.unwrap() });
        let serving = tokio::spawn(async move { serving.await.unwrap() });

        // One client leaves, another stays.
        let mut leaver = Connection::open(Protocol::Http2, address).await;
        tokio::select! {
            answer = leaver.send(charge("/charges", "left", "amount=1")) => panic!("{answer:?}"),
            () = bank.until_started(1) => {}
        }
        drop(leaver);
        eventually("the client is gone", || bank.left() == 1).await;
        let stayer = tokio::spawn(async move {
            let mut client = Connection::open(Protocol::Http1, address).await;
            client.send(charge("/charges", "stayed", "amount=2")).await
        });
        bank.until_started(2).await;

        stop.send(()).unwrap();
        eventually_refused(address).await;
        let undrained = handle.drain(Duration::from_millis(50)).await.unwrap_err();
        assert!(undrained.running() >= 2, "{undrained}");
        assert!(!serving.is_finished());
        bank.open();
        let answer = stayer.await.unwrap().unwrap();
        assert_eq!(answer.marker(), Some("false"));
        tokio::time::timeout(LONG, serving).await.unwrap().unwrap();
        until_done(&handle).await;

        assert_eq!((bank.started(), bank.finished(), bank.cut()), (2, 2, 0));
        assert_eq!(handle.running(), 0);
        let next = crate::support::serve(router).await;
        let mut client = Connection::open(Protocol::Http1, next).await;
        for (key, order) in [("left", "amount=1"), ("stayed", "amount=2")] {
            let retry = client.send(charge("/charges", key, order)).await.unwrap();
            assert_eq!(retry.marker(), Some("true"), "{key}");
        }
        assert_eq!(bank.started(), 2);
    }
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_operations_without_a_client() {
    // Why a drain is needed: the server has no connection left to wait for.
    let bank = Bank::with_its_door_shut();
    let layer = memory(PROMISES[0]);
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, bank.watch(router))
        .with_graceful_shutdown(async { stopped.await.unwrap() });
    let serving = tokio::spawn(async move { serving.await.unwrap() });
    let mut leaver = Connection::open(Protocol::Http2, address).await;
    tokio::select! {
        answer = leaver.send(charge("/charges", "k", "amount=1")) => panic!("{answer:?}"),
        () = bank.until_started(1) => {}
    }
    drop(leaver);
    eventually("the client is gone", || bank.left() == 1).await;

    stop.send(()).unwrap();
    tokio::time::timeout(LONG, serving).await.unwrap().unwrap();

    assert_eq!((bank.finished(), bank.cut()), (0, 0));
    bank.open();
    until_done(&layer.handle()).await;
    assert_eq!(bank.finished(), 1);
}

async fn eventually_refused(address: std::net::SocketAddr) {
    for _ in 0..6_000 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the server still accepts");
}
