//! axum and plain hyper: one breaker for all connections (circuit-breaker B1, B4, B6, B7, B9).

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{MethodRouter, any},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use steadfast::circuit_breaker::{
    BreakerConfig, BreakerRegistry, CircuitBreaker, CircuitBreakerLayer, Reason, State, When,
};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    assert_rejected_over_the_wire, breaker, brief, configured, counted, failures_in_a_row, get,
    http, recorded, until_probed,
};
use crate::support::{
    Answer, Bank, Connection, Protocol, Raw, eventually, serve, serve_plain, within,
};

/// A handler that answers with a status, and hangs where it has none.
#[derive(Clone)]
pub(super) struct Till(Arc<Inner>);

struct Inner {
    status: AtomicU16,
    runs: AtomicUsize,
    ended: AtomicUsize,
}

const HANGS: u16 = 0;
const PANICS: u16 = 1;
/// Its body breaks in the middle.
const BREAKS: u16 = 2;

impl Till {
    pub(super) fn new(status: u16) -> Self {
        Self(Arc::new(Inner {
            status: status.into(),
            runs: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        }))
    }

    pub(super) fn answers(&self, status: u16) {
        self.0.status.store(status, Ordering::SeqCst);
    }

    pub(super) fn runs(&self) -> usize {
        self.0.runs.load(Ordering::SeqCst)
    }

    /// Runs that are over, or whose caller left.
    fn ended(&self) -> usize {
        self.0.ended.load(Ordering::SeqCst)
    }

    pub(super) fn route(&self) -> MethodRouter {
        let till = self.clone();
        let handler = async move || till.run().await;
        axum::routing::get(handler.clone()).post(handler)
    }

    async fn run(self) -> Response {
        struct Run(Till);
        impl Drop for Run {
            fn drop(&mut self) {
                self.0.0.ended.fetch_add(1, Ordering::SeqCst);
            }
        }

        let _run = Run(self.clone());
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        match self.0.status.load(Ordering::SeqCst) {
            HANGS => std::future::pending().await,
            PANICS => panic!("deliberate"),
            BREAKS => {
                let frames = [Ok("half"), Err(io::Error::other("no more"))];
                Body::from_stream(stream::iter(frames)).into_response()
            }
            status => (StatusCode::from_u16(status).unwrap(), "said").into_response(),
        }
    }
}

async fn ask(protocol: Protocol, address: SocketAddr, path: &str) -> Answer {
    let mut client = Connection::open(protocol, address).await;
    within(client.send(get(path))).await.unwrap()
}

struct Place {
    name: &'static str,
    path: &'static str,
    router: fn(MethodRouter, CircuitBreakerLayer) -> Router,
}

const PLACES: [Place; 9] = [
    Place {
        name: "a router",
        path: "/charges",
        router: |route, layer| Router::new().route("/charges", route).layer(layer),
    },
    Place {
        name: "the routes of a router",
        path: "/charges",
        router: |route, layer| Router::new().route("/charges", route).route_layer(layer),
    },
    Place {
        name: "a method router",
        path: "/charges",
        router: |route, layer| Router::new().route("/charges", route.layer(layer)),
    },
    Place {
        name: "the routes of a method router",
        path: "/charges",
        router: |route, layer| Router::new().route("/charges", route.route_layer(layer)),
    },
    Place {
        name: "a nested router",
        path: "/v1/eu/charges",
        router: |route, layer| {
            let nested = Router::new().route("/charges", route).layer(layer);
            Router::new().nest("/v1", Router::new().nest("/eu", nested))
        },
    },
    Place {
        name: "around a nest",
        path: "/v1/charges",
        router: |route, layer| {
            let nested = Router::new().route("/charges", route);
            Router::new().nest("/v1", nested).layer(layer)
        },
    },
    Place {
        name: "a nested service",
        path: "/v1/charges",
        router: |route, layer| {
            let nested = layer.layer(Router::new().route("/charges", route));
            Router::new().nest_service("/v1", nested)
        },
    },
    Place {
        name: "a fallback",
        path: "/anything",
        router: |route, layer| Router::new().fallback_service(route.layer(layer)),
    },
    Place {
        name: "among other layers",
        path: "/charges",
        router: |route, layer| {
            let stack = ServiceBuilder::new()
                .layer(CatchPanicLayer::new())
                .layer(layer)
                .concurrency_limit(8);
            Router::new().route("/charges", route).layer(stack)
        },
    },
];

