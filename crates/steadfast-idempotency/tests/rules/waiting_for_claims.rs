//! idempotency I8: those who wait for the claim of another request of their process: how many, and how long.

use std::time::Duration;

use http::Request;
use steadfast_http::Deadline;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{Gate, Method};
use tokio::{task::JoinHandle, time::Instant};

use crate::support::{
    Answer, Body, Crowd, Handler, Meter, World, charge, eventually,
    grpc::{self, CREATE, answered, create, trailers},
    soon,
};

const RUNNING: usize = 3;
const MOMENT: Duration = Duration::from_millis(2);

/// A request whose claim the store holds until the gate is open.
async fn claiming(world: &World, request: Request<Body>) -> (Gate, JoinHandle<Answer>) {
    let gate = world.faults.on(Method::Begin).hold_before(1);
    let first = world.start(request);
    soon(gate.reached()).await;
    (gate, first)
}

#[track_caller]
fn assert_overloaded(answer: &Answer) {
    answer.assert_refused(503, "overloaded");
    answer.assert_retryable(true);
    answer.assert_retry_after("1");
    assert!(answer.text().contains("nothing was executed"));
}

#[tokio::test(start_paused = true)]
async fn as_many_as_may_run_wait_for_a_claim_and_one_more_is_refused_at_once() {
    let meter = Meter::start();
    // They take none of the places of those who wait for an execution.
    let config = IdempotencyConfig::default()
        .with_max_running(RUNNING)
        .with_max_waiting_per_key(1);
    let world = World::at_most_once(Handler::counting()).with_config(config);
    let (gate, first) = claiming(&world, charge("k")).await;

    let crowd = Crowd::of(&world, RUNNING, || charge("k")).await;
    assert!(meter.waiting() == 3.0);
    for _ in 0..2 {
        let begun = Instant::now();
        assert_overloaded(&world.send(charge("k")).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
    assert!(meter.waiting() == 3.0);
    assert_eq!(world.faults.calls(Method::Begin), 1);

    gate.open();
    first.await.unwrap().assert_executed("charge 1");
    for answer in crowd.answers().await {
        answer.assert_replayed("charge 1");
    }
    assert!(meter.outcomes()["overloaded"] == 2.0);
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_a_claim_gives_its_place_to_another() {
    let meter = Meter::start();
    let config = IdempotencyConfig::default().with_max_running(RUNNING);
    let world = World::at_most_once(Handler::counting()).with_config(config);
    let (gate, first) = claiming(&world, charge("k")).await;

    for _ in 0..3 {
        let crowd = Crowd::of(&world, RUNNING, || charge("k")).await;
        assert_overloaded(&world.send(charge("k")).await);
        drop(crowd);
        assert!(meter.waiting() == 0.0);
    }

    gate.open();
    first.await.unwrap().assert_executed("charge 1");
}

/// The places are those of the layer: a herd of one key, whose claim hangs, leaves none for that of another.
#[tokio::test(start_paused = true)]
async fn the_places_for_a_claim_are_of_all_keys_together() {
    let config = IdempotencyConfig::default().with_max_running(2);
    let world = World::at_most_once(Handler::counting()).with_config(config);
    let (one, first) = claiming(&world, charge("k")).await;
    let (another, second) = claiming(&world, charge("l")).await;

    let crowd = Crowd::of(&world, 1, || charge("k")).await;
    let more = Crowd::of(&world, 1, || charge("l")).await;
    assert_overloaded(&world.send(charge("k")).await);
    assert_overloaded(&world.send(charge("l")).await);

    one.open();
    first.await.unwrap().assert_executed("charge 1");
    crowd.answer().await.assert_replayed("charge 1");
    let again = Crowd::of(&world, 1, || charge("l")).await;
    another.open();
    second.await.unwrap().assert_executed("charge 2");
    for crowd in [more, again] {
        crowd.answer().await.assert_replayed("charge 2");
    }
}

fn with_deadline(left: Duration) -> Request<Body> {
    let mut request = charge("k");
    let deadline = Deadline::at(Instant::now() + left);
    request.extensions_mut().insert(deadline);
    request
}

#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_the_wait_for_a_claim() {
    let meter = Meter::start();
    for wait in [Duration::ZERO, IdempotencyConfig::DEFAULT_WAIT] {
        let config = IdempotencyConfig::default().with_wait(wait);
        let world = World::at_most_once(Handler::counting()).with_config(config);
        let (gate, first) = claiming(&world, charge("k")).await;

        for left in [0, 300, 5_000].map(Duration::from_millis) {
            let begun = Instant::now();

            let answer = world.send(with_deadline(left)).await;

            answer.assert_refused(503, "store-unavailable");
            answer.assert_retryable(true);
            answer.assert_retry_after("1");
            assert!(answer.text().contains("nothing was executed for this"));
            let waited = begun.elapsed();
            assert!(waited >= left && waited <= left + MOMENT, "{waited:?}");
            assert!(meter.waiting() == 0.0);
        }

        gate.open();
        first.await.unwrap().assert_executed("charge 1");
        assert_eq!(world.faults.calls(Method::Begin), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_in_time_is_in_time_for_a_deadline_too() {
    let world = World::at_most_once(Handler::counting());
    let (gate, first) = claiming(&world, charge("k")).await;
    let waiting = world.start(with_deadline(Duration::from_millis(300)));
    tokio::time::sleep(Duration::from_millis(290)).await;

    gate.open();

    first.await.unwrap().assert_executed("charge 1");
    waiting.await.unwrap().assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_timeout_bounds_the_wait_for_a_claim() {
    let config = IdempotencyConfig::default().with_grpc_methods([CREATE]);
    let handler = Handler::answering(|| answered("charge 1", trailers("0")));
    let world = World::at_most_once(handler).with_config(config);
    let (gate, first) = claiming(&world, create("k")).await;

    for (timeout, left) in [("300m", 300), ("1S", 1_000), ("0n", 0)] {
        let left = Duration::from_millis(left);
        let begun = Instant::now();
        let mut request = create("k");
        let headers = request.headers_mut();
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        // The nearer end counts.
        let later = Deadline::at(begun + Duration::from_secs(9));
        request.extensions_mut().insert(later);

        let answer = world.send(request).await;

        answer.assert_grpc_refused(14, "STORE_UNAVAILABLE", Some("1000"));
        let waited = begun.elapsed();
        assert!(waited >= left && waited <= left + MOMENT, "{waited:?}");
    }

    gate.open();
    let first = first.await.unwrap();
    assert_eq!(first.body, grpc::message("charge 1"));
    eventually("it is idle", || world.handle.running() == 0).await;
}
