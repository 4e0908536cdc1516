//! idempotency I15: the store fails, before anything ran and after.

use std::time::Duration;

use http::Response;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_store::StoredResponse;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{Instant, sleep};

use crate::support::{Handler, Latch, Rival, World, body, charge, created, eventually, soon};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);
const LEASE: Duration = IdempotencyConfig::DEFAULT_LEASE;

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_not_sent_is_refused_and_nothing_is_released() {
    for world in World::both(Handler::counting) {
        let _ = world.faults.on(Method::Begin).fail_unsent(1);

        let answer = world.send(charge("k")).await;

        answer.assert_refused(503, "store-unavailable");
        answer.assert_retryable(true);
        answer.assert_retry_after("1");
        assert_eq!(world.handler.started(), 0);
        world.assert_idle().await;
        assert_eq!(world.faults.calls(Method::Release), 0);
        world.send(charge("k")).await.assert_executed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_acknowledgement_was_lost_is_released_in_the_background() {
    for world in World::both(Handler::counting) {
        let _ = world.faults.on(Method::Begin).lose_acknowledgement(1);
        let gate = world.faults.on(Method::Release).hold_before(1);

        let answer = world.send(charge("k")).await;

        answer.assert_refused(503, "store-unavailable");
        answer.assert_retry_after("1");
        assert_eq!(world.handler.started(), 0);
        soon(gate.reached()).await;
        let drained = world.handle.drain(Duration::ZERO).await;
        assert!(drained.is_err(), "a drain does not wait for the release");
        world
            .send(charge("k"))
            .await
            .assert_refused(409, "in-progress");

        gate.open();
        world.assert_idle().await;
        assert_eq!(world.faults.calls(Method::Release), 1);
        world.send(charge("k")).await.assert_executed("charge 1");
        assert_eq!(world.handler.operation().execution(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_tried_again_until_it_is_acknowledged() {
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Begin).lose_acknowledgement(1);
    let _ = world.faults.on(Method::Release).lose_request(5);

    assert_eq!(world.send(charge("k")).await.status, 503);
    world.assert_idle().await;

    assert_eq!(world.faults.calls(Method::Release), 6);
    world.send(charge("k")).await.assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_may_land_late_is_sought_for_a_lease_and_no_longer() {
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Begin).lose_request(1);

    assert_eq!(world.send(charge("k")).await.status, 503);
    sleep(LEASE - SECOND * 2).await;
    assert!(world.handle.drain(Duration::ZERO).await.is_err());
    let tries = world.faults.calls(Method::Release);
    assert!(tries > 20, "{tries} releases were tried");

    sleep(SECOND * 2).await;
    assert!(world.handle.drain(Duration::ZERO).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_is_full_and_one_that_is_not_set_up_does_not_pass() {
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Begin).refuse(1).misconfigure(1);

    let full = world.send(charge("k")).await;
    full.assert_refused(503, "overloaded");
    full.assert_retryable(true);
    full.assert_retry_after("1");

    let misconfigured = world.send(charge("k")).await;
    misconfigured.assert_refused(503, "store-unavailable");
    misconfigured.assert_retryable(false);
    assert_eq!(world.handler.started(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_its_acknowledgement() {
    for world in World::both(Handler::counting) {
        let _ = world.faults.on(Method::Complete).delay(1, SECOND);
        let begun = Instant::now();

        world.send(charge("k")).await.assert_executed("charge 1");

        assert!(begun.elapsed() >= SECOND);
        assert_eq!(world.faults.calls(Method::Complete), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_sent_again_until_it_is_acknowledged() {
    for world in World::both(Handler::counting) {
        let _ = world
            .faults
            .on(Method::Complete)
            .lose_request(1)
            .misconfigure(1)
            .lose_acknowledgement(1);

        world.send(charge("k")).await.assert_executed("charge 1");

        assert_eq!(world.faults.calls(Method::Complete), 4);
        world.send(charge("k")).await.assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_acknowledged_in_time_says_so_and_is_stored_later() {
    for world in World::both(Handler::counting) {
        let _ = world.faults.on(Method::Complete).delay(1, SECOND * 5);
        let begun = Instant::now();

        let first = world.send(charge("k")).await;

        first.assert_unstored("charge 1");
        assert_eq!(first.status, 201);
        let lasted = begun.elapsed();
        assert!(lasted >= SECOND * 2 && lasted <= SECOND * 2 + MOMENT);
        assert_ne!(world.handle.running(), 0);

        sleep(SECOND * 3).await;
        world.assert_idle().await;
        world.send(charge("k")).await.assert_replayed("charge 1");
        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_an_answer_that_is_not_stored_yet_waits_for_it() {
    for world in World::both(Handler::counting) {
        let _ = world.faults.on(Method::Complete).delay(1, SECOND * 3);
        world.send(charge("k")).await.assert_unstored("charge 1");

        world.send(charge("k")).await.assert_replayed("charge 1");

        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_tried_until_max_execution() {
    for world in World::both(Handler::counting) {
        let config = IdempotencyConfig::default()
            .with_lease(SECOND * 3)
            .with_max_execution(SECOND * 60);
        let world = world.with_config(config);
        let _ = world.faults.on(Method::Complete).lose_request(FOREVER);

        world.send(charge("k")).await.assert_unstored("charge 1");
        sleep(SECOND * 50).await;
        assert_ne!(world.handle.running(), 0);
        let retry = world.send(charge("k")).await;
        retry.assert_refused(409, "in-progress");

        sleep(SECOND * 8).await;
        world.assert_idle().await;
        assert!(world.faults.calls(Method::Complete) > 30);

        // What follows is the promise's choice (idempotency I12).
        world.faults.heal();
        sleep(SECOND * 3).await;
        let retry = world.send(charge("k")).await;
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_store_refuses_is_kept_without_its_body() {
    let handler = || {
        Handler::answering(|| {
            Response::builder()
                .status(201)
                .header("location", "/charges/1")
                .body(body("whole"))
                .unwrap()
        })
    };
    for world in World::both(handler) {
        let _ = world.faults.on(Method::Complete).refuse(1);

        let first = world.send(charge("k")).await;
        first.assert_executed("whole");
        assert_eq!(first.status, 201);

        let replay = world.send(charge("k")).await;
        replay.assert_refused(409, "response-not-retained");
        replay.assert_retryable(false);
        assert_eq!(replay.problem()["original-status"], 201);
        assert_eq!(replay.problem()["location"], "/charges/1");
        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_completion_was_fenced_gets_the_other_owners_answer() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;

        Rival::usurp(&world).await.complete().await;
        latch.open();

        first.await.unwrap().assert_replayed("rival");
        assert_eq!(world.handler.finished(), 1);
        world.send(charge("k")).await.assert_replayed("rival");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_completion_was_fenced_waits_for_the_other_owner() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let rival = Rival::usurp(&world).await;
    latch.open();
    eventually("the handler is done", || world.handler.finished() == 1).await;

    sleep(SECOND).await;
    rival.complete().await;

    first.await.unwrap().assert_replayed("rival");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_record_is_gone_or_busy_gets_its_own_answer_as_unstored() {
    for erased in [true, false] {
        let latch = Latch::new();
        let world = World::at_most_once(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;
        match erased {
            true => Rival::erase(&world).await,
            false => drop(Rival::usurp(&world).await),
        }
        latch.open();

        first.await.unwrap().assert_unstored("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_wait_for_ever_for_its_claim_to_be_given_up() {
    for promise in [World::at_most_once, World::at_least_once] {
        let handler = Handler::new(|call| async move {
            let mut response = created(call.number);
            if call.number == 1 {
                *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            }
            Ok(response)
        });
        let world = promise(handler);
        let _ = world.faults.on(Method::Abandon).lose_request(FOREVER);
        let begun = Instant::now();

        let first = world.send(charge("k")).await;

        first.assert_executed("charge 1");
        assert_eq!(first.status, 502);
        let lasted = begun.elapsed();
        assert!(lasted >= SECOND * 2 && lasted <= SECOND * 2 + MOMENT);
        assert!(world.faults.calls(Method::Abandon) > 3);

        // The end of the lease says the same, later.
        let retry = world.send(charge("k")).await;
        retry.assert_refused(409, "in-progress");
        sleep(LEASE).await;
        world.assert_idle().await;
        let retry = world.send(charge("k")).await;
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_given_up_although_no_answer_waits_for_it() {
    for promise in [World::at_most_once, World::at_least_once] {
        let handler = Handler::new(|call| async move {
            let mut response = created(call.number);
            if call.number == 1 {
                *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            }
            Ok(response)
        });
        let config = IdempotencyConfig::default().with_completion_wait(Duration::ZERO);
        let world = promise(handler).with_config(config);
        let _ = world.faults.on(Method::Abandon).delay(1, MOMENT);

        assert_eq!(world.send(charge("k")).await.status, 502);
        world.assert_idle().await;

        let retry = world.send(charge("k")).await;
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_goes_on_behind_the_answer() {
    let handler = Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        }
        Ok(response)
    });
    let world = World::at_most_once(handler);
    let _ = world.faults.on(Method::Release).lose_request(3);

    let first = world.send(charge("k")).await;
    first.assert_executed("charge 1");
    assert_eq!(first.status, 401);

    world.assert_idle().await;
    assert_eq!(world.faults.calls(Method::Release), 4);
    world.send(charge("k")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_wait_for_ever_for_a_release_that_hangs() {
    let handler = Handler::answering(|| {
        let mut response = created(1);
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response
    });
    let world = World::at_most_once(handler);
    let _ = world.faults.on(Method::Release).delay(1, SECOND * 60);
    let begun = Instant::now();

    world.send(charge("k")).await.assert_executed("charge 1");

    let lasted = begun.elapsed();
    assert!(lasted <= SECOND * 2 + MOMENT, "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_outlives_look_ups_that_fail() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let elsewhere = world.elsewhere();
    let _ = elsewhere.faults.on(Method::LookUp).lose_request(2);

    let second = elsewhere.start(charge("k"));
    elsewhere.called(Method::LookUp, 2).await;
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    second.await.unwrap().assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_newer_version_is_not_executed_again() {
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let newer = StoredResponse::new(999, "from a newer version");
    Rival::usurp(&world).await.complete_with(&newer).await;
    first.abort();

    let retry = world.elsewhere().send(charge("k")).await;

    retry.assert_refused(503, "store-unavailable");
    // In mid-deploy another process can read it.
    retry.assert_retryable(true);
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_hangs_keeps_its_slot_and_the_drain_waits_for_it() {
    let world = World::at_most_once(Handler::answering(|| {
        let mut response = Response::new(body("nothing happened"));
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response
    }));
    let gate = world.faults.on(Method::Release).hold_before(1);

    let first = world.send(charge("k")).await;

    assert_eq!(first.status, 401);
    assert_eq!(world.handle.running(), 1);
    assert!(world.handle.drain(SECOND).await.is_err());
    gate.open();
    world.handle.drain(SECOND).await.unwrap();
    assert_eq!(world.handle.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_lost_before_it_is_given_up_gets_the_other_owners_answer() {
    for status in [500, 401] {
        let latch = Latch::new();
        let held = latch.clone();
        let world = World::at_least_once(Handler::new(move |call| {
            let held = held.clone();
            async move {
                held.pass().await;
                let mut response = created(call.number);
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        }));
        let first = world.start(charge("k"));
        latch.reached().await;
        Rival::usurp(&world).await.complete().await;

        latch.open();

        first.await.unwrap().assert_replayed("rival");
    }
}
