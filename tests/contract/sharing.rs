//! All state lives in the layer: whatever it is applied to, and however often, is one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use http::{Request, StatusCode};
use steadfast::{
    circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, State, When},
    idempotency::{IdempotencyConfig, IdempotencyHandle, IdempotencyLayer, Operation, Promise},
    retry::{Backoff, Budget, Jitter, RetryConfig, RetryLayer},
    store::MemoryStore,
};
use tokio::{net::TcpListener, sync::Notify};
use tower::ServiceExt;

use crate::support::{Count, layer, marker, text, without_waiting};

type Handle = IdempotencyHandle<MemoryStore>;

/// A handler that says which run it is, and holds `/held` until it is told to go on.
struct App {
    router: Router,
    handle: Handle,
    runs: Arc<Count>,
    held: Arc<Notify>,
    go_on: Arc<Notify>,
}

fn app(
    config: IdempotencyConfig,
    put: impl FnOnce(Router, IdempotencyLayer<MemoryStore>) -> Router,
) -> App {
    let layer = layer(Promise::AtMostOnce, MemoryStore::default())
        .with_config(config)
        .unwrap();
    let runs = Arc::new(Count::default());
    let held = Arc::new(Notify::new());
    let go_on = Arc::new(Notify::new());

    let counted = Arc::clone(&runs);
    let free = post(async move |_: Operation| format!("run {}", counted.add()));
    let (arrived, released) = (Arc::clone(&held), Arc::clone(&go_on));
    let waits = post(async move |_: Operation| {
        arrived.notify_one();
        released.notified().await;
        "held"
    });
    let router = Router::new()
        .route("/free", free.clone())
        .route("/also", free)
        .route("/held", waits);
    App {
        router: put(router, layer.clone()),
        handle: layer.handle(),
        runs,
        held,
        go_on,
    }
}

fn request(path: &str, key: &str) -> Request<Body> {
    Request::post(path)
        .header("idempotency-key", key)
        .body(Body::from("amount=5"))
        .unwrap()
}

#[tokio::test]
async fn a_router_that_is_asked_once_per_clone_shares_what_is_running() {
    let app = app(without_waiting(), |router, layer| router.route_layer(layer));

    // Not resolved: it stays in its handler while the others are asked.
    let first = tokio::spawn(app.router.clone().oneshot(request("/held", "k")));
    app.held.notified().await;
    let duplicate = app.router.clone().oneshot(request("/held", "k")).await;

    assert_eq!(duplicate.unwrap().status(), StatusCode::CONFLICT);
    assert_eq!(app.handle.running(), 1);
    app.go_on.notify_one();
    assert_eq!(text(first.await.unwrap().unwrap()).await, "held");
    let replay = app.router.oneshot(request("/held", "k")).await.unwrap();
    assert_eq!(marker(replay.headers()), Some("true"));
}

#[tokio::test]
async fn every_connection_of_a_server_shares_what_is_running_and_what_is_kept() {
    let app = app(without_waiting().with_max_running(2), |router, layer| {
        router.layer(layer)
    });
    let address = serve(app.router.clone()).await;
    let send = async |path: &str, key: &str| {
        // A client of its own has a connection of its own.
        client()
            .post(format!("http://{address}{path}"))
            .header("idempotency-key", key)
            .body("amount=5")
            .send()
            .await
            .unwrap()
    };

    let hold = |key: &str| {
        let request = client()
            .post(format!("http://{address}/held"))
            .header("idempotency-key", key)
            .body("amount=5");
        tokio::spawn(request.send())
    };

    let first = hold("k");
    app.held.notified().await;
    assert_eq!(send("/held", "k").await.status(), StatusCode::CONFLICT);
    let second = hold("l");
    app.held.notified().await;
    let overloaded = send("/free", "m").await;
    assert_eq!(overloaded.status(), StatusCode::SERVICE_UNAVAILABLE);
    for call in [first, second] {
        app.go_on.notify_one();
        assert_eq!(call.await.unwrap().unwrap().text().await.unwrap(), "held");
    }

    let answers = [
        send("/free", "m").await,
        send("/free", "m").await,
        send("/free", "m").await,
    ];
    let [first, second, third] = answers.map(|answer| {
        let marker = marker(answer.headers()).map(str::to_owned);
        (marker, answer)
    });
    assert_eq!(first.0.as_deref(), Some("false"));
    assert_eq!(second.0.as_deref(), Some("true"));
    assert_eq!(third.0.as_deref(), Some("true"));
    assert_eq!(third.1.text().await.unwrap(), "run 1");
    assert_eq!(app.runs.get(), 1);
}

