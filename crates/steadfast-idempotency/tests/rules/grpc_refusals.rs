//! The refusals of the layer in the form of gRPC, and in no other form to a gRPC call.

use std::time::Duration;

use http::{Request, StatusCode};
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, Promise, scope};
use steadfast_testkit::faults::{FOREVER, Method};

use crate::support::{
    Answer, Body, Handler, Latch, World, body, broken, channel, created, endless,
    grpc::{CREATE, Refused, answered, call, create, keyless_call, message, trailers},
};

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([CREATE])
}

fn answering(status: &'static str) -> Handler {
    Handler::answering(move || answered("charge 1", trailers(status)))
}

/// The same call in another protocol: the client's word decides how it is refused, and nothing else.
fn as_http(request: Request<Body>) -> Request<Body> {
    let mut request = request;
    let headers = request.headers_mut();
    headers.insert("content-type", "application/json".parse().unwrap());
    request
}

/// Asserts how this call is refused in gRPC, and that it is a problem of HTTP to a client that does not speak it.
async fn assert_refused(
    world: &World,
    request: impl Fn() -> Request<Body>,
    grpc: (u32, &str, Option<&str>),
    http: (u16, &str),
) -> Answer {
    world
        .send(as_http(request()))
        .await
        .assert_refused(http.0, http.1);
    let answer = world.send(request()).await;
    answer.assert_grpc_refused(grpc.0, grpc.1, grpc.2);
    answer
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_or_malformed_is_an_invalid_argument() {
    let world = World::at_most_once(answering("0")).with_config(config());
    let content = || body(message("amount: 5"));

    let missing = || keyless_call().body(content()).unwrap();
    assert_refused(
        &world,
        missing,
        (3, "MISSING_KEY", Some("-1")),
        (400, "missing-key"),
    )
    .await;

    let malformed = || call("two words").body(content()).unwrap();
    let refused = (3, "MALFORMED_KEY", Some("-1"));
    assert_refused(&world, malformed, refused, (400, "malformed-key")).await;

    let two = || {
        call("k")
            .header("idempotency-key", "l")
            .body(content())
            .unwrap()
    };
    assert_refused(&world, two, refused, (400, "malformed-key")).await;
    assert_eq!(world.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_principal_is_unauthenticated() {
    let world = World::build(answering("0"), Promise::AtMostOnce, |store| {
        IdempotencyLayer::at_most_once(store, scope::bearer_token()).unwrap()
    })
    .with_config(config());

    assert_refused(
        &world,
        || create("k"),
        (16, "UNAUTHORIZED_SCOPE", Some("-1")),
        (401, "unauthorized-scope"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_taken_says_why() {
    let config = config()
        .with_body_limit(64)
        .with_body_timeout(Duration::from_secs(1));
    let world = World::at_most_once(answering("0")).with_config(config);

    let large = || call("k").body(endless(65).0).unwrap();
    let refused = (8, "BODY_TOO_LARGE", Some("-1"));
    assert_refused(&world, large, refused, (413, "body-too-large")).await;

    let cut = || call("k").body(broken("half")).unwrap();
    let answer = world.send(cut()).await;
    assert_eq!(Refused::read(&answer).reason, "BODY_UNREADABLE");
    assert_eq!(Refused::read(&answer).code, 14);

    let (_sender, slow) = channel();
    let answer = world.send(call("k").body(slow).unwrap()).await;
    assert_eq!(Refused::read(&answer).reason, "BODY_TIMEOUT");
    assert_eq!(Refused::read(&answer).code, 14);
    assert_eq!(world.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_call_with_the_key_is_a_failed_precondition() {
    let world = World::at_most_once(answering("0")).with_config(config());
    world.send(create("k")).await;

    let other = || call("k").body(body(message("amount: 6"))).unwrap();

    let refused = (9, "KEY_REUSED", Some("-1"));
    assert_refused(&world, other, refused, (422, "key-reused")).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_is_unavailable_for_a_while() {
    let latch = Latch::new();
    let config = config()
        .with_wait(Duration::ZERO)
        .with_retry_after(Duration::from_millis(2500));
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let _first = world.start(create("k"));
    latch.reached().await;

    let answer = world.send(create("k")).await;

    answer.assert_grpc_refused(14, "IN_PROGRESS", Some("2500"));
    assert!(Refused::read(&answer).message.contains("pending"));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_lost_waits_for_its_resolution_or_may_be_repeated_by_its_promise() {
    let config = config().with_max_execution(Duration::from_secs(1));
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch)).with_config(config.clone());
    let answer = world.send(create("k")).await;
    answer.assert_grpc_refused(14, "OUTCOME_UNKNOWN", Some("1000"));

    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let answer = world.send(create("k")).await;
    answer.assert_grpc_refused(9, "OUTCOME_UNKNOWN", Some("-1"));
    let answer = world.send(create("k")).await;
    answer.assert_grpc_refused(9, "OUTCOME_UNKNOWN", Some("-1"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_not_kept_tells_its_location() {
    let world = World::at_most_once(Handler::answering(|| {
        let mut response = answered("123456789", trailers("0"));
        let headers = response.headers_mut();
        headers.insert("location", "/charges/1".parse().unwrap());
        response
    }))
    .with_config(config().with_response_limit(8));
    world.send(create("k")).await;

    let answer = world.send(create("k")).await;

    answer.assert_grpc_refused(9, "RESPONSE_NOT_RETAINED", Some("-1"));
    let metadata = Refused::read(&answer).metadata;
    assert!(!metadata.contains_key("original-status"), "it is HTTP's");
    assert_eq!(metadata["location"], "/charges/1");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_used_is_unavailable() {
    let world = World::at_most_once(answering("0")).with_config(config());
    let refused = (14, "STORE_UNAVAILABLE", Some("1000"));

    let _ = world.faults.on(Method::Begin).fail_unsent(FOREVER);
    assert_refused(&world, || create("k"), refused, (503, "store-unavailable")).await;

    world.faults.heal();
    let _ = world.faults.on(Method::Begin).misconfigure(FOREVER);
    let refused = (9, "STORE_UNAVAILABLE", Some("-1"));
    assert_refused(&world, || create("k"), refused, (503, "store-unavailable")).await;

    world.faults.heal();
    let _ = world.faults.on(Method::Begin).refuse(FOREVER);
    let refused = (14, "OVERLOADED", Some("1000"));
    assert_refused(&world, || create("k"), refused, (503, "overloaded")).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_slot_is_unavailable() {
    let latch = Latch::new();
    let world =
        World::at_most_once(Handler::held(&latch)).with_config(config().with_max_running(1));
    let _first = world.start(create("another"));
    latch.reached().await;

    let refused = (14, "OVERLOADED", Some("1000"));
    assert_refused(&world, || create("k"), refused, (503, "overloaded")).await;
}

/// The default coverage is that of HTTP, and a gRPC call is a POST.
#[tokio::test(start_paused = true)]
async fn a_call_is_refused_in_its_form_whatever_is_covered() {
    let world = World::at_most_once(Handler::counting());
    let keyless = || keyless_call().body(body(message("amount: 5"))).unwrap();

    assert_refused(
        &world,
        keyless,
        (3, "MISSING_KEY", Some("-1")),
        (400, "missing-key"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_web_is_refused_as_http() {
    let world = World::at_most_once(Handler::counting());
    let mut request = keyless_call().body(body("")).unwrap();
    let content_type = "application/grpc-web+proto".parse().unwrap();
    request.headers_mut().insert("content-type", content_type);

    world.send(request).await.assert_refused(400, "missing-key");
}

#[tokio::test(start_paused = true)]
async fn the_refusal_hook_sees_the_form_of_grpc_and_its_cause() {
    let world = World::at_most_once(Handler::new(|call| async move { Ok(created(call.number)) }))
        .with_config(config())
        .with(|layer| {
            layer.with_refusal(|mut response| {
                let problem = response
                    .extensions()
                    .get::<steadfast_http::problem::Problem>();
                assert_eq!(problem.unwrap().code().as_str(), "missing-key");
                assert_eq!(response.headers()["grpc-status"], "3");
                *response.status_mut() = StatusCode::IM_A_TEAPOT;
                response
            })
        });

    let keyless = keyless_call().body(body(message("amount: 5"))).unwrap();

    assert_eq!(world.send(keyless).await.status, StatusCode::IM_A_TEAPOT);
}
