//! idempotency I8: a duplicate of an operation that runs.

use std::{panic::resume_unwind, time::Duration};

use steadfast_http::Deadline;
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, scope};
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::support::{Answer, Handler, Latch, Rival, World, body, charge, created, keyed};

const WAIT: Duration = IdempotencyConfig::DEFAULT_WAIT;
const MOMENT: Duration = Duration::from_millis(2);

fn assert_pending(answer: &Answer) {
    answer.assert_refused(409, "in-progress");
    answer.assert_retryable(true);
    answer.assert_retry_after("1");
    assert!(answer.text().contains("pending"));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_and_gets_the_answer() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;
        let duplicates: Vec<_> = (0..3).map(|_| world.start(charge("k"))).collect();
        world.called(Method::LookUp, 3).await;

        latch.open();

        first.await.unwrap().assert_executed("charge 1");
        for duplicate in duplicates {
            let answer = duplicate.await.unwrap();
            answer.assert_replayed("charge 1");
            assert_eq!(answer.status, 201);
        }
        assert_eq!(world.handler.started(), 1);
        assert_eq!(world.faults.calls(Method::Begin), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_refused_once_it_has_waited_and_not_before() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let _first = world.start(charge("k"));
    latch.reached().await;
    let begun = Instant::now();

    assert_pending(&world.send(charge("k")).await);

    let waited = begun.elapsed();
    assert!(waited >= WAIT, "it waited only {waited:?}");
    assert!(waited <= WAIT + MOMENT, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_just_before_the_wait_is_over_is_given() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let duplicates: Vec<_> = (0..8).map(|_| world.start(charge("k"))).collect();

    sleep(WAIT - MOMENT * 10).await;
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    for duplicate in duplicates {
        duplicate.await.unwrap().assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_wait_a_duplicate_is_refused_at_once() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default()
        .with_wait(Duration::ZERO)
        .with_retry_after(Duration::from_millis(2500));
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let _first = world.start(charge("k"));
    latch.reached().await;
    let begun = Instant::now();

    let answer = world.send(charge("k")).await;

    answer.assert_refused(409, "in-progress");
    answer.assert_retry_after("3");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(world.faults.calls(Method::LookUp), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shortens_the_wait_and_does_not_lengthen_it() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let _first = world.start(charge("k"));
    latch.reached().await;

    for (left, longest) in [
        (Duration::ZERO, Duration::ZERO),
        (Duration::from_millis(300), Duration::from_millis(300)),
        (WAIT * 3, WAIT),
    ] {
        let begun = Instant::now();
        let mut duplicate = charge("k");
        duplicate
            .extensions_mut()
            .insert(Deadline::at(begun + left));

        assert_pending(&world.send(duplicate).await);

        let waited = begun.elapsed();
        assert!(waited <= longest + MOMENT, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_waiter_too_many_is_refused_at_once() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_max_waiting(2);
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let _first = world.start(charge("k"));
    latch.reached().await;
    let waiting: Vec<_> = (0..2).map(|_| world.start(charge("k"))).collect();
    world.called(Method::LookUp, 2).await;
    let begun = Instant::now();

    assert_pending(&world.send(charge("k")).await);

    assert_eq!(begun.elapsed(), Duration::ZERO);
    latch.open();
    for duplicate in waiting {
        duplicate.await.unwrap().assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_holds_no_slot() {
    let latch = Latch::new();
    let handler = {
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
    };
    let config = IdempotencyConfig::default().with_max_running(2);
    let world = World::at_most_once(handler).with_config(config);
    let _first = world.start(charge("k"));
    latch.reached().await;
    let waiting: Vec<_> = (0..5).map(|_| world.start(charge("k"))).collect();
    world.called(Method::LookUp, 5).await;

    assert_eq!(world.handle.running(), 1);
    world
        .send(charge("another"))
        .await
        .assert_executed("charge 2");

    latch.open();
    for duplicate in waiting {
        duplicate.await.unwrap().assert_replayed("charge 1");
    }
}

/// Ends its first call so, once the latch is open.
fn ending(latch: &Latch, status: Option<u16>) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let latch = latch.clone();
        async move {
            let mut response = created(call.number);
            if call.number == 1 {
                latch.pass().await;
                match status {
                    None => resume_unwind(Box::new("the handler's own")),
                    Some(status) => *response.status_mut() = status.try_into().unwrap(),
                }
            }
            Ok(response)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_finds_the_record_gone_begins_again() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(ending(&latch, Some(401)));
        let first = world.start(charge("k"));
        latch.reached().await;
        let second = world.start(charge("k"));
        world.called(Method::LookUp, 1).await;

        latch.open();

        assert_eq!(first.await.unwrap().status, 401);
        second.await.unwrap().assert_executed("charge 2");
        assert_eq!(world.handler.operation().execution(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_many_waiters_begins_again_and_the_others_get_its_answer() {
    let latch = Latch::new();
    let world = World::at_most_once(ending(&latch, Some(401)));
    let _first = world.start(charge("k"));
    latch.reached().await;
    let waiting: Vec<_> = (0..5).map(|_| world.start(charge("k"))).collect();
    world.called(Method::LookUp, 5).await;

    latch.open();

    let mut executed = 0;
    for duplicate in waiting {
        let answer = duplicate.await.unwrap();
        assert_eq!(answer.text(), "charge 2");
        executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
    }
    assert_eq!(executed, 1);
    assert_eq!(world.handler.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_of_a_lost_execution_gets_what_the_promise_says() {
    for status in [None, Some(500)] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let world = promise(ending(&latch, status));
            let first = world.start(charge("k"));
            latch.reached().await;
            let second = world.start(charge("k"));
            world.called(Method::LookUp, 1).await;

            latch.open();

            match status {
                None => assert!(first.await.unwrap_err().is_panic()),
                Some(status) => assert_eq!(first.await.unwrap().status, status),
            }
            let second = second.await.unwrap();
            if world.is_at_most_once() {
                second.assert_refused(409, "outcome-unknown");
                second.assert_retryable(false);
                assert_eq!(world.handler.started(), 1);
            } else {
                second.assert_executed("charge 2");
                assert_eq!(world.handler.operation().execution(), 2);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_takes_over_when_the_lease_is_over() {
    let lease = Duration::from_secs(3);
    let config = IdempotencyConfig::default()
        .with_lease(lease)
        .with_wait(lease * 2);
    let latch = Latch::new();
    let world = World::at_least_once(ending(&latch, Some(500))).with_config(config);
    let _ = world.faults.on(Method::Abandon).lose_request(FOREVER);
    latch.open();
    assert_eq!(world.send(charge("k")).await.status, 500);
    let begun = Instant::now();

    let second = world.send(charge("k")).await;

    second.assert_executed("charge 2");
    assert_eq!(world.handler.operation().execution(), 2);
    assert!(begun.elapsed() <= lease);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_does_not_get_the_answer_of_another_request() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let _first = world.start(charge("k"));
    latch.reached().await;
    let second = world.start(charge("k"));
    world.called(Method::LookUp, 1).await;

    // The key is free for a moment, and another request takes it and is done before the waiter looks again.
    Rival::erase(&world).await;
    let other = IdempotencyLayer::at_most_once(world.store.clone(), scope::shared()).unwrap();
    let answered = other
        .layer(Handler::counting().service())
        .oneshot(keyed("k").body(body("another")).unwrap())
        .await
        .unwrap();
    assert_eq!(answered.status(), 201);

    second.await.unwrap().assert_refused(422, "key-reused");
}
