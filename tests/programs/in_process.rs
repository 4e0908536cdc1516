//! The app without a process: `payments::app` and a provider in the test.

use std::{sync::LazyLock, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use payments::{
    Deps,
    charges::Charges,
    config::{ProviderLimits, StoreUrl},
    database::Database,
    provider::{self, Provider},
    provider_client::ProviderClient,
    telemetry::Metrics,
};
use reqwest::Url;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// A call of the API is a call of the provider.
pub(crate) const ONE_ATTEMPT: ProviderLimits = ProviderLimits {
    provider_attempts: 1,
    provider_timeout: Duration::from_secs(30),
    breaker_failures: 5,
    breaker_open: Duration::from_secs(30),
    breaker_successes: 3,
};

/// A process has one recorder, whatever runs in it.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::install().unwrap());

struct Stage {
    app: payments::App,
    _provider: DropGuard,
}

async fn stage() -> Stage {
    let (listener, url) = bind().await;
    let stop = CancellationToken::new();
    let routes = Provider::default().routes();
    tokio::spawn(provider::serve(listener, routes, stop.clone()));
    let (app, _) = stage_of(&url).await;
    Stage {
        app,
        _provider: stop.drop_guard(),
    }
}

async fn bind() -> (TcpListener, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url.parse().unwrap())
}

/// Serves a provider of the test's own for as long as the test runs.
pub(crate) async fn serve_provider(routes: Router) -> Url {
    let (listener, url) = bind().await;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

/// Two apps on one table of charges, whose records know nothing of each other.
pub(crate) async fn stage_of(provider: &Url) -> (payments::App, payments::App) {
    let charges = Database::open(&StoreUrl::Memory).await.unwrap().charges;
    (
        app_on(charges.clone(), provider, ONE_ATTEMPT).await,
        app_on(charges, provider, ONE_ATTEMPT).await,
    )
}

/// An app whose calls of the provider have these limits.
pub(crate) async fn app_with(provider: &Url, limits: ProviderLimits) -> payments::App {
    let charges = Database::open(&StoreUrl::Memory).await.unwrap().charges;
    app_on(charges, provider, limits).await
}

async fn app_on(charges: Charges, provider: &Url, limits: ProviderLimits) -> payments::App {
    let deps = Deps {
        store: Database::open(&StoreUrl::Memory).await.unwrap().store,
        charges,
        provider: ProviderClient::new(provider, limits).unwrap(),
        lease: Duration::from_secs(60),
        metrics: METRICS.clone(),
    };
    payments::app(deps).unwrap()
}

pub(crate) fn charge() -> Request<Body> {
    Request::post("/v1/charges")
        .header("authorization", "Bearer sk_test")
        .header("idempotency-key", "k")
        .body(Body::from(r#"{"amount": 5, "currency": "usd"}"#))
        .unwrap()
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Response<Bytes> {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// The status, the code, and whether it can be retried.
pub(crate) fn problem(response: &Response<Bytes>) -> (u16, String, bool) {
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    let code = body["code"].as_str().unwrap().to_owned();
    let retryable = body["retryable"].as_bool().unwrap();
    (response.status().as_u16(), code, retryable)
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