#[tokio::test]
async fn five_failures_over_as_many_connections_open_it_for_all_others() {
    for Place { name, path, router } in PLACES {
        for protocol in Protocol::ALL {
            let (till, breaker) = (Till::new(500), breaker());
            let address = serve(router(till.route(), http(&breaker))).await;

            for _ in 0..5 {
                let answer = ask(protocol, address, path).await;
                assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{name}");
                assert_eq!(answer.text(), "said");
            }
            till.answers(200);

            assert_eq!(breaker.state(), State::Open, "{name}");
            for protocol in [protocol, protocol.other()] {
                assert_rejected_over_the_wire(&ask(protocol, address, path).await);
            }
            assert_eq!(till.runs(), 5, "{name}");
        }
    }
}

#[tokio::test]
async fn three_probes_that_succeed_over_other_connections_close_it() {
    for Place { name, path, router } in PLACES {
        let (till, breaker) = (Till::new(500), configured(brief()));
        let address = serve(router(till.route(), http(&breaker))).await;
        for _ in 0..5 {
            ask(Protocol::Http1, address, path).await;
        }
        till.answers(200);

        until_probed(&breaker).await;
        for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Http1] {
            assert_ne!(breaker.state(), State::Closed, "{name}");
            let answer = ask(protocol, address, path).await;
            assert_eq!(answer.status, StatusCode::OK, "{name}");
        }

        assert_eq!(breaker.state(), State::Closed, "{name}");
        assert_eq!(till.runs(), 8, "{name}");
    }
}

#[tokio::test]
async fn a_probe_that_fails_opens_it_again() {
    let (till, breaker) = (Till::new(500), configured(brief()));
    let transitions = recorded(&breaker);
    let address = serve(Router::new().fallback_service(till.route().layer(http(&breaker)))).await;
    for _ in 0..5 {
        ask(Protocol::Http1, address, "/").await;
    }

    until_probed(&breaker).await;
    ask(Protocol::Http1, address, "/").await;

    assert_eq!(till.runs(), 6);
    assert_eq!(breaker.state(), State::Open);
    let reasons: Vec<_> = transitions
        .lock()
        .unwrap()
        .iter()
        .map(|t| t.reason())
        .collect();
    assert_eq!(
        reasons,
        [
            Reason::ConsecutiveFailures,
            Reason::OpenTimeOver,
            Reason::ProbesFailed
        ]
    );
}

#[tokio::test]
async fn routes_with_breakers_of_their_own_do_not_affect_each_other() {
    let (sick, well) = (Till::new(503), Till::new(200));
    let (of_sick, of_well) = (breaker(), breaker());
    let app = Router::new()
        .route("/sick", sick.route().layer(http(&of_sick)))
        .route("/well", well.route().layer(http(&of_well)));
    let address = serve(app).await;

    for _ in 0..5 {
        ask(Protocol::Http1, address, "/sick").await;
    }

    assert_rejected_over_the_wire(&ask(Protocol::Http1, address, "/sick").await);
    for _ in 0..5 {
        assert_eq!(ask(Protocol::Http1, address, "/well").await.status, 200);
    }
    assert_eq!((sick.runs(), well.runs()), (5, 5));
    assert_eq!(of_well.state(), State::Closed);
}

#[tokio::test]
async fn routes_that_share_a_breaker_open_together() {
    let (sick, well) = (Till::new(503), Till::new(200));
    let breaker = breaker();
    let app = Router::new()
        .route("/sick", sick.route().layer(http(&breaker)))
        .route("/well", well.route().layer(http(&breaker)));
    let address = serve(app).await;

    for _ in 0..5 {
        ask(Protocol::Http1, address, "/sick").await;
    }

    assert_rejected_over_the_wire(&ask(Protocol::Http1, address, "/well").await);
    assert_eq!(well.runs(), 0);
}

