//! idempotency I8: a duplicate of an operation that this process or another executes: how long it waits, and for what.

use std::{panic::resume_unwind, time::Duration};

use steadfast_http::Deadline;
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, scope};
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt};

use crate::support::{
    Answer, Handler, Latch, Meter, Rival, World, body, charge, created, eventually, keyed,
};

const WAIT: Duration = IdempotencyConfig::DEFAULT_WAIT;
const MOMENT: Duration = Duration::from_millis(2);

/// Waits for another process that end within so much of each other share their last look.
const SLACK: Duration = Duration::from_millis(10);

fn assert_pending(answer: &Answer) {
    answer.assert_refused(409, "in-progress");
    answer.assert_retryable(true);
    answer.assert_retry_after("1");
    assert!(answer.text().contains("pending"));
}

/// An operation that runs until the latch is open.
struct Scene {
    latch: Latch,
    first: JoinHandle<Answer>,
    /// Where the duplicates come to.
    world: World,
}

impl Scene {
    /// It runs in the process to which the duplicates come.
    async fn here(config: &IdempotencyConfig) -> Self {
        let latch = Latch::new();
        let world = World::at_most_once(Handler::held(&latch)).with_config(config.clone());
        let first = world.start(charge("k"));
        latch.reached().await;
        Self {
            latch,
            first,
            world,
        }
    }

    async fn elsewhere(config: &IdempotencyConfig) -> Self {
        let here = Self::here(config).await;
        let world = here.world.elsewhere();
        Self { world, ..here }
    }

