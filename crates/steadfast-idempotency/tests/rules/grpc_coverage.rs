//! idempotency I1, I2, I8 for gRPC: which calls are covered, what the handler sees of them, and their duplicates.

use std::time::Duration;

use http::{Method as Verb, Request};
use steadfast_idempotency::{
    ConfigError, IdempotencyConfig, IdempotencyLayer, KeyRequirement, scope,
};
use steadfast_store::MemoryStore;
use steadfast_testkit::faults::Method;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, Crowd, Handler, Latch, World, body, channel,
    grpc::{CREATE, answered, call, create, keyless_call, message, trailers, trailers_only},
    poll_once,
};

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([CREATE, "/pay.v1.Charges/Refund"])
}

/// Answers a message with the number of the call.
fn counting() -> Handler {
    Handler::new(
        |call| async move { Ok(answered(&format!("charge {}", call.number), trailers("0"))) },
    )
}

#[track_caller]
fn assert_marked(answer: &Answer, marked: &str, text: &str) {
    assert_eq!(
        answer.header("idempotent-replayed"),
        Some(marked),
        "{answer:?}"
    );
    assert_eq!(answer.body, message(text));
}

#[tokio::test(start_paused = true)]
async fn a_listed_method_is_covered_whatever_the_http_method_and_the_content_type() {
    for verb in [Verb::POST, Verb::PUT, Verb::GET, Verb::OPTIONS] {
        for content_type in [
            "application/grpc",
            "application/grpc+proto",
            "application/json",
            "",
        ] {
            for path in [
                CREATE,
                "/pay.v1.Charges/Refund",
                "/pay.v1.Charges/Refund?x=1",
            ] {
                let world = World::at_most_once(counting()).with_config(config());
                let request = || {
                    Request::builder()
                        .method(verb.clone())
                        .uri(path)
                        .header("content-type", content_type)
                        .header("idempotency-key", "k")
                        .body(body(message("amount: 5")))
                        .unwrap()
                };

                assert_marked(&world.send(request()).await, "false", "charge 1");
                assert_marked(&world.send(request()).await, "true", "charge 1");
                assert_eq!(world.handler.started(), 1);
            }
        }
    }
}

