//! idempotency I8: callers that leave, or do not poll, while others have joined them.

use std::{pin::pin, time::Duration};

use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Crowd, Handler, Latch, Meter, World, charge, created, poll_once, soon,
};

const LEASE: Duration = IdempotencyConfig::DEFAULT_LEASE;
const PLACES: usize = IdempotencyConfig::DEFAULT_MAX_WAITING_PER_KEY;

/// How often the store was called, in the order begin, complete, look up.
fn calls(world: &World) -> [u64; 3] {
    [Method::Begin, Method::Complete, Method::LookUp].map(|method| world.faults.calls(method))
}

/// Whoever should go on with the claim does not: it is the store's to say who may, once a lease has passed.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_caller_does_not_poll_is_waited_for_no_longer_than_a_lease() {
    for world in World::both(Handler::counting) {
        let gate = world.faults.on(Method::Begin).hold_after(1);
        let mut service = world.service();
        let mut first = pin!(service.ready().await.unwrap().call(charge("k")));
        assert!(poll_once(first.as_mut()).await.is_pending());
        let begun = Instant::now();

        let joined = Crowd::of(&world, 2, || charge("k")).await;
        let answers = timeout(LEASE * 2, joined.answers()).await.unwrap();

        assert!(begun.elapsed() >= LEASE, "{:?}", begun.elapsed());
        assert!(begun.elapsed() <= LEASE + Duration::from_secs(1));
        let mut executed = 0;
        for answer in answers {
            if world.is_at_most_once() {
                answer.assert_refused(409, "outcome-unknown");
            } else {
                assert_eq!(answer.text(), "charge 1");
                executed += 1;
            }
        }
        gate.open();
        let first = Answer::read(first.await.unwrap()).await;
        if world.is_at_most_once() {
            // Nobody took its record away: a renewal revives it.
            first.assert_executed("charge 1");
        } else {
            assert_eq!(executed, 2);
            first.assert_replayed("charge 1");
        }
        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_execution_whose_caller_does_not_poll_is_joined_no_longer_than_max_execution() {
    let second = Duration::from_secs(1);
    let config = IdempotencyConfig::default()
        .with_lease(second)
        .with_max_execution(second * 5);
    for promise in [World::at_most_once, World::at_least_once] {
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
        let world = promise(handler).with_config(config.clone());
        let mut service = world.service();
        let mut first = pin!(service.ready().await.unwrap().call(charge("k")));
        assert!(poll_once(first.as_mut()).await.is_pending());

        sleep(second * 2).await;
        let begins = world.faults.calls(Method::Begin);
        world
            .send(charge("k"))
            .await
            .assert_refused(409, "in-progress");
        assert_eq!(world.faults.calls(Method::Begin), begins, "it joined");

        sleep(second * 3).await;
        let retry = world.send(charge("k")).await;
        assert!(world.faults.calls(Method::Begin) > begins);
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 2");
        }
        // The first finds its time over, and leads nobody any more.
        latch.open();
        let first = Answer::read(first.await.unwrap()).await;
        assert_ne!(first.status, 201);
        assert_eq!(
            world.handler.started(),
            if world.is_at_most_once() { 1 } else { 2 }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_joined_may_leave_at_any_point() {
    let meter = Meter::start();
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let gate = world.faults.on(Method::Begin).hold_before(1);
    let first = world.start(charge("k"));
    soon(gate.reached()).await;

    let claiming = Crowd::of(&world, PLACES * 2, || charge("k")).await;
    drop(claiming);
    gate.open();
    latch.reached().await;
    assert!(meter.waiting() == 0.0, "nobody waits any more");

    let executing = Crowd::of(&world, PLACES, || charge("k")).await;
    assert!(meter.waiting() == 16.0);
    world
        .send(charge("k"))
        .await
        .assert_refused(409, "in-progress");
    drop(executing);
    assert!(meter.waiting() == 0.0);

    let again = Crowd::of(&world, PLACES, || charge("k")).await;
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    for answer in again.answers().await {
        answer.assert_replayed("charge 1");
    }
    assert_eq!(calls(&world), [1, 1, 0]);
    world.assert_idle().await;
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_joined_is_answered_although_the_first_caller_left() {
    for claiming in [true, false] {
        let latch = Latch::new();
        let world = World::at_most_once(Handler::held(&latch));
        let gate = world.faults.on(Method::Begin).hold_before(1);
        let first = world.start(charge("k"));
        soon(gate.reached()).await;
        let joined = Crowd::of(&world, 3, || charge("k")).await;
        if !claiming {
            gate.open();
            latch.reached().await;
        }

        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.open();
        latch.open();

        for answer in joined.answers().await {
            answer.assert_replayed("charge 1");
        }
        assert_eq!(calls(&world), [1, 1, 0]);
        world.assert_idle().await;
    }
}

#[test]
fn who_joined_begins_again_when_the_first_is_cut_with_its_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let latch = Latch::new();
    let first = runtime();
    let world = {
        let _entered = first.enter();
        let config = IdempotencyConfig::default().with_lease(Duration::from_millis(200));
        World::at_least_once(Handler::held(&latch)).with_config(config)
    };
    first.block_on(async {
        let started = world.start(charge("k"));
        latch.reached().await;
        started.abort();
    });
    let second = runtime();
    let joined = second.block_on(Crowd::of(&world, 2, || charge("k")));

    drop(first);
    latch.open();

    // The claim is left to its lease, and taken over.
    let mut executed = 0;
    for answer in second.block_on(joined.answers()) {
        assert_eq!(answer.text(), "charge 2");
        executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
    }
    assert_eq!(executed, 1);
}
