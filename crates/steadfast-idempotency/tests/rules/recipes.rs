//! idempotency I4, I8, I10: a record of the standard recipe, and a layer whose recipe is the service's own.

use http::StatusCode;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::task::JoinHandle;

use crate::support::{Answer, Crowd, Handler, Latch, Rival, World, charge, created, eventually};

/// Fails the first call, and holds the later ones at the latch.
fn failing_first(latch: &Latch) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let latch = latch.clone();
        async move {
            let mut response = created(call.number);
            if call.number == 1 {
                *response.status_mut() = StatusCode::BAD_GATEWAY;
            } else {
                latch.pass().await;
            }
            Ok(response)
        }
    })
}

/// The layer as it is deployed after it got a recipe of its own, over the same records and before the same handler.
fn redeployed(world: &World) -> World {
    world
        .elsewhere()
        .with(|layer| layer.with_fingerprint(|_, body| body.to_vec()))
}

/// A takeover of a record of the standard recipe, by a layer with its own.
async fn taken_over(latch: &Latch) -> (World, JoinHandle<Answer>) {
    let old = World::at_least_once(failing_first(latch));
    assert_eq!(old.send(charge("k")).await.status, 502);
    let new = redeployed(&old);
    let retry = new.start(charge("k"));
    latch.reached().await;
    assert_eq!(new.handler.operation().execution(), 2);
    (new, retry)
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_is_superseded_gets_the_rivals_answer_by_the_recipe_of_the_record() {
    for noticed_by in [Method::Complete, Method::Renew] {
        for completed_before in [true, false] {
            let latch = Latch::new();
            let (world, retry) = taken_over(&latch).await;
            let rival = Rival::usurp(&world).await;
            if completed_before {
                rival.complete().await;
            }
            if noticed_by == Method::Complete {
                latch.open();
            }
            eventually("it noticed", || world.faults.answers(noticed_by) == 1).await;
            if !completed_before {
                world.called(Method::LookUp, 2).await;
                rival.complete().await;
            }

            let answer = retry.await.unwrap();

            answer.assert_replayed("rival");
            assert_eq!(world.handler.started(), 2);
            assert_eq!(world.faults.calls(Method::Begin), 2, "one by each recipe");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_a_takeover_that_is_superseded_get_the_rivals_answer() {
    let latch = Latch::new();
    let (world, retry) = taken_over(&latch).await;
    let crowd = Crowd::of(&world, 3, || charge("k")).await;
    Rival::usurp(&world).await.complete().await;

    latch.open();

    for answer in crowd.answers().await {
        answer.assert_replayed("rival");
    }
    retry.await.unwrap().assert_replayed("rival");
    assert_eq!(world.handler.started(), 2);
}

/// An operation that a layer of the standard recipe executes, and the layer to which its duplicates come.
async fn executed_elsewhere(latch: &Latch) -> (JoinHandle<Answer>, World) {
    let old = World::at_least_once(Handler::held(latch));
    let first = old.start(charge("k"));
    latch.reached().await;
    (first, redeployed(&old))
}

#[tokio::test(start_paused = true)]
async fn a_waiter_of_an_older_recipe_gets_the_answer_without_another_claim() {
    let latch = Latch::new();
    let (first, new) = executed_elsewhere(&latch).await;
    let waiter = new.start(charge("k"));
    new.called(Method::LookUp, 1).await;

    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    waiter.await.unwrap().assert_replayed("charge 1");
    assert_eq!(new.faults.calls(Method::Begin), 2, "one by each recipe");
    assert_eq!(new.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_a_waiter_of_an_older_recipe_get_the_answer_too() {
    let latch = Latch::new();
    let (first, new) = executed_elsewhere(&latch).await;
    let crowd = Crowd::of(&new, 4, || charge("k")).await;
    let answers = tokio::spawn(crowd.answers());
    new.called(Method::LookUp, 1).await;

    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    for answer in answers.await.unwrap() {
        answer.assert_replayed("charge 1");
    }
    assert_eq!(new.handler.started(), 1);
}

/// By its own recipe it would be the same request; the record's calls it another.
#[tokio::test(start_paused = true)]
async fn a_waiter_of_an_older_recipe_does_not_get_the_answer_of_another_request() {
    let other = || {
        let mut request = charge("k");
        *request.uri_mut() = "/refunds".parse().unwrap();
        request
    };
    let latch = Latch::new();
    let old = World::at_least_once(Handler::held(&latch)).with_config(IdempotencyConfig::default());
    let first = old.start(other());
    latch.reached().await;
    let new = redeployed(&old);

    for _ in 0..2 {
        let answer = new.send(charge("k")).await;
        answer.assert_refused(422, "key-reused");
    }

    latch.open();
    first.await.unwrap().assert_executed("charge 1");
}
