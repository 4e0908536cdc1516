//! One layer value fits everywhere a service stands, and nothing has to handle an error for it.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    middleware::{self, Next},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use steadfast::{
    idempotency::{IdempotencyLayer, Operation, Promise},
    store::MemoryStore,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Count, layer, marker, text};

type Memory = IdempotencyLayer<MemoryStore>;

fn memory() -> Memory {
    layer(Promise::AtMostOnce, MemoryStore::default())
}

fn handler() -> MethodRouter {
    let runs = Arc::new(Count::default());
    post(async move |_: Operation, body: Bytes| {
        format!("run {} of {} bytes", runs.add(), body.len())
    })
}

/// Runs once and replays; the service cannot fail, and nobody had to make it so.
async fn keeps_its_promise<S, RB>(service: S, path: &str)
where
    S: Service<Request<Body>, Response = Response<RB>, Error = Infallible> + Clone,
    RB: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let request = || {
        Request::post(path)
            .header("idempotency-key", "k")
            .body(Body::from("amount=5"))
            .unwrap()
    };

    let first = service.clone().oneshot(request()).await.unwrap();
    let replay = service.clone().oneshot(request()).await.unwrap();
    let without_key = Request::post(path).body(Body::empty()).unwrap();
    let refused = service.oneshot(without_key).await.unwrap();

    assert_eq!(marker(first.headers()), Some("false"));
    assert_eq!(text(first).await, "run 1 of 8 bytes");
    assert_eq!(marker(replay.headers()), Some("true"));
    assert_eq!(text(replay).await, "run 1 of 8 bytes");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(marker(refused.headers()), None);
}

#[tokio::test]
async fn on_a_router() {
    let router = Router::new().route("/charges", handler()).layer(memory());
    keeps_its_promise(router, "/charges").await;
}

#[tokio::test]
async fn on_the_routes_of_a_router() {
    let router = Router::new()
        .route("/charges", handler())
        .route_layer(memory());
    keeps_its_promise(router, "/charges").await;
}

#[tokio::test]
async fn on_a_nested_router() {
    let nested = Router::new().route("/charges", handler()).layer(memory());
    let router = Router::new().nest("/v1", Router::new().nest("/eu", nested));
    keeps_its_promise(router, "/v1/eu/charges").await;
}

#[tokio::test]
async fn on_a_nested_service() {
    let nested = memory().layer(Router::new().route("/charges", handler()));
    let router = Router::new().nest_service("/v1", nested);
    keeps_its_promise(router, "/v1/charges").await;
}

#[tokio::test]
async fn on_a_merged_router_with_state() {
    #[derive(Clone)]
    struct Bank;
    let charges: Router<Bank> = Router::new()
        .route("/charges", handler().with_state(()))
        .route_layer(memory());
    let router = Router::new().merge(charges).with_state(Bank);
    keeps_its_promise(router, "/charges").await;
}

#[tokio::test]
async fn on_a_method_router() {
    let route = handler().layer(memory());
    keeps_its_promise(route.clone(), "/").await;
    keeps_its_promise(
        Router::new().route("/charges", handler().route_layer(memory())),
        "/charges",
    )
    .await;
}

#[tokio::test]
async fn on_a_fallback_and_around_a_whole_router() {
    let router = Router::new().fallback_service(handler().layer(memory()));
    keeps_its_promise(router, "/anything").await;

    let around = memory().layer(Router::new().route("/charges", handler()));
    keeps_its_promise(around, "/charges").await;
}

#[tokio::test]
async fn in_a_service_builder_with_tower_and_tower_http() {
    let stack = ServiceBuilder::new()
        .layer(tower_http::catch_panic::CatchPanicLayer::new())
        .layer(memory())
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            std::time::Duration::from_secs(60),
        ))
        .concurrency_limit(8);
    let router = Router::new().route("/charges", handler()).layer(stack);
    keeps_its_promise(router, "/charges").await;
}

#[tokio::test]
async fn between_functions_of_axum() {
    async fn pass(request: Request<Body>, next: Next) -> axum::response::Response {
        next.run(request).await
    }
    let router = Router::new()
        .route("/charges", handler())
        .layer(middleware::from_fn(pass))
        .layer(memory())
        .layer(middleware::from_fn(pass));
    keeps_its_promise(router, "/charges").await;
}