    async fn both(config: IdempotencyConfig) -> [Self; 2] {
        [Self::here(&config).await, Self::elsewhere(&config).await]
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_another_process_waits_and_gets_the_answer() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;
        let elsewhere = world.elsewhere();
        let duplicates: Vec<_> = (0..3).map(|_| elsewhere.start(charge("k"))).collect();
        elsewhere.called(Method::LookUp, 2).await;

        latch.open();

        first.await.unwrap().assert_executed("charge 1");
        for duplicate in duplicates {
            let answer = duplicate.await.unwrap();
            answer.assert_replayed("charge 1");
            assert_eq!(answer.status, 201);
        }
        assert_eq!(world.handler.started(), 1);
        assert_eq!(elsewhere.writes(), 1, "one of them asked for the claim");
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_refused_once_it_has_waited_and_not_before() {
    for scene in Scene::both(IdempotencyConfig::default()).await {
        let begun = Instant::now();

        assert_pending(&scene.world.send(charge("k")).await);

        let waited = begun.elapsed();
        assert!(waited + SLACK >= WAIT, "it waited only {waited:?}");
        assert!(waited <= WAIT + MOMENT, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_just_before_the_wait_is_over_is_given() {
    for scene in Scene::both(IdempotencyConfig::default()).await {
        let duplicates: Vec<_> = (0..8).map(|_| scene.world.start(charge("k"))).collect();

        sleep(WAIT - MOMENT * 10).await;
        scene.latch.open();

        scene.first.await.unwrap().assert_executed("charge 1");
        for duplicate in duplicates {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_wait_a_duplicate_is_refused_at_once() {
    let config = IdempotencyConfig::default()
        .with_wait(Duration::ZERO)
        .with_retry_after(Duration::from_millis(2500));
    for scene in Scene::both(config).await {
        let begun = Instant::now();

        let answer = scene.world.send(charge("k")).await;

        answer.assert_refused(409, "in-progress");
        answer.assert_retry_after("3");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(scene.world.faults.calls(Method::LookUp), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shortens_the_wait_and_does_not_lengthen_it() {
    for scene in Scene::both(IdempotencyConfig::default()).await {
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

            assert_pending(&scene.world.send(duplicate).await);

            let waited = begun.elapsed();
            assert!(waited + SLACK >= longest, "{waited:?}");
            assert!(waited <= longest + MOMENT, "{waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_waiter_too_many_is_refused_at_once() {
    let meter = Meter::start();
    let config = IdempotencyConfig::default().with_max_waiting(2);
    for scene in Scene::both(config).await {
        let waiting: Vec<_> = (0..2).map(|_| scene.world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 2.0).await;
        let begun = Instant::now();

        assert_pending(&scene.world.send(charge("k")).await);

        assert_eq!(begun.elapsed(), Duration::ZERO);
        scene.latch.open();
        for duplicate in waiting {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_waiter_of_a_key_too_many_is_refused_at_once_and_another_key_has_its_own_places() {
    let meter = Meter::start();
    let config = IdempotencyConfig::default().with_max_waiting_per_key(2);
    for scene in Scene::both(config).await {
        let world = &scene.world;
        let waiting: Vec<_> = (0..2).map(|_| world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 2.0).await;

        assert_pending(&world.send(charge("k")).await);

        // The handler of another key is held by the same latch.
        let _another = world.start(charge("another"));
        eventually("both run", || world.handler.running() == 2).await;
        let duplicates: Vec<_> = (0..2).map(|_| world.start(charge("another"))).collect();
        eventually("they wait too", || meter.waiting() == 4.0).await;
        assert_pending(&world.send(charge("another")).await);
        scene.latch.open();
        for duplicate in waiting {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
        for duplicate in duplicates {
            duplicate.await.unwrap().assert_replayed("charge 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_gives_its_place_to_another() {
    let meter = Meter::start();
    let config = IdempotencyConfig::default().with_max_waiting_per_key(2);
    for scene in Scene::both(config).await {
        let world = &scene.world;
        let waiting: Vec<_> = (0..2).map(|_| world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 2.0).await;
        for duplicate in waiting {
            duplicate.abort();
            assert!(duplicate.await.unwrap_err().is_cancelled());
        }

        let waiting: Vec<_> = (0..2).map(|_| world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 2.0).await;
        assert_pending(&world.send(charge("k")).await);

        scene.latch.open();
        for duplicate in waiting {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_holds_no_slot() {
    let meter = Meter::start();
    let config = IdempotencyConfig::default().with_max_running(1);
    // The only slot is the execution's own.
    for (busy, scene) in [1, 0].into_iter().zip(Scene::both(config).await) {
        let waiting: Vec<_> = (0..5).map(|_| scene.world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 5.0).await;

        assert_eq!(scene.world.handle.running(), busy);

        scene.latch.open();
        for duplicate in waiting {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_does_not_take_the_others_with_it() {
    let meter = Meter::start();
    for scene in Scene::both(IdempotencyConfig::default()).await {
        let looks = scene.world.faults.calls(Method::LookUp);
        let mut waiting: Vec<_> = (0..3).map(|_| scene.world.start(charge("k"))).collect();
        eventually("they wait", || meter.waiting() == 3.0).await;

        // The first of them is the one that asks for the others, where somebody must ask.
        let gone = waiting.remove(0);
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        scene.latch.open();

        for duplicate in waiting {
            duplicate.await.unwrap().assert_replayed("charge 1");
        }
        assert!(scene.world.faults.calls(Method::LookUp) < looks + 10);
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
        let elsewhere = world.elsewhere();
        let second = elsewhere.start(charge("k"));
        elsewhere.called(Method::LookUp, 1).await;

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
    let elsewhere = world.elsewhere();
    let waiting: Vec<_> = (0..5).map(|_| elsewhere.start(charge("k"))).collect();
    elsewhere.called(Method::LookUp, 1).await;

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
            let elsewhere = world.elsewhere();
            let second = elsewhere.start(charge("k"));
            elsewhere.called(Method::LookUp, 1).await;

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
    let elsewhere = world.elsewhere();
    let second = elsewhere.start(charge("k"));
    elsewhere.called(Method::LookUp, 1).await;

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
