//! idempotency I7: renewals, and the loss of a claim.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};

use crate::support::{
    Answer, Handler, Latch, Rival, World, charge, created, eventually, poll_once, soon,
};

const LEASE: Duration = IdempotencyConfig::DEFAULT_LEASE;
const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);

fn short_lease() -> IdempotencyConfig {
    IdempotencyConfig::default().with_lease(SECOND)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_at_a_third_of_its_length() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let begun = Instant::now();
    let first = world.start(charge("k"));
    latch.reached().await;

    for renewals in 1..=12 {
        let due = begun + LEASE / 3 * renewals;
        sleep_until(due - MOMENT).await;
        assert_eq!(world.faults.calls(Method::Renew), u64::from(renewals) - 1);
        sleep_until(due + MOMENT).await;
        assert_eq!(world.faults.calls(Method::Renew), u64::from(renewals));
    }

    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    world.assert_idle().await;
    let renewals = world.faults.calls(Method::Renew);
    sleep(LEASE * 3).await;
    assert_eq!(world.faults.calls(Method::Renew), renewals);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_its_caller_does_not_poll() {
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch));
    let mut service = world.service();
    let mut response = pin!(service.ready().await.unwrap().call(charge("k")));
    assert!(poll_once(response.as_mut()).await.is_pending());

    sleep(LEASE * 4).await;

    let duplicate = world.send(charge("k")).await;
    duplicate.assert_refused(409, "in-progress");
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_or_loses_its_answer_is_sent_again_within_the_lease() {
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch));
    let _ = world
        .faults
        .on(Method::Renew)
        .lose_acknowledgement(2)
        .lose_request(2)
        .fail_unsent(2);
    let first = world.start(charge("k"));
    latch.reached().await;

    sleep(LEASE * 2).await;
    assert!(world.faults.calls(Method::Renew) > 6);
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_renewal_cancels_the_handler_and_its_client_gets_the_other_owners_answer() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;

        Rival::usurp(&world).await.complete().await;

        first.await.unwrap().assert_replayed("rival");
        assert_eq!(world.handler.running(), 0);
        assert_eq!(world.handler.finished(), 0);
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_claim_was_lost_waits_for_the_other_owner() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let rival = Rival::usurp(&world).await;

    eventually("the handler is cancelled", || world.handler.running() == 0).await;
    sleep(SECOND).await;
    rival.complete().await;

    first.await.unwrap().assert_replayed("rival");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_claim_was_lost_learns_that_the_other_owner_is_at_work() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let _rival = Rival::usurp(&world).await;

    first.await.unwrap().assert_refused(409, "in-progress");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_record_is_gone_does_not_learn_an_outcome() {
    for (promise, status) in [
        (World::at_most_once as fn(Handler) -> World, 409),
        (World::at_least_once, 503),
    ] {
        let latch = Latch::new();
        let world = promise(Handler::held(&latch));
        let first = world.start(charge("k"));
        latch.reached().await;

        Rival::erase(&world).await;

        let answer = first.await.unwrap();
        answer.assert_refused(status, "outcome-unknown");
        assert_eq!(world.handler.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_lost_its_claim_is_not_polled_again() {
    let latch = Latch::new();
    let charged = Arc::new(AtomicBool::new(false));
    let handler = {
        let (latch, charged) = (latch.clone(), Arc::clone(&charged));
        Handler::new(move |call| {
            let (latch, charged) = (latch.clone(), Arc::clone(&charged));
            async move {
                latch.pass().await;
                charged.store(true, Ordering::Relaxed);
                Ok(created(call.number))
            }
        })
    };
    let world = World::at_least_once(handler);
    let mut service = world.service();
    let mut response = pin!(service.ready().await.unwrap().call(charge("k")));
    assert!(poll_once(response.as_mut()).await.is_pending());

    Rival::usurp(&world).await.complete().await;
    sleep(LEASE / 2).await;
    assert_eq!(world.faults.answers(Method::Renew), 1);
    latch.open();
    let _ = response.await.unwrap();

    assert!(
        !charged.load(Ordering::Relaxed),
        "the handler went on although its renewal was fenced"
    );
}

#[tokio::test(start_paused = true)]
async fn at_least_once_cancels_a_handler_a_lease_after_the_last_acknowledgement() {
    let world = World::at_least_once(Handler::held(&Latch::new())).with_config(short_lease());
    let _ = world.faults.on(Method::Renew).pass(1).fail_unsent(FOREVER);
    let begun = Instant::now();

    let answer = world.send(charge("k")).await;

    let renewed = SECOND / 3;
    let lasted = begun.elapsed();
    answer.assert_refused(503, "store-unavailable");
    answer.assert_retryable(true);
    answer.assert_retry_after("1");
    assert!(lasted >= renewed + SECOND - MOMENT, "{lasted:?}");
    assert!(lasted <= renewed + SECOND + MOMENT, "{lasted:?}");
    assert_eq!(world.handler.finished(), 0);
    world.assert_idle().await;
}

#[tokio::test(start_paused = true)]
async fn at_least_once_cancels_a_handler_in_time_while_a_renewal_hangs() {
    let world = World::at_least_once(Handler::held(&Latch::new())).with_config(short_lease());
    let _gate = world.faults.on(Method::Renew).hold_before(FOREVER);
    let begun = Instant::now();

    let answer = world.send(charge("k")).await;

    answer.assert_refused(503, "store-unavailable");
    let lasted = begun.elapsed();
    assert!(lasted >= SECOND - MOMENT, "{lasted:?}");
    assert!(lasted <= SECOND + MOMENT, "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn at_least_once_never_runs_two_handlers_at_once_when_renewals_fail() {
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch))
        .with_config(short_lease().with_wait(Duration::ZERO));
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let first = world.start(charge("k"));
    latch.reached().await;

    let mut retries = Vec::new();
    while world.handler.started() < 2 {
        retries.push(world.start(charge("k")));
        sleep(MOMENT).await;
        assert!(world.handler.running() <= 1, "two run at once");
    }

    assert_eq!(first.await.unwrap().status, 503);
    latch.open();
    let last = retries.pop().unwrap().await.unwrap();
    last.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn at_most_once_goes_on_without_acknowledgements() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(short_lease());
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let first = world.start(charge("k"));
    latch.reached().await;

    sleep(SECOND * 5).await;
    // Idempotency I12: an owner that was merely slow may complete its own indeterminate record.
    world
        .elsewhere()
        .send(charge("k"))
        .await
        .assert_refused(409, "outcome-unknown");
    latch.open();

    first.await.unwrap().assert_executed("charge 1");
    world.send(charge("k")).await.assert_replayed("charge 1");
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_revives_the_owners_own_indeterminate_record() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(short_lease());
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let first = world.start(charge("k"));
    latch.reached().await;
    sleep(SECOND * 2).await;
    let elsewhere = world.elsewhere();
    elsewhere
        .send(charge("k"))
        .await
        .assert_refused(409, "outcome-unknown");

    world.faults.heal();
    sleep(SECOND).await;

    assert_eq!(world.incident().await, None);
    elsewhere
        .send(charge("k"))
        .await
        .assert_refused(409, "in-progress");
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_completion_goes_on_past_a_lease_that_cannot_be_renewed() {
    for promise in [World::at_most_once, World::at_least_once] {
        let config = short_lease().with_completion_wait(SECOND * 30);
        let world = promise(Handler::counting()).with_config(config);
        let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
        let _ = world.faults.on(Method::Complete).delay(1, SECOND * 5);

        world.send(charge("k")).await.assert_executed("charge 1");

        world.send(charge("k")).await.assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn at_least_once_starts_nothing_on_a_claim_acknowledged_after_its_lease() {
    let latch = Latch::new();
    let world = World::at_least_once(Handler::held(&latch)).with_config(short_lease());
    let gate = world.faults.on(Method::Begin).hold_after(1);
    let first = world.start(charge("k"));
    soon(gate.reached()).await;

    sleep(SECOND * 2).await;
    let second = world.start(charge("k"));
    latch.reached().await;
    assert_eq!(world.handler.operation().execution(), 2);
    gate.open();
    sleep(SECOND / 2).await;

    assert_eq!(world.handler.started(), 1, "the first was taken over");
    latch.open();
    second.await.unwrap().assert_executed("charge 1");
    first.await.unwrap().assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn at_least_once_starts_on_a_late_claim_that_a_renewal_confirms() {
    let world = World::at_least_once(Handler::counting()).with_config(short_lease());
    let _ = world.faults.on(Method::Begin).delay(1, SECOND * 2);

    // Nobody took it over meanwhile.
    world.send(charge("k")).await.assert_executed("charge 1");
}

/// The operator saw that nothing had happened, and released the operation; another request runs it.
#[tokio::test(start_paused = true)]
async fn at_most_once_starts_nothing_on_a_late_claim_whose_operation_was_resolved() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(short_lease());
    let gate = world.faults.on(Method::Begin).hold_after(1);
    let first = world.start(charge("k"));
    soon(gate.reached()).await;
    sleep(SECOND * 2).await;
    let incident = &world.handle.list_indeterminate(1).await.unwrap()[0];
    let resolved = world.handle.resolve_released(&incident.into()).await;
    assert_eq!(resolved.unwrap(), steadfast_store::Transition::Applied);
    let second = world.start(charge("k"));
    latch.reached().await;

    gate.open();
    sleep(SECOND / 2).await;

    assert_eq!(world.handler.started(), 1);
    latch.open();
    second.await.unwrap().assert_executed("charge 1");
    first.await.unwrap().assert_replayed("charge 1");
}

/// The inner service became ready long after the lease was over.
#[tokio::test(start_paused = true)]
async fn at_most_once_starts_nothing_on_a_claim_that_was_resolved_while_it_waited_for_readiness() {
    let world = World::at_most_once(Handler::counting()).with_config(short_lease());
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);
    let mut service = world.layer.layer(limit.clone());
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let mut response = pin!(service.ready().await.unwrap().call(charge("k")));
    let mut permit = limit.clone();
    permit.ready().await.unwrap();
    assert!(poll_once(response.as_mut()).await.is_pending());

    sleep(SECOND * 2).await;
    let incident = &world.handle.list_indeterminate(1).await.unwrap()[0];
    let resolved = world.handle.resolve_released(&incident.into()).await;
    assert_eq!(resolved.unwrap(), steadfast_store::Transition::Applied);
    world.faults.heal();
    drop(permit);

    // Nothing ran, and the key is free.
    let answer = Answer::read(response.await.unwrap()).await;
    answer.assert_refused(503, "overloaded");
    answer.assert_retryable(true);
    assert_eq!(world.handler.started(), 0);
    world.send(charge("k")).await.assert_executed("charge 1");
}
