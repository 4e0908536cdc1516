//! The layer in axum's routers: on routes, on one route, nested (idempotency I1, I4).

use std::time::Duration;

use axum::{Router, routing::post};
use http::{Request, StatusCode};
use steadfast_idempotency::{IdempotencyLayer, Operation, scope};
use steadfast_store::MemoryStore;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::support::Answer;

fn post_to(path: &str, key: &str) -> Request<axum::body::Body> {
    Request::post(path)
        .header("idempotency-key", key)
        .body(axum::body::Body::from("5"))
        .unwrap()
}

async fn create(operation: Operation) -> (StatusCode, String) {
    (StatusCode::CREATED, operation.derive("charge"))
}

async fn ask(router: &Router, request: Request<axum::body::Body>) -> Answer {
    Answer::read(router.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_router_takes_the_layer_for_its_routes() {
    let store = MemoryStore::default();
    let layer = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();
    let router: Router = Router::new()
        .route("/charges", post(create).get(async || "list"))
        .route_layer(layer.clone());
    let router = Router::new().nest("/v1", router);
    let begun = Instant::now();

    let first = ask(&router, post_to("/v1/charges", "k")).await;
    assert_eq!(first.status, 201);
    assert_eq!(first.header("idempotent-replayed"), Some("false"));
    let replay = ask(&router, post_to("/v1/charges", "k")).await;
    replay.assert_replayed(first.text());
    let list = Request::get("/v1/charges").body(axum::body::Body::empty());
    assert_eq!(ask(&router, list.unwrap()).await.text(), "list");

    // A route that does not exist claims nothing, and its key stays free.
    for _ in 0..2 {
        let missing = ask(&router, post_to("/v1/nowhere", "other")).await;
        assert_eq!(missing.status, 404);
        assert_eq!(missing.header("idempotent-replayed"), None);
    }
    let free = ask(&router, post_to("/v1/charges", "other")).await;
    assert_eq!(free.header("idempotent-replayed"), Some("false"));
    assert_eq!(free.status, 201);
    assert!(begun.elapsed() < Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn two_nested_routers_with_the_same_inner_path_do_not_mix() {
    let store = MemoryStore::default();
    let layer = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();
    let charges = || {
        Router::new()
            .route("/charges", post(create))
            .route_layer(layer.clone())
    };
    let router = Router::new().nest("/v1", charges()).nest("/v2", charges());

    assert_eq!(ask(&router, post_to("/v1/charges", "k")).await.status, 201);
    let other = ask(&router, post_to("/v2/charges", "k")).await;

    other.assert_refused(422, "key-reused");
}

#[tokio::test(start_paused = true)]
async fn a_single_route_takes_the_layer_and_the_others_have_no_operation() {
    let store = MemoryStore::default();
    let layer = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();
    let router: Router = Router::new()
        .route("/charges", post(create).layer(layer))
        .route("/bare", post(create))
        .route(
            "/optional",
            post(async |operation: Option<Operation>| operation.is_some().to_string()),
        );

    let first = ask(&router, post_to("/charges", "k")).await;
    assert_eq!(first.status, 201);
    assert_eq!(ask(&router, post_to("/bare", "k")).await.status, 500);
    assert_eq!(
        ask(&router, post_to("/optional", "k")).await.text(),
        "false"
    );
}
