//! The app without a process: `payments::app` and a provider in the test.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt;
use payments::{
    Deps,
    config::StoreUrl,
    database::Database,
    provider::{self, Provider},
    provider_client::ProviderClient,
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

struct Stage {
    app: payments::App,
    _provider: DropGuard,
}

async fn stage() -> Stage {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let stop = CancellationToken::new();
    let routes = Provider::default().routes();
    tokio::spawn(provider::serve(listener, routes, stop.clone()));
    let database = Database::open(&StoreUrl::Memory).await.unwrap();
    let app = payments::app(Deps {
        store: database.store,
        charges: database.charges,
        provider: ProviderClient::new(&url, Duration::from_secs(30)).unwrap(),
        lease: Duration::from_secs(5),
    });
    Stage {
        app: app.unwrap(),
        _provider: stop.drop_guard(),
    }
}

fn charge() -> Request<Body> {
    Request::post("/v1/charges")
        .header("authorization", "Bearer sk_test")
        .header("idempotency-key", "k")
        .body(Body::from(r#"{"amount": 5, "currency": "usd"}"#))
        .unwrap()
}

async fn send(router: &Router, request: Request<Body>) -> Response<bytes::Bytes> {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_app_replays_without_a_socket() {
    let stage = stage().await;

    let first = send(&stage.app.router, charge()).await;
    let again = send(&stage.app.router, charge()).await;

    assert_eq!(first.status(), 201);
    assert_eq!(again.status(), 201);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.body(), first.body());
}

#[tokio::test]
async fn an_operation_that_nobody_waits_for_is_drained() {
    let stage = stage().await;

    // Polled until the provider is asked, and then dropped, as a server does when its client leaves.
    let mut abandoned = Box::pin(stage.app.router.clone().oneshot(charge()));
    while stage.app.operations.running() == 0 {
        tokio::select! {
            biased;
            _ = &mut abandoned => panic!("answered before anything ran"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(abandoned);
    stage
        .app
        .operations
        .drain(Duration::from_secs(30))
        .await
        .unwrap();

    let found = send(&stage.app.router, charge()).await;
    assert_eq!(found.headers()["idempotent-replayed"], "true");
}
