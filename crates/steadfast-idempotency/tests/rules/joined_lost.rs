//! idempotency I7, I8: an execution that lost its claim, or may have, is joined no more.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use http::Response;
use steadfast_http::body::ReplyBody;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, BoxError, Crowd, Handler, Latch, Rival, World, charge, created, eventually,
    poll_once,
};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);
const COUNT: usize = 3;

type Execution = Pin<Box<dyn Future<Output = Result<Response<ReplyBody<Body>>, BoxError>>>>;

/// Starts an execution whose caller keeps it and does not poll it again.
async fn unpolled(world: &World) -> Execution {
    let mut service = world.service();
    let response = async move { service.ready().await?.call(charge("k")).await };
    let mut response: Execution = Box::pin(response);
    assert!(poll_once(response.as_mut()).await.is_pending());
    assert_eq!(world.handler.running(), 1);
    response
}

fn begins(world: &World) -> u64 {
    world.faults.calls(Method::Begin)
}

/// Waits, in steps that are shorter than any wait, until a renewal has found the rival.
async fn fenced(world: &World) {
    eventually("a renewal is fenced", || {
        world.faults.answers(Method::Renew) == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_execution_that_lost_its_claim_gets_the_rivals_answer_at_once() {
    for promise in [World::at_most_once, World::at_least_once] {
        let config = IdempotencyConfig::default().with_lease(SECOND);
        let world = promise(Handler::held(&Latch::new())).with_config(config);
        let first = unpolled(&world).await;
        Rival::usurp(&world).await.complete().await;
        fenced(&world).await;
        let lost = Instant::now();

        for count in 1..=3 {
            world.send(charge("k")).await.assert_replayed("rival");
            assert_eq!(begins(&world), 1 + count);
        }

        assert_eq!(lost.elapsed(), Duration::ZERO);
        assert_eq!(world.faults.calls(Method::LookUp), 0);
        let first = Answer::read(first.await.unwrap()).await;
        first.assert_replayed("rival");
        assert_eq!(world.handler.finished(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_execution_that_lost_its_claim_waits_for_the_rival() {
    let config = IdempotencyConfig::default().with_lease(SECOND);
    let world = World::at_most_once(Handler::held(&Latch::new())).with_config(config);
    let first = unpolled(&world).await;
    let rival = Rival::usurp(&world).await;
    fenced(&world).await;

    let crowd = Crowd::of(&world, COUNT, || charge("k")).await;
    assert_eq!(begins(&world), 2);
    let answers = tokio::spawn(crowd.answers());
    world.called(Method::LookUp, 2).await;
    rival.complete().await;

    for answer in answers.await.unwrap() {
        answer.assert_replayed("rival");
    }
    drop(first);
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_an_execution_that_lost_its_claim_ask_the_store() {
    for promise in [World::at_most_once, World::at_least_once] {
        let config = IdempotencyConfig::default().with_lease(SECOND);
        let world = promise(Handler::held(&Latch::new())).with_config(config);
        let first = unpolled(&world).await;
        let crowd = Crowd::of(&world, COUNT, || charge("k")).await;
        let answers = tokio::spawn(crowd.answers());
        let begun = Instant::now();
        Rival::usurp(&world).await.complete().await;

        for answer in answers.await.unwrap() {
            answer.assert_replayed("rival");
        }

        let waited = begun.elapsed();
        assert!(waited <= SECOND / 3 + MOMENT, "{waited:?}");
        assert_eq!(world.faults.answers(Method::Renew), 1);
        assert!((2..=4).contains(&begins(&world)), "{}", begins(&world));
        assert_eq!(world.handler.running(), 1, "its caller has not polled it");
        drop(first);
    }
}

/// The first is held by its latch, and a later one is not.
fn first_held(latch: &Latch) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let latch = latch.clone();
        async move {
            if call.number == 1 {
                latch.pass().await;
            }
            Ok(created(call.number))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn without_acknowledged_renewals_nobody_joins_past_the_lease() {
    let config = IdempotencyConfig::default().with_lease(SECOND);
    for acknowledged in [0, 2] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let world = promise(first_held(&latch)).with_config(config.clone());
            let _ = world
                .faults
                .on(Method::Renew)
                .pass(acknowledged)
                .fail_unsent(FOREVER);
            let begun = Instant::now();
            let mut first = pin!(unpolled(&world).await);
            let stands = SECOND + SECOND / 3 * u32::try_from(acknowledged).unwrap();

            sleep(stands - MOMENT * 10).await;
            let crowd = Crowd::of(&world, COUNT, || charge("k")).await;
            assert_eq!(begins(&world), 1, "they joined");
            drop(crowd);

            sleep((begun + stands + MOMENT * 2).duration_since(Instant::now())).await;
            let duplicate = world.send(charge("k")).await;
            assert_eq!(begins(&world), 2, "it asked the store");
            if world.is_at_most_once() {
                duplicate.assert_refused(409, "outcome-unknown");
                assert_eq!(world.handler.started(), 1);
            } else {
                duplicate.assert_executed("charge 2");
                assert_eq!(world.handler.operation().execution(), 2);
            }

            latch.open();
            let first = Answer::read(first.as_mut().await.unwrap()).await;
            if world.is_at_most_once() {
                first.assert_executed("charge 1");
            } else {
                first.assert_refused(503, "store-unavailable");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_acknowledged_lets_others_join_for_another_lease() {
    let config = IdempotencyConfig::default()
        .with_lease(SECOND)
        .with_wait(Duration::ZERO);
    let latch = Latch::new();
    let world = World::at_least_once(first_held(&latch)).with_config(config);
    let _ = world.faults.on(Method::Renew).fail_unsent(3);
    let first = unpolled(&world).await;

    for _ in 0..50 {
        sleep(SECOND / 10).await;
        let duplicate = world.send(charge("k")).await;
        duplicate.assert_refused(409, "in-progress");
    }

    assert_eq!(begins(&world), 1);
    latch.open();
    let first = Answer::read(first.await.unwrap()).await;
    first.assert_executed("charge 1");
}
