//! What the order of layers does, as the documents say.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use steadfast::{
    idempotency::{IdempotencyLayer, Promise, scope},
    store::MemoryStore,
};
use steadfast_testkit::faults::{Faults, FaultyStore, Method};
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};
use tower_http::limit::RequestBodyLimitLayer;

use crate::support::{Bank, Connection, Protocol, charge, eventually, layer, memory, serve};

#[derive(Clone)]
struct Account(String);

/// Resolves an account from a token; a refreshed token is the same account.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| token.split('-').next());
    match token {
        Some(account) => {
            let account = Account(account.to_owned());
            request.extensions_mut().insert(account);
            next.run(request).await
        }
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

fn store() -> (FaultyStore<MemoryStore>, Faults) {
    let store = FaultyStore::new(MemoryStore::default());
    let faults = store.faults();
    (store, faults)
}

async fn send(address: SocketAddr, path: &str, token: Option<&str>) -> crate::support::Answer {
    let mut request = charge(path, "k", "amount=5");
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    let mut client = Connection::open(Protocol::Http1, address).await;
    client.send(request).await.unwrap()
}

#[tokio::test]
async fn a_route_layer_claims_nothing_for_a_path_that_is_not_there() {
    let bank = Bank::new();
    let (store, faults) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let router = Router::new().route("/charges", bank.route());
    let address = serve(router.route_layer(layer)).await;

    let lost = send(address, "/charge", None).await;
    let found = send(address, "/charges", None).await;

    assert_eq!(lost.status, StatusCode::NOT_FOUND);
    assert_eq!(lost.marker(), None);
    // The key is free for the request that was meant.
    assert_eq!(found.status, StatusCode::CREATED);
    assert_eq!(faults.calls(Method::Begin), 1);
}

#[tokio::test]
async fn a_layer_keeps_the_404_of_a_path_that_is_not_there() {
    let bank = Bank::new();
    let (store, faults) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let router = Router::new().route("/charges", bank.route());
    let address = serve(router.layer(layer)).await;

    let lost = send(address, "/charge", None).await;
    let again = send(address, "/charge", None).await;
    let found = send(address, "/charges", None).await;

    assert_eq!(lost.status, StatusCode::NOT_FOUND);
    assert_eq!(again.marker(), Some("true"));
    // The trap: the key is used up by a typing error.
    assert_eq!(found.code().as_deref(), Some("key-reused"));
    assert_eq!(faults.calls(Method::Complete), 1);
}

#[tokio::test]
async fn a_method_that_a_route_does_not_have_claims_nothing_with_a_route_layer() {
    let (store, faults) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let only_get = axum::routing::get(async || "here").route_layer(layer);
    let address = serve(Router::new().route("/charges", only_get)).await;

    let answer = send(address, "/charges", None).await;

    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(faults.calls(Method::Begin), 0);
}

#[tokio::test]
async fn a_concurrency_limit_around_gives_a_place_back_while_the_handler_runs_on() {
    let bank = Bank::with_its_door_shut();
    let layer = memory(Promise::AtMostOnce);
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer)
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let address = serve(router).await;

    for number in 1..=4 {
        let request = charge("/charges", &format!("k{number}"), "amount=5");
        let mut client = Connection::open(Protocol::Http1, address).await;
        tokio::select! {
            answer = client.send(request) => panic!("{answer:?}"),
            () = bank.until_started(number) => {}
        }
    }

    bank.open();
    eventually("all of them end", || bank.finished() == 4).await;
}

/// A body in chunks: its length is known at its end.
#[tokio::test]
async fn a_limit_of_tower_http_around_is_told_as_the_layers_own() {
    let bank = Bank::new();
    let (store, faults) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer)
        .layer(RequestBodyLimitLayer::new(5));
    let chunks = ["amount", "=5"].map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
    let content = Body::from_stream(futures_util::stream::iter(chunks));
    let request = charge("/charges", "k", "").map(|_| content);

    let response = router.oneshot(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let problem = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("#body-too-large")
    );
    assert_eq!(problem["retryable"], false);
    assert_eq!(faults.calls(Method::Begin), 0);
}

#[tokio::test]
async fn a_key_belongs_to_the_whole_path_wherever_the_layer_is_nested() {
    let bank = Bank::new();
    let (store, _) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let nested = || {
        let charges = Router::new().route("/charges", bank.route());
        charges.layer(layer.clone())
    };
    // Within a nest, both paths are the same.
    let router = Router::new().nest("/v1", nested()).nest("/v2", nested());
    let address = serve(router).await;

    let first = send(address, "/v1/charges", None).await;
    let elsewhere = send(address, "/v2/charges", None).await;

    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(elsewhere.code().as_deref(), Some("key-reused"));
    assert_eq!(bank.started(), 1);
}

#[tokio::test]
async fn with_authentication_outside_a_refused_request_claims_nothing() {
    let bank = Bank::new();
    let (store, faults) = store();
    let scope = scope::from_extension(|account: &Account| &account.0);
    let layer = IdempotencyLayer::at_most_once(store, scope).unwrap();
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer)
        .route_layer(middleware::from_fn(authenticate));
    let address = serve(router).await;

    let anonymous = send(address, "/charges", None).await;
    assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED);
    assert_eq!(anonymous.code(), None);
    assert_eq!(faults.calls(Method::Begin), 0);

    // Two accounts with one key are two operations; a refreshed token is the same account.
    let first = send(address, "/charges", Some("acme-1")).await;
    let other = send(address, "/charges", Some("emca-1")).await;
    let refreshed = send(address, "/charges", Some("acme-2")).await;
    assert_eq!(first.text(), "amount=5 run=1 execution=1");
    assert_eq!(other.text(), "amount=5 run=2 execution=1");
    assert_eq!(refreshed.marker(), Some("true"));
    assert_eq!(refreshed.text(), first.text());
}

#[tokio::test]
async fn with_authentication_inside_the_principal_is_missing_and_nothing_runs() {
    let bank = Bank::new();
    let (store, faults) = store();
    let scope = scope::from_extension(|account: &Account| &account.0);
    let layer = IdempotencyLayer::at_most_once(store, scope).unwrap();
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(middleware::from_fn(authenticate))
        .route_layer(layer);
    let address = serve(router).await;

    let answer = send(address, "/charges", Some("acme-1")).await;

    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.code().as_deref(), Some("unauthorized-scope"));
    assert_eq!((bank.started(), faults.calls(Method::Begin)), (0, 0));
}

#[tokio::test]
async fn a_refusal_by_authentication_inside_is_not_kept() {
    let bank = Bank::new();
    let (store, faults) = store();
    let layer = layer(Promise::AtMostOnce, store, Default::default());
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(middleware::from_fn(authenticate))
        .route_layer(layer);
    let address = serve(router).await;

    let anonymous = send(address, "/charges", None).await;
    let authenticated = send(address, "/charges", Some("acme-1")).await;

    assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED);
    assert_eq!(authenticated.status, StatusCode::CREATED);
    assert_eq!(faults.calls(Method::Release), 1);
}