#[tokio::test]
async fn what_a_healthy_server_says_ends_a_row_of_failures() {
    let (till, breaker) = (Till::new(500), breaker());
    let app = Router::new()
        .route("/charges", till.route())
        .layer(http(&breaker));
    let address = serve(app).await;

    for healthy in [200, 204, 301, 304, 400, 404, 409, 422] {
        breaker.reset();
        till.answers(500);
        for _ in 0..4 {
            ask(Protocol::Http1, address, "/charges").await;
        }
        assert_eq!(failures_in_a_row(&breaker), 4);
        till.answers(healthy);
        ask(Protocol::Http1, address, "/charges").await;
        assert_eq!(failures_in_a_row(&breaker), 0, "{healthy}");
    }

    // The router's own answer, too.
    breaker.reset();
    till.answers(500);
    for _ in 0..4 {
        ask(Protocol::Http1, address, "/charges").await;
    }
    assert_eq!(ask(Protocol::Http1, address, "/unknown").await.status, 404);
    assert_eq!(failures_in_a_row(&breaker), 0);
}

#[tokio::test]
async fn a_panic_of_a_handler_counts_on_either_side_of_who_catches_it() {
    let inside: fn(MethodRouter, CircuitBreakerLayer) -> Router = |route, layer| {
        let route: MethodRouter = route.layer(CatchPanicLayer::new());
        Router::new().fallback_service(route.layer(layer))
    };
    let outside: fn(MethodRouter, CircuitBreakerLayer) -> Router = |route, layer| {
        let route: MethodRouter = route.layer(layer);
        Router::new().fallback_service(route.layer(CatchPanicLayer::new()))
    };
    for router in [inside, outside] {
        let (till, breaker) = (Till::new(PANICS), breaker());
        let address = serve(router(till.route(), http(&breaker))).await;

        for n in 1..=5 {
            let answer = ask(Protocol::Http1, address, "/").await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(counted(&breaker).1, if n < 5 { n } else { 0 });
        }

        assert_rejected_over_the_wire(&ask(Protocol::Http1, address, "/").await);
        assert_eq!(till.runs(), 5);
    }
}

const ASKS: &str = "GET / HTTP/1.1\r\nhost: bank\r\n\r\n";

#[tokio::test]
async fn callers_that_leave_say_nothing() {
    let (till, breaker) = (Till::new(HANGS), breaker());
    let app = Router::new().fallback_service(till.route().layer(http(&breaker)));
    let address = serve(app).await;

    for n in 1..=10 {
        let mut client = Raw::connect(address).await;
        client.send(ASKS).await.unwrap();
        eventually("the handler runs", || till.runs() == n).await;
        client.reset();
        eventually("the handler is dropped", || till.ended() == n).await;
    }
    till.answers(200);

    assert_eq!(ask(Protocol::Http1, address, "/").await.status, 200);
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(counted(&breaker), (1, 0));
}

#[tokio::test]
async fn a_probe_whose_caller_leaves_makes_room_for_another_one() {
    let (till, breaker) = (Till::new(500), configured(brief()));
    let app = Router::new().fallback_service(till.route().layer(http(&breaker)));
    let address = serve(app).await;
    for _ in 0..5 {
        ask(Protocol::Http1, address, "/").await;
    }
    till.answers(HANGS);

    until_probed(&breaker).await;
    let mut prober = Raw::connect(address).await;
    prober.send(ASKS).await.unwrap();
    eventually("the probe runs", || till.runs() == 6).await;
    let refused = ask(Protocol::Http2, address, "/").await;
    assert_rejected_over_the_wire(&refused);
    assert_eq!(refused.headers["retry-after"], "1");
    prober.reset();
    eventually("the probe is dropped", || till.ended() == 6).await;
    till.answers(200);

    // The place is free a moment after the handler is gone.
    let mut passed = 0;
    while passed < 3 {
        match ask(Protocol::Http1, address, "/").await.status {
            StatusCode::OK => passed += 1,
            status => assert_eq!((status, passed), (StatusCode::SERVICE_UNAVAILABLE, 0)),
        }
    }
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(till.runs(), 9);
}

