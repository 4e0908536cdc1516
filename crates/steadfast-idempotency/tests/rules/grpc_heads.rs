//! idempotency I1, I10 for gRPC: prefixes of paths, statuses in heads before a body, and what is the handler's own.

use std::{sync::Mutex, time::Duration};

use http::{Method as Verb, Request, Response};
use steadfast_http::grpc::Code;
use steadfast_idempotency::{
    ConfigError, IdempotencyConfig, IdempotencyLayer, KeyRequirement, Outcome, scope,
};
use steadfast_store::MemoryStore;
use steadfast_testkit::faults::Method;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, Handler, World, body, charge, created, endless,
    grpc::{CREATE, answered, create, message, trailers, trailers_only},
    keyed,
};

const PREFIXED: &str = "/grpc/pay.v1.Charges/Create";

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([CREATE])
}

fn checked(methods: &[&'static str]) -> Result<(), ConfigError> {
    let config = IdempotencyConfig::default().with_grpc_methods(methods.iter().copied());
    IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared())
        .unwrap()
        .with_config(config)
        .map(drop)
}

fn to(path: &str) -> Request<Body> {
    let mut request = create("k");
    *request.uri_mut() = path.parse().unwrap();
    request
}

#[tokio::test(start_paused = true)]
async fn a_method_behind_a_prefix_is_listed_as_the_layer_sees_it() {
    assert_eq!(checked(&["/grpc/pkg.S/M"]), Ok(()));
    assert_eq!(checked(&["/a/b/c/pkg.S/M", "/grpc-2/pkg.S/M"]), Ok(()));
    let handler = || Handler::answering(|| answered("charge 1", trailers("0")));
    let listed = [(PREFIXED, CREATE), (CREATE, PREFIXED)];
    for (covered, other) in listed {
        let config = IdempotencyConfig::default().with_grpc_methods([covered]);
        let world = World::at_most_once(handler()).with_config(config);

        let passed = world.send(to(other)).await;
        assert_eq!(passed.header("idempotent-replayed"), None);
        assert_eq!(world.writes(), 0);
        for marked in ["false", "true"] {
            let answer = world.send(to(covered)).await;
            assert_eq!(answer.header("idempotent-replayed"), Some(marked));
        }
        assert_eq!(world.handler.started(), 2);
    }
}

#[test]
fn a_path_that_no_call_can_have_is_a_configuration_error() {
    for path in [
        "pkg.S/M",
        "grpc/pkg.S/M",
        "/pkg.S",
        "/",
        "//",
        "/a//b",
        "//a/b",
        "/a/b//",
        "/a/b c",
        "/a b/c",
        "/a/b\t",
        " /a/b",
        "/a/{b}",
        "/a/b%20c",
        "/a/b#c",
    ] {
        let refused = Err(ConfigError::GrpcMethod {
            path: path.to_owned(),
        });
        assert_eq!(checked(&["/grpc/pkg.S/M", path]), refused, "{path:?}");
        assert_eq!(checked(&[path]), refused, "{path:?}");
    }
}

