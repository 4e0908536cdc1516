//! idempotency I1: which requests the layer applies to.

use http::Method;
use steadfast_idempotency::{
    ConfigError, IdempotencyConfig, IdempotencyLayer, KeyRequirement, Operation, scope,
};
use steadfast_store::MemoryStore;
use steadfast_testkit::faults::{FaultyStore, Method as Call};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use crate::support::{
    Answer, Handler, World, body, channel, charge, created, keyed, poll_once, request,
};

/// Answers 201 with what the layer made of the request.
fn reporting() -> Handler {
    Handler::new(|call| async move {
        let claimed = call.parts.extensions.get::<Operation>().is_some();
        let report = format!("{claimed} {:?}", call.body);
        let mut response = created(call.number);
        *response.body_mut() = body(report);
        Ok(response)
    })
}

const UNTOUCHED: &str = "false CapturedBody { kind: \"untouched\", .. }";
const CAPTURED: &str = "true CapturedBody { kind: \"captured\", .. }";

async fn assert_passes(world: &World, sent: impl Fn() -> http::request::Builder) {
    for number in 1..=2 {
        // The body never ends: whoever waits for it waits for ever.
        let (_sender, arriving) = channel();
        let mut service = world.service();
        let response = service
            .ready()
            .await
            .unwrap()
            .call(sent().body(arriving).unwrap());
        let response = poll_once(std::pin::pin!(response)).await;
        let std::task::Poll::Ready(Ok(response)) = response else {
            panic!("it did not pass through");
        };

        assert!(format!("{:?}", response.body()).contains("untouched"));
        let answer = Answer::read(response).await;
        assert_eq!(answer.text(), UNTOUCHED);
        assert_eq!(answer.header("idempotent-replayed"), None);
        assert_eq!(world.handler.started(), number);
    }
    assert_eq!(world.writes(), 0);
    assert_eq!(world.faults.calls(Call::LookUp), 0);
}

#[tokio::test(start_paused = true)]
async fn post_and_patch_are_covered() {
    for method in [Method::POST, Method::PATCH] {
        let world = World::at_most_once(reporting());
        let sent = || {
            request(method.clone(), "/charges")
                .header("idempotency-key", "k")
                .body(body("5"))
                .unwrap()
        };

        world.send(sent()).await.assert_executed(CAPTURED);
        world.send(sent()).await.assert_replayed(CAPTURED);
    }
}

#[tokio::test(start_paused = true)]
async fn other_methods_pass_through_untouched() {
    for method in [
        "GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "QUERY",
    ] {
        let world = World::at_most_once(reporting());
        let method: Method = method.parse().unwrap();

        assert_passes(&world, || {
            request(method.clone(), "/charges").header("idempotency-key", "k")
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn chosen_methods_are_covered_and_no_others() {
    let config = IdempotencyConfig::default().with_methods([Method::PUT]);
    let world = World::at_most_once(reporting()).with_config(config);

    let put = || {
        request(Method::PUT, "/charges/1")
            .header("idempotency-key", "k")
            .body(body("5"))
            .unwrap()
    };
    world.send(put()).await.assert_executed(CAPTURED);
    world.send(put()).await.assert_replayed(CAPTURED);
    let post = world.send(charge("k")).await;
    assert_eq!(post.text(), UNTOUCHED);
}

#[test]
fn methods_without_an_operation_cannot_be_chosen() {
    for method in [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ] {
        let config = IdempotencyConfig::default().with_methods([Method::POST, method.clone()]);
        let layer =
            IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared()).unwrap();

        assert_eq!(
            layer.with_config(config).unwrap_err(),
            ConfigError::Method { method }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_required() {
    let world = World::at_most_once(Handler::counting());

    let answer = world
        .send(request(Method::POST, "/charges").body(body("5")).unwrap())
        .await;

    answer.assert_refused(400, "missing-key");
    answer.assert_retryable(false);
    assert!(answer.text().contains("Idempotency-Key"));
    assert_eq!(world.handler.started(), 0);
    assert_eq!(world.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_optional_key_may_be_missing_and_may_not_be_malformed() {
    let config = IdempotencyConfig::default().with_key(KeyRequirement::Optional);
    let world = World::at_most_once(reporting()).with_config(config);

    assert_passes(&world, || request(Method::POST, "/charges")).await;

    world
        .send(charge("two words"))
        .await
        .assert_refused(400, "malformed-key");
    world.send(charge("k")).await.assert_executed(CAPTURED);
}

#[tokio::test(start_paused = true)]
async fn no_content_type_switches_the_layer_off() {
    for content_type in ["application/grpc", "application/grpc+proto", "text/plain"] {
        let world = World::at_most_once(reporting());
        let sent = || {
            keyed("k")
                .header("content-type", content_type)
                .body(body("5"))
                .unwrap()
        };

        world.send(sent()).await.assert_executed(CAPTURED);
        world.send(sent()).await.assert_replayed(CAPTURED);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_header_alone_changes_nothing() {
    let world = World::at_most_once(reporting());
    let sent = || {
        keyed("k")
            .header("connection", "upgrade")
            .header("upgrade", "h2c")
            .body(body("5"))
            .unwrap()
    };

    world.send(sent()).await.assert_executed(CAPTURED);
    world.send(sent()).await.assert_replayed(CAPTURED);
}

#[tokio::test(start_paused = true)]
async fn two_layers_on_one_path_claim_once() {
    let within = World::at_least_once(Handler::counting());
    let store = within.store.clone();
    let around = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();
    let begun = Instant::now();

    for marker in ["false", "true"] {
        let service = around.layer(within.as_inner());
        let response = service.oneshot(charge("k")).await.unwrap();
        let answer = Answer::read(response).await;
        assert_eq!(answer.text(), "charge 1");
        assert_eq!(answer.header("idempotent-replayed"), Some(marker));
    }

    assert_eq!(within.faults.calls(Call::Begin), 2);
    assert_eq!(within.faults.calls(Call::Complete), 1);
    assert_eq!(begun.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_layers_over_different_stores_both_claim() {
    let within = World::at_least_once(Handler::counting());
    let store = FaultyStore::new(MemoryStore::default());
    let faults = store.faults();
    let around = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();

    let service = around.layer(within.as_inner());
    let response = service.oneshot(charge("k")).await.unwrap();

    let answer = Answer::read(response).await;
    answer.assert_executed("charge 1");
    assert_eq!(within.faults.calls(Call::Complete), 1);
    assert_eq!(faults.calls(Call::Complete), 1);
}

#[tokio::test(start_paused = true)]
async fn two_layers_with_different_scopes_both_claim() {
    let config = IdempotencyConfig::default().with_namespace("within");
    let within = World::at_least_once(Handler::counting()).with_config(config);
    let store = within.store.clone();
    let around = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();

    let service = around.layer(within.as_inner());
    let response = service.oneshot(charge("k")).await.unwrap();

    let answer = Answer::read(response).await;
    answer.assert_executed("charge 1");
    assert_eq!(within.faults.calls(Call::Complete), 2);
}

/// A handler that sends requests of its own through a layered service, with its extensions and other keys.
#[tokio::test(start_paused = true)]
async fn another_key_under_a_claimed_operation_is_an_operation_of_its_own() {
    let world = World::at_most_once(Handler::counting());
    world
        .send(charge("batch"))
        .await
        .assert_executed("charge 1");
    let batch = world.handler.operation();
    let beneath = || {
        let mut request = charge("sub");
        request.extensions_mut().insert(batch.clone());
        request
    };

    world.send(beneath()).await.assert_executed("charge 2");
    world.send(beneath()).await.assert_replayed("charge 2");
}
