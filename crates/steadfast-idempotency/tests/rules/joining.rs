//! idempotency I8: a duplicate in the same process joins the request that claims or executes the operation.

use std::time::Duration;

use http::{HeaderMap, Response};
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{Instant, sleep};
use tower::Layer;

use crate::support::{
    Crowd, Handler, Latch, Meter, World, body, charge, eventually, keyed, soon, with_trailers,
};

const MOMENT: Duration = Duration::from_millis(2);
const PLACES: usize = IdempotencyConfig::DEFAULT_MAX_WAITING_PER_KEY;

/// How often the store was called, in the order begin, complete, look up, and all other writes.
fn calls(world: &World) -> [u64; 4] {
    let [begin, complete, look_up] =
        [Method::Begin, Method::Complete, Method::LookUp].map(|method| world.faults.calls(method));
    [begin, complete, look_up, world.writes() - begin - complete]
}

#[tokio::test(start_paused = true)]
async fn a_herd_of_a_new_key_is_one_request_to_the_store() {
    for claim in [Duration::ZERO, Duration::from_millis(50)] {
        let meter = Meter::start();
        let latch = Latch::new();
        let world = World::at_most_once(Handler::held(&latch));
        let _ = world.faults.on(Method::Begin).delay(1, claim);
        let begun = Instant::now();

        let mut herd: Vec<_> = (0..1000).map(|_| world.start(charge("k"))).collect();
        soon(latch.reached()).await;
        eventually("they wait", || meter.waiting() >= 16.0).await;
        let mut refused = 0;
        let mut waiting = Vec::new();
        // The handler has not ended: who is answered now was refused at once.
        sleep(MOMENT).await;
        for one in herd.drain(..) {
            if !one.is_finished() {
                waiting.push(one);
                continue;
            }
            one.await.unwrap().assert_refused(409, "in-progress");
            refused += 1;
        }

        assert_eq!((waiting.len(), refused), (PLACES + 1, 999 - PLACES));
        assert!(begun.elapsed() <= claim + MOMENT * 10);
        latch.open();
        let mut executed = 0;
        for one in waiting {
            let answer = one.await.unwrap();
            assert_eq!(answer.text(), "charge 1");
            assert_eq!(answer.status, 201);
            assert_eq!(answer.header("idempotent-stored"), None);
            executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
        }
        assert_eq!(executed, 1);
        assert_eq!(world.handler.started(), 1);
        assert_eq!(calls(&world), [1, 1, 0, 0]);
        meter.assert_idle();
    }
}

/// Also without patience and without places: a request whose operation has its answer does not wait for it.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_in_progress_of_an_operation_that_has_its_answer() {
    let config = IdempotencyConfig::default()
        .with_wait(Duration::ZERO)
        .with_max_waiting(0)
        .with_max_waiting_per_key(0);
    for config in [IdempotencyConfig::default(), config] {
        let world = World::at_most_once(Handler::counting()).with_config(config);
        world.send(charge("k")).await.assert_executed("charge 1");
        let _ = world
            .faults
            .on(Method::Begin)
            .delay(FOREVER, Duration::from_millis(5));

        let herd: Vec<_> = (0..1000).map(|_| world.start(charge("k"))).collect();

        for one in herd {
            one.await.unwrap().assert_replayed("charge 1");
        }
        assert_eq!(calls(&world), [2, 1, 0, 0]);
        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_wait_a_duplicate_is_refused_once_the_operation_is_claimed() {
    let config = IdempotencyConfig::default().with_wait(Duration::ZERO);
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let gate = world.faults.on(Method::Begin).hold_before(1);
    let first = world.start(charge("k"));
    soon(gate.reached()).await;

    let claiming = Crowd::of(&world, 3, || charge("k")).await;
    gate.open();
    latch.reached().await;

    for answer in claiming.answers().await {
        answer.assert_refused(409, "in-progress");
    }
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    assert_eq!(calls(&world), [1, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_joined_is_given_whole_and_marked_as_a_replay_is() {
    let latch = Latch::new();
    let handler = {
        let latch = latch.clone();
        Handler::new(move |_| {
            let latch = latch.clone();
            async move {
                latch.pass().await;
                let mut trailers = HeaderMap::new();
                trailers.insert("checksum", "1".parse().unwrap());
                Ok(Response::builder()
                    .status(202)
                    .header("location", "/charges/1")
                    .header("link", "<a>")
                    .header("link", "<b>")
                    .header("set-cookie", "session=first")
                    .header("date", "Mon, 01 Jan 2024 00:00:00 GMT")
                    .header("trailer", "checksum")
                    .body(with_trailers("whole", trailers))
                    .unwrap())
            }
        })
    };
    let world = World::at_least_once(handler);
    let first = world.start(charge("k"));
    latch.reached().await;
    let joined = Crowd::of(&world, 3, || charge("k")).await;

    latch.open();

    let first = first.await.unwrap();
    assert_eq!(first.header("set-cookie"), Some("session=first"));
    let joined = joined.answers().await;
    let replayed = world.send(charge("k")).await;
    for answer in joined {
        answer.assert_replayed("whole");
        assert_eq!(answer.status, 202);
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.headers.get_all("link").iter().count(), 2);
        assert_eq!(answer.trailers, first.trailers);
        assert_eq!(
            (answer.headers, answer.trailers),
            (replayed.headers.clone(), replayed.trailers.clone())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn another_request_with_the_key_does_not_join() {
    let other = || keyed("k").body(body("another")).unwrap();
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;

    world.send(other()).await.assert_refused(422, "key-reused");

    assert_eq!(world.faults.calls(Method::Begin), 2);
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
}

/// The store judges who came first, and those who joined share its verdict.
#[tokio::test(start_paused = true)]
async fn another_request_that_overtakes_the_claim_wins_the_key() {
    let other = || keyed("k").body(body("another")).unwrap();
    let world = World::at_most_once(Handler::counting());
    let gate = world.faults.on(Method::Begin).hold_before(1);
    let first = world.start(charge("k"));
    soon(gate.reached()).await;
    let joined = Crowd::of(&world, 2, || charge("k")).await;

    world.send(other()).await.assert_executed("charge 1");
    gate.open();

    first.await.unwrap().assert_refused(422, "key-reused");
    for answer in joined.answers().await {
        answer.assert_refused(422, "key-reused");
    }
    assert_eq!(world.faults.calls(Method::Begin), 2);
}

#[tokio::test(start_paused = true)]
async fn another_operation_is_not_joined() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    let second = world.start(charge("another"));
    eventually("both run", || world.handler.running() == 2).await;

    latch.open();

    for one in [first, second] {
        let answer = one.await.unwrap();
        assert_eq!(answer.header("idempotent-replayed"), Some("false"));
    }
}

#[tokio::test(start_paused = true)]
async fn every_service_of_a_layer_and_of_its_clones_joins() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let cloned = world.layer.clone().layer(world.handler.service());

    let joined = Crowd::calling(&cloned, 2, || charge("k")).await;
    latch.open();

    for answer in joined.answers().await {
        answer.assert_replayed("charge 1");
    }
    first.await.unwrap().assert_executed("charge 1");
    assert_eq!(calls(&world), [1, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_after_the_end_asks_the_store() {
    let world = World::at_most_once(Handler::counting());

    for (begins, text) in [(1, "false"), (2, "true"), (3, "true")] {
        let answer = world.send(charge("k")).await;
        assert_eq!(answer.header("idempotent-replayed"), Some(text));
        assert_eq!(world.faults.calls(Method::Begin), begins);
    }
}