/// Says whether it saw what its caller can decompress.
fn seeing() -> Handler {
    Handler::new(|call| async move {
        let seen = call.parts.headers.contains_key("grpc-accept-encoding");
        Ok(Response::new(body(format!("{seen}"))))
    })
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_can_decompress_is_taken_from_every_keyed_request() {
    let config = IdempotencyConfig::default()
        .with_methods([Verb::POST, Verb::PUT])
        .with_key(KeyRequirement::Optional);
    for verb in [Verb::POST, Verb::PUT] {
        for content_type in [
            Some("application/grpc"),
            Some("application/grpc+proto"),
            Some("application/grpc-web"),
            Some("application/json"),
            Some("not a content type"),
            None,
        ] {
            let world = World::at_most_once(seeing()).with_config(config.clone());
            let request = |key: Option<&str>| {
                let mut request = Request::builder()
                    .method(verb.clone())
                    .uri("/charges")
                    .header("grpc-accept-encoding", "gzip")
                    .header("grpc-accept-encoding", "zstd");
                for (name, value) in [("content-type", content_type), ("idempotency-key", key)] {
                    if let Some(value) = value {
                        request = request.header(name, value);
                    }
                }
                request.body(body("5")).unwrap()
            };

            world
                .send(request(Some("k")))
                .await
                .assert_executed("false");
            assert_eq!(world.send(request(None)).await.text(), "true");
        }
    }
}

/// The same request for the fingerprint, whoever sends it.
#[tokio::test(start_paused = true)]
async fn two_that_differ_in_what_they_can_decompress_ask_for_the_same() {
    let world = World::at_most_once(seeing());
    let with = keyed("k").header("grpc-accept-encoding", "gzip");
    let with = with.body(body(r#"{"amount":5}"#)).unwrap();

    world.send(with).await.assert_executed("false");

    world.send(charge("k")).await.assert_replayed("false");
}

/// With this status in its head and this one in its trailers, around a message.
fn twofold(head: &str, tail: Option<&str>) -> Response<Body> {
    let tail = tail.map_or_else(http::HeaderMap::new, trailers);
    let mut response = answered("half", tail);
    let headers = response.headers_mut();
    headers.insert("grpc-status", head.parse().unwrap());
    response
}

#[tokio::test(start_paused = true)]
async fn a_status_in_the_head_of_an_answer_with_a_body_yields_to_its_trailers() {
    for (head, tail, outcome) in [
        ("0", Some("13"), Outcome::Unknown),
        ("0", Some("14"), Outcome::Unknown),
        ("0", Some("16"), Outcome::Release),
        ("0", Some("0"), Outcome::Store),
        ("5", Some("13"), Outcome::Unknown),
        ("16", Some("13"), Outcome::Unknown),
        ("16", Some("0"), Outcome::Store),
        ("0", Some("nonsense"), Outcome::Unknown),
        // Without one in the trailers, it is all there is.
        ("0", None, Outcome::Store),
        ("16", None, Outcome::Release),
        ("13", None, Outcome::Unknown),
    ] {
        for promise in [World::at_most_once, World::at_least_once] {
            let handler = Handler::answering(move || twofold(head, tail));
            let world = promise(handler).with_config(config());

            let answer = world.send(create("k")).await;

            assert_eq!(answer.body, message("half"));
            assert_eq!(answer.header("grpc-status"), Some(head));
            assert_eq!(answer.header("idempotent-replayed"), Some("false"));
            let settled = [Method::Complete, Method::Release, Method::Abandon]
                .map(|method| world.faults.answers(method));
            let expected = match outcome {
                Outcome::Store => [1, 0, 0],
                Outcome::Release => [0, 1, 0],
                Outcome::Unknown | _ => [0, 0, 1],
            };
            assert_eq!(settled, expected, "{head}, {tail:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_head_says_that_it_failed_is_given_at_once_however_long_its_body() {
    for code in ["2", "13", "14"] {
        let (answer, read) = endless(1024);
        let answer = Mutex::new(Some(trailers_only(code).map(|_| answer)));
        let handler = Handler::answering(move || answer.lock().unwrap().take().unwrap());
        let world = World::at_least_once(handler).with_config(config());
        let mut service = world.service();
        let begun = Instant::now();

        let response = service.ready().await.unwrap().call(create("k"));
        let response = response.await.unwrap();

        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(response.headers()["grpc-status"], code);
        assert_eq!(response.headers()["idempotent-replayed"], "false");
        assert_eq!(world.faults.answers(Method::Abandon), 1);
        assert_eq!(world.faults.calls(Method::Complete), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_in_the_handlers_own_extensions_survives_the_hook() {
    type Answering = fn() -> Response<Body>;
    let cases: [(Answering, Option<Code>); 4] = [
        (|| trailers_only("14"), Some(Code::Unavailable)),
        (|| answered("charge 1", trailers("5")), Some(Code::NotFound)),
        (|| twofold("0", Some("13")), Some(Code::Internal)),
        // Not a call: the hook sees what the handler left.
        (|| created(1), Some(Code::DataLoss)),
    ];
    for (answer, seen) in cases {
        for says in [None, Some(Outcome::Store), Some(Outcome::Release)] {
            let asked = std::sync::Arc::new(Mutex::new(Vec::new()));
            let handler = Handler::answering(move || {
                let mut response = answer();
                response.extensions_mut().insert(Code::DataLoss);
                response
            });
            let hook = {
                let asked = std::sync::Arc::clone(&asked);
                move |head: &http::response::Parts| {
                    let code = head.extensions.get::<Code>().copied();
                    asked.lock().unwrap().push(code);
                    says
                }
            };
            let world = World::at_most_once(handler)
                .with_config(config())
                .with(|layer| layer.with_outcome(hook));
            let mut service = world.service();

            let response = service.ready().await.unwrap().call(create("k"));
            let response = response.await.unwrap();

            assert_eq!(*asked.lock().unwrap(), [seen]);
            assert_eq!(response.extensions().get(), Some(&Code::DataLoss));
            let answer = Answer::read(response).await;
            assert_eq!(answer.header("idempotent-replayed"), Some("false"));
        }
    }
}