/// A plain service, generic over the body that it is given.
async fn plain<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    use http_body_util::BodyExt;

    assert!(request.extensions().get::<Operation>().is_some());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from(format!(
        "run 1 of {} bytes",
        body.len()
    ))))
}

#[tokio::test]
async fn on_a_plain_service_and_a_boxed_one() {
    keeps_its_promise(memory().layer(service_fn(plain)), "/").await;

    let boxed = memory().layer(service_fn(plain)).boxed_clone();
    keeps_its_promise(boxed, "/").await;

    let within = ServiceBuilder::new()
        .boxed_clone()
        .service(service_fn(plain));
    keeps_its_promise(memory().layer(within), "/").await;
}

#[tokio::test]
async fn over_a_store_without_a_type() {
    let store = steadfast::store::DynStore::new(MemoryStore::default());
    let layer = layer(Promise::AtLeastOnce, store);
    let router = Router::new().route("/charges", handler()).layer(layer);
    keeps_its_promise(router, "/charges").await;
}

/// The layers of retries, and of keys around it: on servers too, where a gateway has them.
mod retries {
    use axum::{extract::Request as AxumRequest, routing::any};
    use http::Method;
    use steadfast::{
        http::header::IDEMPOTENCY_KEY,
        retry::{IdempotencyKeyLayer, RetryLayer, RetryOutcome},
    };
    use tower::{
        layer::util::{Identity, Stack},
        util::{BoxCloneService, BoxCloneSyncService},
    };

    use super::*;

    /// Each operation gets a key, and each attempt the same one.
    fn retried() -> Stack<RetryLayer, Stack<IdempotencyKeyLayer, Identity>> {
        ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(RetryLayer::http())
            .into_inner()
    }

    /// Answers with its key and the length of its body, at every second attempt.
    fn handler() -> MethodRouter {
        let service = fails_first();
        any(async move |request: AxumRequest| service.oneshot(request).await)
    }

