//! idempotency I3: whose key it is.

use http::{HeaderValue, Method, Request, request::Parts};
use steadfast_idempotency::{
    IdempotencyConfig, IdempotencyLayer, Promise, Scope,
    scope::{self, NoPrincipal, Principal},
};
use tower::{Layer, ServiceExt};

use crate::support::{Answer, Body, Handler, World, body, charge, keyed, request};

#[derive(Clone)]
struct Account {
    id: String,
}

fn of(account: &str) -> Request<Body> {
    let mut request = charge("k");
    request.extensions_mut().insert(Account {
        id: account.to_owned(),
    });
    request
}

fn scoped(scope: impl Scope) -> World {
    World::build(Handler::counting(), Promise::AtMostOnce, |store| {
        IdempotencyLayer::at_most_once(store, scope).unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn two_principals_never_see_each_others_records() {
    let world = scoped(scope::from_extension(|account: &Account| {
        account.id.as_str()
    }));

    world.send(of("acme")).await.assert_executed("charge 1");
    world.send(of("other")).await.assert_executed("charge 2");
    world.send(of("acme")).await.assert_replayed("charge 1");
    world.send(of("other")).await.assert_replayed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn two_bearer_tokens_are_two_principals() {
    let world = scoped(scope::bearer_token());
    let with = |authorization: &str| {
        keyed("k")
            .header("authorization", authorization)
            .body(body("5"))
            .unwrap()
    };

    world
        .send(with("Bearer one"))
        .await
        .assert_executed("charge 1");
    world
        .send(with("Bearer two"))
        .await
        .assert_executed("charge 2");
    world
        .send(with("bearer one"))
        .await
        .assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn two_name_spaces_on_one_store_never_see_each_others_records() {
    let one = World::at_most_once(Handler::counting());
    let named = IdempotencyLayer::at_most_once(one.store.clone(), scope::shared())
        .unwrap()
        .with_config(IdempotencyConfig::default().with_namespace("other"))
        .unwrap();
    let default = IdempotencyLayer::at_most_once(one.store.clone(), scope::shared())
        .unwrap()
        .with_config(IdempotencyConfig::default().with_namespace("default"))
        .unwrap();

    one.send(charge("k")).await.assert_executed("charge 1");

    let other = named.layer(one.handler.service()).oneshot(charge("k"));
    Answer::read(other.await.unwrap())
        .await
        .assert_executed("charge 2");
    let same = default.layer(one.handler.service()).oneshot(charge("k"));
    Answer::read(same.await.unwrap())
        .await
        .assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn the_shared_scope_equals_no_principal() {
    let world = World::at_most_once(Handler::counting());
    world.send(charge("k")).await.assert_executed("charge 1");

    for (number, name) in [(2, ""), (3, "shared"), (4, "default")] {
        let named = move |_: &Parts| Ok(Principal::named(name));
        let layer = IdempotencyLayer::at_most_once(world.store.clone(), named).unwrap();
        let response = layer.layer(world.handler.service()).oneshot(charge("k"));

        Answer::read(response.await.unwrap())
            .await
            .assert_executed(&format!("charge {number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_scope_cannot_slide_into_each_other() {
    let world = World::at_most_once(Handler::counting());
    for (number, (namespace, principal)) in [("ab", "c"), ("a", "bc")].into_iter().enumerate() {
        let layer = IdempotencyLayer::at_most_once(world.store.clone(), move |_: &Parts| {
            Ok(Principal::named(principal))
        })
        .unwrap()
        .with_config(IdempotencyConfig::default().with_namespace(namespace))
        .unwrap();

        let response = layer.layer(world.handler.service()).oneshot(charge("k"));
        Answer::read(response.await.unwrap())
            .await
            .assert_executed(&format!("charge {}", number + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_principal_is_refused_and_nothing_is_claimed() {
    let refusals: [(World, Option<&str>); 3] = [
        (scoped(scope::bearer_token()), Some("Bearer")),
        (
            scoped(scope::from_extension(|account: &Account| {
                account.id.as_str()
            })),
            None,
        ),
        (
            scoped(|_: &Parts| {
                Err(NoPrincipal::new("sign in first")
                    .with_challenge(HeaderValue::from_static("Basic realm=\"pay\"")))
            }),
            Some("Basic realm=\"pay\""),
        ),
    ];
    for (world, challenge) in refusals {
        let answer = world.send(charge("k")).await;

        answer.assert_refused(401, "unauthorized-scope");
        answer.assert_retryable(false);
        assert_eq!(answer.header("www-authenticate"), challenge);
        assert_eq!(world.handler.started(), 0);
        assert_eq!(world.writes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_the_scope_said() {
    let world = scoped(|_: &Parts| Err(NoPrincipal::new("sign in first")));

    let answer = world.send(charge("k")).await;

    assert_eq!(answer.problem()["detail"], "sign in first");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_on_another_path_or_method_is_reused() {
    let world = World::at_most_once(Handler::counting());
    world.send(charge("k")).await.assert_executed("charge 1");

    for (method, path) in [(Method::POST, "/refunds"), (Method::PATCH, "/charges")] {
        let answer = world
            .send(
                request(method, path)
                    .header("idempotency-key", "k")
                    .body(body(r#"{"amount":5}"#))
                    .unwrap(),
            )
            .await;

        answer.assert_refused(422, "key-reused");
        answer.assert_retryable(false);
    }
    assert_eq!(world.handler.started(), 1);
    world.send(charge("k")).await.assert_replayed("charge 1");
}
