//! idempotency I4: what makes a request the same request.

use axum::extract::OriginalUri;
use http::{HeaderName, Method, Request, request::Builder};
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, scope};
use steadfast_testkit::faults::{FOREVER, Method as Call};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::support::{Answer, Body, Handler, Latch, World, body, charge, created, request};

/// A request with this content and nothing but the key besides.
fn bare(method: Method, uri: &str, content: &'static str) -> Request<Body> {
    with(Request::builder().method(method).uri(uri), content)
}

fn with(builder: Builder, content: &'static str) -> Request<Body> {
    builder
        .header("idempotency-key", "k")
        .body(body(content))
        .unwrap()
}

fn world() -> World {
    let config = IdempotencyConfig::default()
        .with_fingerprint_headers([HeaderName::from_static("api-version")]);
    World::at_most_once(Handler::counting()).with_config(config)
}

#[tokio::test(start_paused = true)]
async fn what_differs_between_two_attempts_of_a_client_makes_no_other_request() {
    let post = || {
        Request::post("/a?x=1&y=2")
            .header("content-type", "application/json; charset=utf-8")
            .header("api-version", "7")
    };
    let absolute = Request::post("https://pay.example:8443/a?x=1&y=2")
        .header("content-type", "application/json; charset=utf-8")
        .header("api-version", "7");
    let reordered = Request::post("/a?y=2&x=1")
        .header("content-type", "Application/JSON")
        .header("api-version", "7");
    let world = world();
    world
        .send(with(post(), "5"))
        .await
        .assert_executed("charge 1");

    for same in [
        post(),
        absolute,
        reordered,
        post().header("traceparent", "00-2"),
        post().header("user-agent", "another"),
    ] {
        world
            .send(with(same, "5"))
            .await
            .assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_request_asks_for_makes_it_another() {
    let world = world();
    let base = || Request::post("/a?x=1").header("api-version", "7");
    world
        .send(with(base(), "5"))
        .await
        .assert_executed("charge 1");

    let version = |uri: &str| Request::post(uri).header("api-version", "7");
    let others = [
        with(version("/a"), "5"),
        with(version("/a?x=2"), "5"),
        with(version("/a?x=1&x=1"), "5"),
        with(version("/a?x=1&y"), "5"),
        with(version("/b?x=1"), "5"),
        with(version("/A?x=1"), "5"),
        with(version("/a?x=1").method(Method::PATCH), "5"),
        with(base(), "50"),
        with(base(), ""),
        with(base().header("content-type", "text/plain"), "5"),
        with(base().header("api-version", "7"), "5"),
        with(Request::post("/a?x=1").header("api-version", "8"), "5"),
        with(Request::post("/a?x=1"), "5"),
    ];
    for (number, other) in others.into_iter().enumerate() {
        let answer = world.send(other).await;
        assert_eq!(answer.status, 422, "request {number} passed as the same");
        answer.assert_refused(422, "key-reused");
        answer.assert_retryable(false);
    }
    assert_eq!(world.handler.started(), 1);
    world
        .send(with(base(), "5"))
        .await
        .assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn the_path_is_the_one_that_the_client_sent() {
    let world = world();
    let nested = |original: &str| {
        let mut request = bare(Method::POST, "/charges", "5");
        let original = OriginalUri(original.parse().unwrap());
        request.extensions_mut().insert(original);
        request
    };

    world
        .send(nested("/v1/charges"))
        .await
        .assert_executed("charge 1");

    world
        .send(bare(Method::POST, "/v1/charges", "5"))
        .await
        .assert_replayed("charge 1");
    world
        .send(nested("/v2/charges"))
        .await
        .assert_refused(422, "key-reused");
}

#[tokio::test(start_paused = true)]
async fn a_closure_replaces_the_recipe() {
    let world = World::at_most_once(Handler::counting())
        .with(|layer| layer.with_fingerprint(|_, body| body[..1].to_vec()));

    world
        .send(bare(Method::POST, "/a", "5 first"))
        .await
        .assert_executed("charge 1");
    world
        .send(bare(Method::PATCH, "/b?x", "5 second"))
        .await
        .assert_replayed("charge 1");
    world
        .send(bare(Method::POST, "/a", "6 first"))
        .await
        .assert_refused(422, "key-reused");
}

/// The layer as it is deployed after a change of its recipe, over the same records and before the same handler.
fn redeployed(world: &World) -> World {
    world
        .elsewhere()
        .with(|layer| layer.with_fingerprint(|_, body| body.to_vec()))
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_older_recipe_is_replayed_and_compared_by_that_recipe() {
    let old = World::at_least_once(Handler::counting());
    old.send(charge("k")).await.assert_executed("charge 1");
    let new = redeployed(&old);

    new.send(charge("k")).await.assert_replayed("charge 1");

    // The new recipe would call it the same, and the stored one does not.
    let elsewhere = request(Method::POST, "/refunds")
        .header("idempotency-key", "k")
        .body(body(r#"{"amount":5}"#))
        .unwrap();
    new.send(elsewhere).await.assert_refused(422, "key-reused");
    assert_eq!(new.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recipe_that_is_not_known_any_more_is_another_request() {
    let old = World::at_least_once(Handler::counting())
        .with(|layer| layer.with_fingerprint(|_, body| body.to_vec()));
    old.send(charge("k")).await.assert_executed("charge 1");

    let new = IdempotencyLayer::at_least_once(old.store.clone(), scope::shared()).unwrap();
    let response = new.layer(old.handler.service()).oneshot(charge("k"));

    Answer::read(response.await.unwrap())
        .await
        .assert_refused(422, "key-reused");
    assert_eq!(old.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_older_recipe_waits_and_takes_over() {
    let latch = Latch::new();
    let handler = {
        let latch = latch.clone();
        Handler::new(move |call| {
            let latch = latch.clone();
            async move {
                let mut response = created(call.number);
                if call.number < 2 {
                    latch.pass().await;
                    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                }
                Ok(response)
            }
        })
    };
    let old = World::at_least_once(handler);
    let new = redeployed(&old);
    let first = old.start(charge("k"));
    latch.reached().await;

    let second = new.start(charge("k"));
    new.called(Call::LookUp, 1).await;
    latch.open();

    assert_eq!(first.await.unwrap().status, 502);
    second.await.unwrap().assert_executed("charge 2");
    assert_eq!(new.handler.operation().execution(), 2);
    old.send(charge("k")).await.assert_replayed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_of_an_older_recipe_gets_the_answer() {
    let latch = Latch::new();
    let old = World::at_least_once(Handler::held(&latch));
    let new = redeployed(&old);
    let first = old.start(charge("k"));
    latch.reached().await;

    let second = new.start(charge("k"));
    new.called(Call::LookUp, 1).await;
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    second.await.unwrap().assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_claim_by_an_older_recipe_whose_answer_was_lost_is_released_too() {
    let handler = Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        Ok(response)
    });
    let old = World::at_least_once(handler);
    assert_eq!(old.send(charge("k")).await.status, 502);
    let new = redeployed(&old);
    // Told of the conflict; then the claim stands and its answer does not come.
    let _ = new.faults.on(Call::Begin).pass(1).lose_acknowledgement(1);

    let lost = new.send(charge("k")).await;

    lost.assert_refused(503, "store-unavailable");
    assert_eq!(new.handler.started(), 1);
    new.assert_idle().await;
    new.send(charge("k")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn a_mismatch_wins_over_every_other_verdict() {
    let other = || bare(Method::POST, "/refunds", "5");

    // Running: told at once, without a wait.
    let latch = Latch::new();
    let running = World::at_most_once(Handler::held(&latch));
    let first = running.start(charge("k"));
    latch.reached().await;
    let begun = Instant::now();
    running
        .send(other())
        .await
        .assert_refused(422, "key-reused");
    assert_eq!(begun.elapsed().as_millis(), 0);

    // Its owner lost: not taken over, and not called unknown.
    first.abort();
    latch.open();
    running.assert_idle().await;
    for world in World::both(|| {
        Handler::answering(|| {
            let mut response = created(1);
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            response
        })
    }) {
        assert_eq!(world.send(charge("k")).await.status, 502);
        world.send(other()).await.assert_refused(422, "key-reused");
        assert_eq!(world.handler.started(), 1);
    }

    // Its lease over, and nobody has asked since.
    let silent = World::at_most_once(Handler::answering(|| {
        let mut response = created(1);
        *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        response
    }));
    let _ = silent.faults.on(Call::Abandon).lose_request(FOREVER);
    assert_eq!(silent.send(charge("k")).await.status, 502);
    sleep(IdempotencyConfig::DEFAULT_LEASE * 2).await;
    silent.send(other()).await.assert_refused(422, "key-reused");
}