    fn fails_first<B>() -> impl Service<
        Request<B>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
    {
        let runs = Arc::new(Count::default());
        service_fn(move |request: Request<B>| {
            let runs = Arc::clone(&runs);
            async move {
                use http_body_util::BodyExt;

                let (head, body) = request.into_parts();
                let key = head.headers.get(IDEMPOTENCY_KEY).cloned();
                let bytes = body.collect().await.unwrap().to_bytes();
                let run = runs.add();
                let mut answer = Response::new(Full::from(format!("{} bytes", bytes.len())));
                if run % 2 == 1 {
                    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                if let Some(key) = key {
                    answer.headers_mut().insert(IDEMPOTENCY_KEY, key);
                }
                Ok(answer)
            }
        })
    }

    /// Fails, and is made again; the service cannot fail, and nobody had to make it so.
    async fn makes_another_attempt<S, RB>(service: S, path: &str)
    where
        S: Service<Request<Body>, Response = Response<RB>, Error = Infallible> + Clone,
        RB: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        for method in [Method::POST, Method::PUT] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(Body::from("amount=5"))
                .unwrap();

            let answer = service.clone().oneshot(request).await.unwrap();

            assert_eq!(answer.status(), StatusCode::OK);
            assert!(answer.headers().contains_key(IDEMPOTENCY_KEY));
            let outcome = RetryOutcome::of(answer.extensions()).unwrap();
            assert_eq!(outcome.attempts(), 2);
            assert_eq!(text(answer).await, "8 bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn on_routers_and_their_parts() {
        let router = || Router::new().route("/charges", handler());
        makes_another_attempt(router().layer(retried()), "/charges").await;
        makes_another_attempt(router().route_layer(retried()), "/charges").await;
        let nested = Router::new().nest("/v1", router().layer(retried()));
        makes_another_attempt(nested, "/v1/charges").await;
        let nested = Router::new().nest_service("/v1", retried().layer(router()));
        makes_another_attempt(nested, "/v1/charges").await;
        makes_another_attempt(handler().layer(retried()), "/").await;
        makes_another_attempt(retried().layer(router()), "/charges").await;
        let fallback = Router::new().fallback_service(retried().layer(router()));
        makes_another_attempt(fallback, "/charges").await;
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_service_that_takes_the_body_of_its_caller() {
        let layer = RetryLayer::http().with_same_body();
        let service = ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(layer)
            .service(fails_first::<Body>());
        makes_another_attempt(service, "/").await;
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_service_builder_with_tower_and_tower_http() {
        let stack = ServiceBuilder::new()
            .layer(tower_http::catch_panic::CatchPanicLayer::new())
            .layer(retried())
            .layer(tower_http::timeout::TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                std::time::Duration::from_secs(60),
            ))
            .concurrency_limit(1);
        let router = Router::new().route("/charges", handler()).layer(stack);
        makes_another_attempt(router, "/charges").await;
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_plain_service_and_on_boxed_ones() {
        makes_another_attempt(retried().layer(fails_first()), "/").await;

        let around = BoxCloneService::new(retried().layer(fails_first()));
        makes_another_attempt(around, "/").await;
        let around = BoxCloneSyncService::new(retried().layer(fails_first()));
        makes_another_attempt(around, "/").await;

        let within = BoxCloneService::new(fails_first());
        makes_another_attempt(retried().layer(within), "/").await;
        let within = BoxCloneSyncService::new(fails_first());
        let service = retried().layer(within);
        makes_another_attempt(BoxCloneSyncService::new(service), "/").await;
    }
}

/// The layer of circuit breakers, on servers and around any service.
mod breakers {
    use axum::routing::get;
    use steadfast::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, State};
    use tower::util::{BoxCloneService, BoxCloneSyncService};

    use super::*;

    fn handler() -> MethodRouter {
        get(async || StatusCode::BAD_GATEWAY)
    }

    async fn plain<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut answer = Response::new(Full::from("said"));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        Ok(answer)
    }

    /// Five failures, and no more; the service cannot fail, and nobody had to make it so.
    async fn opens<S, RB>(put: impl FnOnce(CircuitBreakerLayer) -> S, path: &str)
    where
        S: Service<Request<Body>, Response = Response<RB>, Error = Infallible> + Clone,
        RB: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        let breaker = CircuitBreaker::new("charges");
        let service = put(CircuitBreakerLayer::http(breaker.clone()));
        let ask = async || {
            let request = Request::get(path).body(Body::empty()).unwrap();
            service.clone().oneshot(request).await.unwrap()
        };

        for _ in 0..5 {
            assert_eq!(breaker.state(), State::Closed);
            assert_eq!(ask().await.status(), StatusCode::BAD_GATEWAY);
        }

        assert_eq!(breaker.state(), State::Open);
        let rejection = ask().await;
        assert_eq!(rejection.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(text(rejection).await.contains("circuit-open"));
    }

    #[tokio::test(start_paused = true)]
    async fn on_routers_and_their_parts() {
        let router = || Router::new().route("/charges", handler());
        opens(|layer| router().layer(layer), "/charges").await;
        opens(|layer| router().route_layer(layer), "/charges").await;
        opens(|layer| layer.layer(router()), "/charges").await;
        opens(
            |layer| Router::new().nest("/v1", router().layer(layer)),
            "/v1/charges",
        )
        .await;
        opens(
            |layer| Router::new().nest_service("/v1", layer.layer(router())),
            "/v1/charges",
        )
        .await;
        opens(|layer| handler().layer(layer), "/").await;
        opens(|layer| handler().route_layer(layer), "/").await;
        opens(
            |layer| Router::new().fallback_service(layer.layer(router())),
            "/charges",
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_service_builder_with_tower_and_tower_http() {
        let put = |layer| {
            let stack = ServiceBuilder::new()
                .layer(tower_http::catch_panic::CatchPanicLayer::new())
                .layer(layer)
                .layer(tower_http::timeout::TimeoutLayer::with_status_code(
                    StatusCode::GATEWAY_TIMEOUT,
                    std::time::Duration::from_secs(60),
                ))
                .concurrency_limit(1);
            Router::new().route("/charges", handler()).layer(stack)
        };
        opens(put, "/charges").await;
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_plain_service_and_on_boxed_ones() {
        opens(|layer| layer.layer(service_fn(plain::<Body>)), "/").await;
        let around = |layer: CircuitBreakerLayer| {
            BoxCloneService::new(layer.layer(service_fn(plain::<Body>)))
        };
        opens(around, "/").await;
        let both = |layer: CircuitBreakerLayer| {
            let within = BoxCloneSyncService::new(service_fn(plain::<Body>));
            BoxCloneSyncService::new(layer.layer(within))
        };
        opens(both, "/").await;
    }
}