#[tokio::test]
async fn every_route_shares_the_keys() {
    let app = app(without_waiting(), |router, layer| router.route_layer(layer));

    let first = app.router.clone().oneshot(request("/free", "k")).await;
    let elsewhere = app.router.clone().oneshot(request("/also", "k")).await;

    assert_eq!(first.unwrap().status(), StatusCode::OK);
    assert_eq!(
        elsewhere.unwrap().status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(app.runs.get(), 1);
}

#[tokio::test]
async fn the_same_layer_on_two_levels_claims_once() {
    let app = app(without_waiting().with_max_running(1), |router, layer| {
        Router::new()
            .nest(
                "/v1",
                router.route_layer(layer.clone()).layer(layer.clone()),
            )
            .layer(layer)
    });

    let first = app.router.clone().oneshot(request("/v1/free", "k")).await;
    let retry = app.router.oneshot(request("/v1/free", "k")).await.unwrap();

    assert_eq!(text(first.unwrap()).await, "run 1");
    assert_eq!(marker(retry.headers()), Some("true"));
    assert_eq!(text(retry).await, "run 1");
}

#[tokio::test]
async fn a_setter_makes_a_layer_with_limits_of_its_own_over_the_same_records() {
    let one = layer(Promise::AtMostOnce, MemoryStore::default());
    let another = one
        .clone()
        .with_config(IdempotencyConfig::default().with_max_running(1))
        .unwrap();
    let runs = Arc::new(Count::default());
    let counted = Arc::clone(&runs);
    let handler = post(async move || format!("run {}", counted.add()));
    let first = Router::new().route("/", handler.clone()).layer(one);
    let second = Router::new().route("/", handler).layer(another);

    let answer = first.oneshot(request("/", "k")).await.unwrap();
    let replay = second.oneshot(request("/", "k")).await.unwrap();

    assert_eq!(marker(answer.headers()), Some("false"));
    assert_eq!(marker(replay.headers()), Some("true"));
    assert_eq!(runs.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_route_pays_its_retries_from_one_budget() {
    let at_once = Backoff::constant(Duration::ZERO).with_jitter(Jitter::None);
    // Ten retries.
    let budget = Budget::ratio(0.0, 1).unwrap();
    let layer = RetryLayer::http()
        .with_config(RetryConfig::default().with_backoff(at_once))
        .unwrap()
        .with_budget(budget);
    let runs = Arc::new(Count::default());
    let counted = Arc::clone(&runs);
    let fails = get(async move || {
        counted.add();
        StatusCode::SERVICE_UNAVAILABLE
    });
    let router = Router::new()
        .route("/one", fails.clone())
        .route("/other", fails)
        .route_layer(layer);
    let ask = async |path: &str| {
        let before = runs.get();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        runs.get() - before
    };

    for _ in 0..4 {
        assert_eq!(ask("/one").await, 3);
    }
    assert_eq!(ask("/other").await, 3);

    assert_eq!(ask("/other").await, 1);
    assert_eq!(ask("/one").await, 1);
}

#[tokio::test]
async fn every_route_is_guarded_by_one_breaker() {
    let breaker = CircuitBreaker::new("charges");
    let layer = CircuitBreakerLayer::http(breaker.clone());
    let runs = Arc::new(Count::default());
    let counted = Arc::clone(&runs);
    let fails = get(async move || {
        counted.add();
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let router = Router::new()
        .route("/one", fails.clone())
        .route("/other", fails.clone())
        .route_layer(layer.clone())
        // What a setter makes is another layer around the same breaker.
        .route("/third", fails.layer(layer.with_outcome_at(When::End)));
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        answer.status()
    };

    for path in ["/one", "/other", "/third", "/one", "/other"] {
        assert_eq!(ask(path).await, StatusCode::INTERNAL_SERVER_ERROR);
    }

    assert_eq!(breaker.state(), State::Open);
    for path in ["/one", "/other", "/third"] {
        assert_eq!(ask(path).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(runs.get(), 5);
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Serves until the test's runtime ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}