#[tokio::test]
async fn bodies_that_break_count_where_the_end_is_waited_for() {
    for (when, expected) in [(When::Head, State::Closed), (When::End, State::Open)] {
        for protocol in Protocol::ALL {
            let (till, breaker) = (Till::new(BREAKS), breaker());
            let layer = http(&breaker).with_outcome_at(when);
            let app = Router::new().fallback_service(till.route().layer(layer));
            let address = serve(app).await;

            for n in 1..=5 {
                let mut client = Connection::open(protocol, address).await;
                within(client.send(get("/"))).await.unwrap_err();
                assert_eq!(till.runs(), n);
            }

            assert_eq!(breaker.state(), expected, "{when:?} {protocol:?}");
        }
    }
}

/// Whatever of it a server sends, and whether or not it asks for an end that it knows of.
#[tokio::test]
async fn bodies_that_are_sent_whole_count_once_as_successes() {
    for protocol in Protocol::ALL {
        let breaker = breaker();
        let layer = http(&breaker).with_outcome_at(When::End);
        let app = Router::new()
            .route("/length", any(async || "four"))
            .route("/empty", any(async || ""))
            .route("/none", any(async || StatusCode::NO_CONTENT))
            .route(
                "/chunks",
                any(async || {
                    let chunks = ["one", "two"].map(Ok::<_, Infallible>);
                    Body::from_stream(stream::iter(chunks))
                }),
            )
            .layer(layer);
        let address = serve(app).await;
        let mut client = Connection::open(protocol, address).await;

        for path in ["/length", "/empty", "/none", "/chunks"] {
            for method in ["GET", "HEAD"] {
                breaker.reset();
                let request = Request::builder().method(method).uri(path);
                let request = request.body(Full::<Bytes>::default()).unwrap();
                let answer = within(client.send(request)).await.unwrap();
                assert!(answer.status.is_success());
                // A server may let go of the body after its client has it.
                eventually("it counts", || counted(&breaker).0 > 0).await;
                assert_eq!(counted(&breaker), (1, 0), "{protocol:?} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_call_of_grpc_is_rejected_in_grpc_by_a_layer_of_http_too() {
    let (till, breaker) = (Till::new(200), breaker());
    let app = Router::new().fallback_service(till.route().layer(http(&breaker)));
    let address = serve(app).await;
    super::trip(&breaker);

    let mut client = Connection::open(Protocol::Http2, address).await;
    let mut request = super::post("/bank.Charges/Create", "\0\0\0\0\0");
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    let answer = within(client.send(request)).await.unwrap();

    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["grpc-status"], "14");
    assert_eq!(answer.trailers, None);
    assert!(answer.body.is_empty());
    assert_eq!(till.runs(), 0);
}

#[tokio::test]
async fn a_service_of_hyper_has_one_breaker_for_all_connections() {
    for protocol in Protocol::ALL {
        let breaker = breaker();
        let runs = Arc::new(AtomicUsize::new(0));
        let layer = http(&breaker);
        let count = Arc::clone(&runs);
        let address = serve_plain(move || {
            let count = Arc::clone(&count);
            layer.layer(service_fn(move |_: Request<Incoming>| {
                count.fetch_add(1, Ordering::SeqCst);
                let mut answer = http::Response::new(Full::<Bytes>::from("said"));
                *answer.status_mut() = StatusCode::BAD_GATEWAY;
                std::future::ready(Ok::<_, Infallible>(answer))
            }))
        })
        .await;

        for _ in 0..5 {
            assert_eq!(ask(protocol, address, "/").await.status, 502);
        }

        assert_rejected_over_the_wire(&ask(protocol, address, "/").await);
        assert_eq!(runs.load(Ordering::SeqCst), 5);
    }
}

#[tokio::test]
async fn many_connections_at_once_get_no_more_through_than_may_pass() {
    let (till, breaker) = (Till::new(500), configured(brief()));
    let app = Router::new().fallback_service(till.route().layer(http(&breaker)));
    let address = serve(app).await;
    for _ in 0..5 {
        ask(Protocol::Http1, address, "/").await;
    }
    till.answers(HANGS);
    until_probed(&breaker).await;

    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Raw::connect(address).await;
        client.send(ASKS).await.unwrap();
        clients.push(client);
    }
    let replies = clients.iter_mut().map(Raw::reply);
    let replies = FuturesUnordered::from_iter(replies).take(19);
    let replies: Vec<_> = within(replies.collect()).await;

    assert!(
        replies.iter().all(|reply| reply.status() == Some(503)),
        "{replies:?}"
    );
    assert_eq!(till.runs(), 6);
}

/// State is in the breaker, and not in the layer: a router that is built anew goes on where the other one was.
#[tokio::test]
async fn a_router_that_takes_over_has_the_state_of_the_one_before() {
    let breaker = CircuitBreaker::new("charges");
    let (old, new) = (Till::new(500), Till::new(200));
    let app = |till: &Till| Router::new().fallback_service(till.route().layer(http(&breaker)));
    let before = serve(app(&old)).await;
    for _ in 0..5 {
        ask(Protocol::Http1, before, "/").await;
    }

    let after = serve(app(&new)).await;

    assert_rejected_over_the_wire(&ask(Protocol::Http1, after, "/").await);
    assert_eq!(new.runs(), 0);
}

#[tokio::test]
async fn what_passes_is_the_same_over_the_wire_as_without_the_layer() {
    let app = || {
        Router::new()
            .route("/length", any(async || "four"))
            .route("/empty", any(async || ""))
            .route("/none", any(async || StatusCode::NO_CONTENT))
            .route("/failed", any(async || (StatusCode::BAD_GATEWAY, "sorry")))
            .route(
                "/chunks",
                any(async || {
                    let chunks = ["one", "two"].map(Ok::<_, Infallible>);
                    Body::from_stream(stream::iter(chunks))
                }),
            )
            .route("/trailers", Bank::new().route())
    };
    for when in [When::Head, When::End] {
        for protocol in Protocol::ALL {
            let without = serve(app()).await;
            let layer = http(&breaker()).with_outcome_at(when);
            let with = serve(app().layer(layer)).await;
            let mut without = Connection::open(protocol, without).await;
            let mut with = Connection::open(protocol, with).await;

            for path in [
                "/length",
                "/empty",
                "/none",
                "/failed",
                "/chunks",
                "/trailers",
            ] {
                for method in ["GET", "HEAD", "POST"] {
                    let request = || {
                        let request = Request::builder().method(method).uri(path);
                        request.body(Full::<Bytes>::default()).unwrap()
                    };
                    let expected = within(without.send(request())).await.unwrap();
                    let got = within(with.send(request())).await.unwrap();
                    assert_eq!(
                        got.lasting(),
                        expected.lasting(),
                        "{when:?} {protocol:?} {method} {path}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn one_layer_around_a_router_with_a_breaker_for_each_path() {
    let (sick, well) = (Till::new(503), Till::new(200));
    let path = |request: &Request<Body>| request.uri().path().to_owned();
    let registry = BreakerRegistry::by(BreakerConfig::default(), path).unwrap();
    let app = Router::new()
        .route("/sick", sick.route())
        .route("/well", well.route())
        .layer(CircuitBreakerLayer::http(registry.clone()));
    let address = serve(app).await;

    for _ in 0..5 {
        ask(Protocol::Http1, address, "/sick").await;
    }

    assert_rejected_over_the_wire(&ask(Protocol::Http2, address, "/sick").await);
    assert_eq!(ask(Protocol::Http2, address, "/well").await.status, 200);
    assert_eq!(sick.runs(), 5);
    let breaker = registry.get(&"/sick".to_owned()).unwrap();
    assert_eq!(breaker.state(), State::Open);
}
