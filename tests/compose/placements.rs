//! First run, replay, conflict and refusal, wherever the layer stands and however the request comes.

use std::net::SocketAddr;

use axum::{Router, ServiceExt, body::Body, serve::Listener};
use http::StatusCode;
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Promise},
    store::{MemoryStore, Store},
    store_postgres::PostgresStore,
    store_sqlite::SqliteStore,
};
use tower::{Layer, ServiceBuilder, service_fn};

use crate::support::{
    Answer, Bank, Connection, PROMISES, Protocol, charge, layer, memory, serve, serve_plain,
};

type Memory = IdempotencyLayer<MemoryStore>;

async fn on_both_protocols<F: Future<Output = SocketAddr>>(
    path: &str,
    serve: impl Fn(Bank, Memory) -> F,
) {
    for protocol in Protocol::ALL {
        for promise in PROMISES {
            let bank = Bank::new();
            let address = serve(bank.clone(), memory(promise)).await;
            keeps_its_promise(address, path, &bank, protocol).await;
        }
    }
}

async fn keeps_its_promise(address: SocketAddr, path: &str, bank: &Bank, protocol: Protocol) {
    let mut client = Connection::open(protocol, address).await;

    let first = client.send(charge(path, "k", "amount=5")).await.unwrap();
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(first.marker(), Some("false"));
    assert_eq!(first.text(), "amount=5 run=1 execution=1");
    assert_eq!(first.headers.get_all("link").iter().count(), 2);
    assert_eq!(first.headers["x-bytes"].as_bytes(), b"caf\xe9");
    assert!(first.headers.contains_key("set-cookie"));
    if protocol == Protocol::Http2 {
        let trailers = first.trailers.as_ref().unwrap();
        assert_eq!(trailers["checksum"], "26");
        assert_eq!(trailers.get_all("note").iter().count(), 2);
    }

    // Both spellings are one key.
    for key in ["k", "\"k\""] {
        let replay = client.send(charge(path, key, "amount=5")).await.unwrap();
        assert_eq!(replay.marker(), Some("true"));
        assert!(!replay.headers.contains_key("set-cookie"));
        assert_eq!(replay.lasting(), first.lasting());
    }
    let mut another = Connection::open(protocol, address).await;
    let replay = another.send(charge(path, "k", "amount=5")).await.unwrap();
    assert_eq!(replay.lasting(), first.lasting());
    let mut other = Connection::open(protocol.other(), address).await;
    let replay = other.send(charge(path, "k", "amount=5")).await.unwrap();
    assert_eq!(replay.marker(), Some("true"));
    assert_eq!((replay.status, &replay.body), (first.status, &first.body));

    let reused = client.send(charge(path, "k", "amount=6")).await.unwrap();
    assert_refused(&reused, StatusCode::UNPROCESSABLE_ENTITY, "key-reused");

    let mut request = charge(path, "k", "amount=5");
    request.headers_mut().remove("idempotency-key");
    let missing = client.send(request).await.unwrap();
    assert_refused(&missing, StatusCode::BAD_REQUEST, "missing-key");

    for malformed in ["", "\"k", "k k", &"k".repeat(256)] {
        let refused = client.send(charge(path, malformed, "amount=5")).await;
        let refused = refused.unwrap();
        assert_refused(&refused, StatusCode::BAD_REQUEST, "malformed-key");
    }
    let mut request = charge(path, "k", "amount=5");
    let second = "k".parse().unwrap();
    request.headers_mut().append("idempotency-key", second);
    let two = client.send(request).await.unwrap();
    assert_refused(&two, StatusCode::BAD_REQUEST, "malformed-key");

    assert_eq!(bank.started(), 1);
}

fn assert_refused(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.code().as_deref(), Some(code));
    assert_eq!(answer.marker(), None);
}

#[tokio::test]
async fn a_router() {
    on_both_protocols("/charges", async |bank, layer| {
        serve(Router::new().route("/charges", bank.route()).layer(layer)).await
    })
    .await;
}

#[tokio::test]
async fn the_routes_of_a_router() {
    on_both_protocols("/charges?b=2&a=1", async |bank, layer| {
        let router = Router::new().route("/charges", bank.route());
        serve(router.route_layer(layer)).await
    })
    .await;
}

#[tokio::test]
async fn a_nested_router() {
    on_both_protocols("/v1/eu/charges", async |bank, layer| {
        let nested = Router::new().route("/charges", bank.route()).layer(layer);
        serve(Router::new().nest("/v1", Router::new().nest("/eu", nested))).await
    })
    .await;
}

#[tokio::test]
async fn a_method_router() {
    on_both_protocols("/charges", async |bank, layer| {
        serve(Router::new().route("/charges", bank.route().layer(layer))).await
    })
    .await;
}

#[tokio::test]
async fn a_service_builder() {
    on_both_protocols("/charges", async |bank, layer| {
        let stack = ServiceBuilder::new().layer(layer).concurrency_limit(4);
        serve(Router::new().route("/charges", bank.route()).layer(stack)).await
    })
    .await;
}

#[tokio::test]
async fn around_a_whole_router() {
    on_both_protocols("/charges", async |bank, layer| {
        let router = Router::new().route("/charges", bank.route());
        let around = ServiceBuilder::new()
            .map_response(|answer: http::Response<_>| answer.map(Body::new))
            .service(layer.layer(router));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Listener::local_addr(&listener).unwrap();
        let service = ServiceExt::<axum::extract::Request>::into_make_service(around);
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        address
    })
    .await;
}

#[tokio::test]
async fn a_plain_service_of_hyper() {
    on_both_protocols("/charges", async |bank, layer| {
        // A service of its own for each connection.
        serve_plain(move || {
            let bank = bank.clone();
            layer.layer(service_fn(move |request| bank.clone().charge(request)))
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_method_router_alone() {
    on_both_protocols("/anything", async |bank, layer| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Listener::local_addr(&listener).unwrap();
        let route = bank.route().layer(layer);
        tokio::spawn(async move { axum::serve(listener, route).await.unwrap() });
        address
    })
    .await;
}

async fn over(store: impl Store + Clone) {
    for (protocol, promise) in Protocol::ALL.into_iter().zip(PROMISES) {
        let bank = Bank::new();
        let config =
            IdempotencyConfig::default().with_namespace(if promise == Promise::AtMostOnce {
                "one"
            } else {
                "another"
            });
        let layer = layer(promise, store.clone(), config);
        let address = serve(Router::new().route("/charges", bank.route()).layer(layer)).await;
        keeps_its_promise(address, "/charges", &bank, protocol).await;
    }
}

#[tokio::test]
async fn over_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("keys.db"))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    over(store).await;
}

#[tokio::test]
async fn over_postgres() {
    let database = steadfast_testkit::postgres::database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    over(store).await;
}