/// Both ways as they come: the layer reads neither the request nor the answer.
#[tokio::test(start_paused = true)]
async fn a_method_that_is_not_listed_passes_untouched() {
    for path in [
        "/pay.v1.Charges/Watch",
        "/pay.v1.Charges/create",
        "/pay.v1.Charges/Create/",
        "/pay.v1.Charges/Created",
        "/charges",
    ] {
        let (mut answering, answer) = channel();
        let answer = std::sync::Mutex::new(Some(answer));
        let handler = Handler::new(move |call| {
            assert!(format!("{:?}", call.body).contains("untouched"));
            assert!(call.parts.headers.contains_key("grpc-accept-encoding"));
            let answer = answer.lock().unwrap().take().unwrap();
            async move { Ok(http::Response::new(answer)) }
        });
        let world = World::at_most_once(handler).with_config(config());
        let (_sending, arriving) = channel();
        let mut request = call("k").body(arriving).unwrap();
        *request.uri_mut() = path.parse().unwrap();
        let mut service = world.service();

        let response = service.ready().await.unwrap().call(request);
        let polled = poll_once(std::pin::pin!(response)).await;

        let std::task::Poll::Ready(Ok(response)) = polled else {
            panic!("{path} did not pass through");
        };
        assert!(format!("{:?}", response.body()).contains("untouched"));
        answering.send_data("one".into()).await.unwrap();
        drop(answering);
        let answer = Answer::read(response).await;
        assert_eq!(answer.text(), "one");
        assert_eq!(answer.header("idempotent-replayed"), None);
        assert_eq!(world.writes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_latest_list_is_the_one_that_counts() {
    let post = || {
        Request::post("/charges")
            .header("idempotency-key", "k")
            .body(body("5"))
            .unwrap()
    };
    let grpc = IdempotencyConfig::default()
        .with_methods([Verb::POST])
        .with_grpc_methods([CREATE]);
    let world = World::at_most_once(counting()).with_config(grpc.clone());
    assert_eq!(world.send(post()).await.header("idempotent-replayed"), None);
    assert_eq!(world.writes(), 0);

    let http = grpc.with_methods([Verb::POST]);
    let world = World::at_most_once(counting()).with_config(http);
    assert_marked(&world.send(post()).await, "false", "charge 1");
    // A POST like any other.
    assert_marked(&world.send(create("k2")).await, "false", "charge 2");
}

#[test]
fn a_list_that_names_no_method_or_something_else_is_a_configuration_error() {
    let check = |methods: &[&'static str]| {
        let config = IdempotencyConfig::default().with_grpc_methods(methods.iter().copied());
        IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared())
            .unwrap()
            .with_config(config)
            .map(drop)
    };
    assert_eq!(check(&[]), Err(ConfigError::NoMethod));
    for path in [
        "",
        "/",
        "pay.v1.Charges/Create",
        "/pay.v1.Charges",
        "/pay.v1.Charges/",
        "//Create",
        "/pay.v1.Charges/Create/",
        "/pay.v1.Charges/Create?x=1",
        "/pay.v1.Charges/*",
        "/pay v1/Create",
        "https://pay.example/pay.v1.Charges/Create",
    ] {
        let refused = Err(ConfigError::GrpcMethod {
            path: path.to_owned(),
        });
        assert_eq!(check(&[CREATE, path]), refused, "{path}");
    }
    assert_eq!(check(&[CREATE, "/Charges/Create", "/a_b.c-d/e"]), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_handler_of_a_call_does_not_see_what_its_caller_can_decompress() {
    let seeing = || {
        Handler::new(|call| async move {
            let seen = call.parts.headers.contains_key("grpc-accept-encoding");
            assert_eq!(call.parts.headers["te"], "trailers");
            Ok(answered(&format!("{seen}"), trailers("0")))
        })
    };
    let world = World::at_most_once(seeing()).with_config(config());
    assert_marked(&world.send(create("k")).await, "false", "false");

    // Two callers that differ in it ask for the same.
    let mut other = create("k");
    other
        .headers_mut()
        .insert("grpc-accept-encoding", "zstd".parse().unwrap());
    assert_marked(&world.send(other).await, "true", "false");

    // Without a key it is not the layer's business.
    let world =
        World::at_most_once(seeing()).with_config(config().with_key(KeyRequirement::Optional));
    let keyless = keyless_call().body(body(message("amount: 5"))).unwrap();
    assert_eq!(world.send(keyless).await.body, message("true"));
}

fn waiting_for(timeout: &str) -> Request<Body> {
    let mut request = create("k");
    request
        .headers_mut()
        .insert("grpc-timeout", timeout.parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_no_longer_than_its_grpc_timeout() {
    let wait = IdempotencyConfig::DEFAULT_WAIT;
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(config());
    let _first = world.start(create("k"));
    latch.reached().await;

    for world in [&world, &world.elsewhere()] {
        for (timeout, longest) in [
            ("300m", Duration::from_millis(300)),
            ("1S", Duration::from_secs(1)),
            ("0m", Duration::ZERO),
            ("1H", wait),
            ("soon", wait),
        ] {
            let begun = Instant::now();

            let answer = world.send(waiting_for(timeout)).await;

            answer.assert_grpc_refused(14, "IN_PROGRESS", Some("1000"));
            let waited = begun.elapsed();
            // Waits for another process that end within 10 ms share their last look.
            assert!(
                waited + Duration::from_millis(10) >= longest,
                "{timeout}: {waited:?}"
            );
            assert!(
                waited <= longest + Duration::from_millis(2),
                "{timeout}: {waited:?}"
            );
        }
    }
}

/// The answer is not kept; who joined gets the status, and the message and the trailers with it.
#[tokio::test(start_paused = true)]
async fn a_duplicate_that_joined_a_call_gets_its_status() {
    for in_headers in [false, true] {
        for (promise, status) in [
            (World::at_most_once as fn(Handler) -> World, "14"),
            (World::at_least_once, "14"),
            (World::at_most_once, "0"),
        ] {
            let latch = Latch::new();
            let handler = {
                let latch = latch.clone();
                Handler::new(move |_| {
                    let latch = latch.clone();
                    async move {
                        latch.pass().await;
                        Ok(match in_headers {
                            true => trailers_only(status),
                            false => answered("half", trailers(status)),
                        })
                    }
                })
            };
            let world = promise(handler).with_config(config());
            let first = world.start(create("k"));
            latch.reached().await;
            let joined = Crowd::of(&world, 3, || create("k")).await;

            latch.open();

            let first = first.await.unwrap();
            for answer in joined.answers().await {
                assert_eq!(answer.header("idempotent-replayed"), Some("true"));
                assert_eq!(answer.header("idempotent-stored"), None);
                assert_eq!(answer.body, first.body);
                assert_eq!(answer.trailers, first.trailers);
                assert_eq!(answer.header("grpc-status"), first.header("grpc-status"));
            }
            assert_eq!(world.faults.calls(Method::Begin), 1);
            assert_eq!(world.handler.started(), 1);
        }
    }
}
