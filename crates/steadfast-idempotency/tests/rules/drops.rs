//! idempotency I6, I7: a caller leaves at any point, and the operation does not care.

use std::{future::poll_fn, panic::AssertUnwindSafe, pin::pin, task::Poll, time::Duration};

use http::{Request, Response};
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};

use crate::support::{
    Answer, Body, Crowd, Handler, Latch, World, body, channel, charge, created, eventually, keyed,
    poll_once,
};

/// Sends a request, and drops its future once `point` is reached.
async fn leave_at(world: &World, request: Request<Body>, point: impl Future<Output = ()>) {
    let mut service = world.service();
    let mut response = pin!(service.ready().await.unwrap().call(request));
    tokio::select! {
        biased;
        _ = &mut response => panic!("answered before its caller left"),
        () = point => {}
    }
}

/// Sends a request, and drops its future after so many polls. `None` if it was not answered by then.
async fn leave_after(world: &World, request: Request<Body>, polls: u32) -> Option<Answer> {
    let mut service = world.service();
    let mut response = pin!(service.ready().await.unwrap().call(request));
    let mut left = polls;
    let response = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        response.as_mut().poll(cx).map(Some)
    })
    .await?
    .unwrap();
    Some(Answer::read(response).await)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_claims_nothing() {
    for world in World::both(Handler::counting) {
        let mut service = world.service();
        drop(service.ready().await.unwrap().call(charge("k")));

        assert_eq!(world.writes(), 0);
        world.send(charge("k")).await.assert_executed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_its_body_arrives_claims_nothing() {
    let config = IdempotencyConfig::default()
        .with_body_limit(8)
        .with_body_pool(8);
    let world = World::at_most_once(Handler::counting()).with_config(config);
    let (mut sender, arriving) = channel();
    sender.send_data("12345678".into()).await.unwrap();

    leave_at(&world, keyed("k").body(arriving).unwrap(), async {
        sleep(Duration::from_secs(1)).await;
    })
    .await;

    assert_eq!(world.writes(), 0);
    assert_eq!(world.handler.started(), 0);
    let full = keyed("k").body(body("12345678")).unwrap();
    world.send(full).await.assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_the_inner_service_is_ready_has_its_operation_executed() {
    let world = World::at_most_once(Handler::counting());
    let inner = ConcurrencyLimit::new(world.handler.service(), 1);
    let mut service = world.layer.layer(inner.clone());
    {
        let mut response = pin!(service.ready().await.unwrap().call(charge("k")));
        let mut another = inner.clone();
        another.ready().await.unwrap();

        assert!(poll_once(response.as_mut()).await.is_pending());
        assert_eq!(world.handler.started(), 0);
    }

    eventually("it ran", || world.handler.finished() == 1).await;
    let response = service.ready().await.unwrap().call(charge("k")).await;
    Answer::read(response.unwrap())
        .await
        .assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_the_store_took_its_claim_has_its_operation_executed() {
    for world in World::both(Handler::counting) {
        let gate = world.faults.on(Method::Begin).hold_before(1);
        leave_at(&world, charge("k"), gate.reached()).await;
        assert_eq!(world.handler.started(), 0);

        gate.open();

        eventually("it ran", || world.handler.finished() == 1).await;
        world.send(charge("k")).await.assert_replayed("charge 1");
        assert_eq!(world.handler.started(), 1);
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_its_claim_is_acknowledged_has_its_operation_executed() {
    for world in World::both(Handler::counting) {
        let gate = world.faults.on(Method::Begin).hold_after(1);
        leave_at(&world, charge("k"), gate.reached()).await;
        assert_eq!(world.faults.drops(Method::Begin), 0);

        gate.open();

        eventually("it ran", || world.handler.finished() == 1).await;
        world.send(charge("k")).await.assert_replayed("charge 1");
        assert_eq!(world.handler.started(), 1);
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_goes_on_without_its_caller() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        leave_at(&world, charge("k"), latch.reached()).await;
        assert_eq!(world.handler.running(), 1);

        // Retries that come meanwhile wait for it, here and elsewhere.
        let here = Crowd::of(&world, 1, || charge("k")).await;
        let elsewhere = world.elsewhere();
        let there = elsewhere.start(charge("k"));
        elsewhere.called(Method::LookUp, 1).await;
        latch.open();

        here.answer().await.assert_replayed("charge 1");
        there.await.unwrap().assert_replayed("charge 1");
        assert_eq!(world.handler.started(), 1);
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_body_is_read_to_its_end_without_its_caller() {
    for promise in [World::at_most_once, World::at_least_once] {
        let (mut sender, arriving) = channel();
        let arriving = std::sync::Mutex::new(Some(arriving));
        let world = promise(Handler::answering(move || {
            Response::new(arriving.lock().unwrap().take().unwrap())
        }));
        sender.send_data("one ".into()).await.unwrap();

        leave_at(&world, charge("k"), async {
            eventually("the head is there", || world.handler.finished() == 1).await;
        })
        .await;
        sender.send_data("two".into()).await.unwrap();
        drop(sender);

        world.send(charge("k")).await.assert_replayed("one two");
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_stored_without_its_caller() {
    for after in [false, true] {
        for world in World::both(Handler::counting) {
            let script = world.faults.on(Method::Complete);
            let gate = match after {
                true => script.hold_after(1),
                false => script.hold_before(1),
            };
            leave_at(&world, charge("k"), gate.reached()).await;
            assert_eq!(world.faults.drops(Method::Complete), 0);
            assert_ne!(world.handle.running(), 0);

            gate.open();

            world.send(charge("k")).await.assert_replayed("charge 1");
            assert_eq!(world.handler.started(), 1);
            world.assert_idle().await;
        }
    }
}

/// Answers this status at its first call, and 201 later.
fn failing_first(status: u16) -> Handler {
    Handler::new(move |call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = status.try_into().unwrap();
        }
        Ok(response)
    })
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_given_up_without_its_caller() {
    for after in [false, true] {
        for world in World::both(|| failing_first(500)) {
            let script = world.faults.on(Method::Abandon);
            let gate = match after {
                true => script.hold_after(1),
                false => script.hold_before(1),
            };
            leave_at(&world, charge("k"), gate.reached()).await;
            assert_eq!(world.faults.drops(Method::Abandon), 0);

            gate.open();
            world.assert_idle().await;

            let retry = world.send(charge("k")).await;
            if world.is_at_most_once() {
                retry.assert_refused(409, "outcome-unknown");
                assert_eq!(world.handler.started(), 1);
            } else {
                retry.assert_executed("charge 2");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_released_without_its_caller() {
    for after in [false, true] {
        for world in World::both(|| failing_first(401)) {
            let script = world.faults.on(Method::Release);
            let gate = match after {
                true => script.hold_after(1),
                false => script.hold_before(1),
            };
            leave_at(&world, charge("k"), gate.reached()).await;
            assert_eq!(world.faults.drops(Method::Release), 0);

            gate.open();
            world.assert_idle().await;

            world.send(charge("k")).await.assert_executed("charge 2");
            assert_eq!(world.handler.operation().execution(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_gives_its_place_back_and_changes_nothing() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_max_waiting(1);
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let first = world.start(charge("k"));
    latch.reached().await;
    let elsewhere = world.elsewhere();

    let looked = elsewhere.called(Method::LookUp, 1);
    leave_at(&elsewhere, charge("k"), looked).await;

    let another = elsewhere.start(charge("k"));
    elsewhere.called(Method::LookUp, 2).await;
    latch.open();
    another.await.unwrap().assert_replayed("charge 1");
    first.await.unwrap().assert_executed("charge 1");
    assert_eq!(world.handler.started(), 1);
    assert_eq!(elsewhere.writes(), 2, "each asked for the claim");
    world.assert_idle().await;
    elsewhere.assert_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_leaves_while_it_asks_changes_nothing() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let elsewhere = world.elsewhere();
    let gate = elsewhere.faults.on(Method::Begin).hold_after(1);

    leave_at(&elsewhere, charge("k"), gate.reached()).await;
    gate.open();
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    world.assert_idle().await;
    elsewhere.assert_idle().await;
    assert_eq!(elsewhere.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn leaving_after_any_number_of_polls_starts_the_handler_once_at_most() {
    for status in [201, 500, 401] {
        for promise in [World::at_most_once, World::at_least_once] {
            let mut polls = 0;
            loop {
                let handler = Handler::new(move |call| async move {
                    sleep(Duration::from_millis(10)).await;
                    let mut response = created(call.number);
                    if call.number == 1 {
                        *response.status_mut() = status.try_into().unwrap();
                    }
                    Ok(response)
                });
                let world = promise(handler);
                for method in [
                    Method::Begin,
                    Method::Complete,
                    Method::Abandon,
                    Method::Release,
                ] {
                    let _ = world
                        .faults
                        .on(method)
                        .delay(FOREVER, Duration::from_millis(10));
                }

                let answered = leave_after(&world, charge("k"), polls).await;
                world.assert_idle().await;
                let started = world.handler.started();
                assert!(started <= 1, "{started} starts, left after {polls} polls");
                assert_eq!(started, world.handler.finished());

                let retry = world.send(charge("k")).await;
                match (started, status) {
                    (0, _) => assert_eq!(retry.text(), "charge 1"),
                    (_, 201) => retry.assert_replayed("charge 1"),
                    (_, 500) if world.is_at_most_once() => {
                        retry.assert_refused(409, "outcome-unknown");
                    }
                    _ => retry.assert_executed("charge 2"),
                }
                if answered.is_some() {
                    assert!(polls >= 3, "there are three calls that take their time");
                    break;
                }
                polls += 1;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_panics_beside_its_operation_does_not_end_it() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let config = IdempotencyConfig::default().with_max_running(1);
        let world = promise(Handler::held(&latch)).with_config(config);
        let mut service = world.service();
        let mut response = Box::pin(service.ready().await.unwrap().call(charge("k")));
        assert!(poll_once(response.as_mut()).await.is_pending());

        let unwound = std::panic::catch_unwind(AssertUnwindSafe(move || {
            let _response = response;
            panic!("the caller panics");
        }));
        assert!(unwound.is_err());

        assert_eq!(world.handler.running(), 1);
        latch.open();
        world.assert_idle().await;
        world.send(charge("k")).await.assert_replayed("charge 1");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[test]
fn a_runtime_that_stops_cuts_what_went_on_without_its_caller() {
    let latch = Latch::new();
    let first = runtime();
    let world = {
        let _entered = first.enter();
        let config = IdempotencyConfig::default().with_max_running(1);
        World::at_least_once(Handler::held(&latch)).with_config(config)
    };
    first.block_on(leave_at(&world, charge("k"), latch.reached()));
    assert_eq!(world.handler.running(), 1);

    drop(first);

    assert_eq!(world.handler.running(), 0);
    assert_eq!(world.handle.running(), 0);
    latch.open();
    let other = runtime().block_on(world.send(charge("another")));
    other.assert_executed("charge 2");
}

#[test]
fn a_caller_that_leaves_outside_of_a_runtime_leaves_its_claim_to_its_lease() {
    let latch = Latch::new();
    let runtime = runtime();
    let world = {
        let _entered = runtime.enter();
        let config = IdempotencyConfig::default().with_max_running(1);
        World::at_least_once(Handler::held(&latch)).with_config(config)
    };
    let mut service = world.service();
    let mut response = Box::pin(service.call(charge("k")));
    let polled = runtime.block_on(poll_once(response.as_mut()));
    assert!(polled.is_pending());
    assert_eq!(world.handler.running(), 1);

    drop(response);

    assert_eq!(world.handler.running(), 0);
    assert_eq!(world.handle.running(), 0);
    latch.open();
    let other = runtime.block_on(world.send(charge("another")));
    other.assert_executed("charge 2");
}
