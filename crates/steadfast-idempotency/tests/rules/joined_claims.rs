//! idempotency I8: what those get who joined a request that starts no handler.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use steadfast_http::body::CapturedBody;
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, scope};
use steadfast_testkit::faults::{FaultyStore, Gate, Method};
use tower::{Layer, Service, ServiceExt};

use crate::support::{
    Answer, Body, BoxError, Crowd, Handler, Latch, Meter, St, World, charge, created, eventually,
    soon,
};

const SECOND: Duration = Duration::from_secs(1);
const COUNT: usize = 3;

/// Never ready.
#[derive(Clone)]
struct Failing;

impl Service<Request<CapturedBody<Body>>> for Failing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("it will never be ready".into()))
    }

    fn call(&mut self, _: Request<CapturedBody<Body>>) -> Self::Future {
        ready(Err("it was never ready".into()))
    }
}

/// A layer whose first claim is sent when the gate is open, and then meets the faults of this world's store.
fn late_to_claim(world: &World) -> (IdempotencyLayer<FaultyStore<St>>, Gate) {
    let slow = FaultyStore::new(world.store.clone());
    let gate = slow.faults().on(Method::Begin).hold_before(1);
    let layer = IdempotencyLayer::at_most_once(slow, scope::shared()).unwrap();
    (layer, gate)
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_refuses_who_joined_in_the_same_way_and_asks_the_store_once() {
    for in_doubt in [false, true] {
        let world = World::at_most_once(Handler::counting());
        let script = world.faults.on(Method::Begin);
        let _ = match in_doubt {
            true => script.lose_acknowledgement(1),
            false => script.fail_unsent(1),
        };
        let (layer, gate) = late_to_claim(&world);
        let service = layer.layer(world.handler.service());
        let crowd = Crowd::calling(&service, 1 + COUNT, || charge("k")).await;

        gate.open();

        for answer in crowd.answers().await {
            answer.assert_refused(503, "store-unavailable");
            answer.assert_retryable(true);
            answer.assert_retry_after("1");
        }
        assert_eq!(world.faults.calls(Method::Begin), 1);
        layer.handle().drain(SECOND * 120).await.unwrap();
        assert_eq!(world.faults.calls(Method::Release), u64::from(in_doubt));
        let retry = service.oneshot(charge("k")).await.unwrap();
        Answer::read(retry).await.assert_executed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_indeterminate_operation_refuses_who_joined_in_the_same_way() {
    let world = World::at_most_once(Handler::answering(|| {
        let mut response = created(1);
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }));
    assert_eq!(world.send(charge("k")).await.status, 500);
    let _ = world.faults.on(Method::Begin).delay(1, SECOND);

    let crowd = Crowd::of(&world, 1 + COUNT, || charge("k")).await;

    for answer in crowd.answers().await {
        answer.assert_refused(409, "outcome-unknown");
    }
    assert_eq!(world.faults.calls(Method::Begin), 2);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_refuses_who_joined_and_frees_the_operation() {
    let world = World::at_most_once(Handler::counting());
    let gate = world.faults.on(Method::Begin).hold_before(1);
    let mut failing = world.layer.layer(Failing);
    let first = tokio::spawn(async move { failing.call(charge("k")).await });
    soon(gate.reached()).await;
    let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

    gate.open();

    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "it will never be ready");
    for answer in crowd.answers().await {
        answer.assert_refused(503, "overloaded");
        answer.assert_retryable(true);
    }
    assert_eq!(world.faults.calls(Method::Begin), 1);
    world.send(charge("k")).await.assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn without_a_slot_every_request_is_refused_and_the_key_is_not_held() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_max_running(1);
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let busy = world.start(charge("another"));
    latch.reached().await;

    for _ in 0..COUNT {
        world
            .send(charge("k"))
            .await
            .assert_refused(503, "overloaded");
    }
    assert_eq!(world.faults.calls(Method::Begin), 1);

    latch.open();
    busy.await.unwrap().assert_executed("charge 1");
    world.send(charge("k")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn who_joined_a_claim_that_another_process_holds_waits_for_that_process() {
    let latch = Latch::new();
    let elsewhere = World::at_most_once(Handler::held(&latch));
    let first = elsewhere.start(charge("k"));
    latch.reached().await;
    let meter = Meter::start();
    let world = elsewhere.elsewhere();
    let _ = world.faults.on(Method::Begin).delay(1, SECOND);

    let crowd = Crowd::of(&world, 1 + COUNT, || charge("k")).await;
    let answers = tokio::spawn(crowd.answers());
    eventually("all wait", || meter.waiting() == 4.0).await;
    latch.open();

    for answer in answers.await.unwrap() {
        answer.assert_replayed("charge 1");
    }
    first.await.unwrap().assert_executed("charge 1");
    assert_eq!(world.faults.calls(Method::Begin), 1);
    meter.assert_idle();
}
