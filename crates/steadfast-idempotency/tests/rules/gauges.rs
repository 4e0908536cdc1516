//! idempotency I21: what runs, waits and goes on without a caller is counted while it does, and no longer.

use std::{panic::resume_unwind, time::Duration};

use http::StatusCode;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::sleep;

use crate::support::{Crowd, Handler, Latch, Meter, World, charge, created, eventually, soon};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_another_process_are_counted() {
    let latch = Latch::new();
    let elsewhere = World::at_most_once(Handler::held(&latch));
    let _first = elsewhere.start(charge("k"));
    latch.reached().await;
    let meter = Meter::start();
    let world = elsewhere.elsewhere();

    let waiting: Vec<_> = (0..3).map(|_| world.start(charge("k"))).collect();
    world.called(Method::LookUp, 1).await;
    assert!(meter.waiting() == 3.0);
    latch.open();
    for one in waiting {
        one.await.unwrap().assert_replayed("charge 1");
    }

    assert!(meter.outcomes()["replayed"] == 3.0);
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_run_without_its_caller_is_counted_until_it_ends() {
    for end in ["is kept", "panics", "fails", "abandons", "releases"] {
        let meter = Meter::start();
        let latch = Latch::new();
        let handler = {
            let latch = latch.clone();
            Handler::new(move |call| {
                let latch = latch.clone();
                async move {
                    latch.pass().await;
                    let mut response = created(call.number);
                    match end {
                        "panics" => resume_unwind(Box::new("the handler's own")),
                        "fails" => return Err("the handler's own".into()),
                        "abandons" => *response.status_mut() = StatusCode::BAD_GATEWAY,
                        "releases" => *response.status_mut() = StatusCode::UNAUTHORIZED,
                        _ => {}
                    }
                    Ok(response)
                }
            })
        };
        let world = World::at_most_once(handler);
        let first = world.start(charge("k"));
        latch.reached().await;
        assert!(meter.number("running") == 1.0);
        assert!(meter.number("detached_tasks") == 0.0);

        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(meter.number("running") == 1.0);
        assert!(meter.number("detached_tasks") == 1.0);

        latch.open();
        world.assert_idle().await;
        eventually("its task is gone", || meter.number("detached_tasks") == 0.0).await;
        meter.assert_idle();
        assert_eq!(meter.outcomes().len(), 1, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_in_the_background_is_counted_until_it_ends() {
    let meter = Meter::start();
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Begin).lose_acknowledgement(1);
    let gate = world.faults.on(Method::Release).hold_before(1);

    world
        .send(charge("k"))
        .await
        .assert_refused(503, "store-unavailable");
    soon(gate.reached()).await;

    assert!(meter.number("detached_tasks") == 1.0);
    assert!(meter.number("running") == 0.0);
    gate.open();
    world.assert_idle().await;
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_given_up_is_counted_until_it_is_left() {
    let meter = Meter::start();
    let world = World::at_least_once(Handler::answering(|| {
        let mut response = created(1);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }));
    let _ = world.faults.on(Method::Abandon).lose_request(FOREVER);

    assert_eq!(world.send(charge("k")).await.status, 502);

    assert!(meter.number("detached_tasks") == 1.0);
    assert!(meter.number("running") == 1.0);
    sleep(IdempotencyConfig::DEFAULT_LEASE).await;
    world.assert_idle().await;
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_is_not_running_any_more() {
    let config = IdempotencyConfig::default()
        .with_lease(SECOND)
        .with_max_execution(SECOND * 3);
    let meter = Meter::start();
    let slow = World::at_least_once(Handler::held(&Latch::new())).with_config(config.clone());
    slow.send(charge("k"))
        .await
        .assert_refused(503, "outcome-unknown");
    let lost = World::at_least_once(Handler::held(&Latch::new())).with_config(config);
    let _ = lost.faults.on(Method::Renew).fail_unsent(FOREVER);
    lost.send(charge("k"))
        .await
        .assert_refused(503, "store-unavailable");

    for world in [slow, lost] {
        world.assert_idle().await;
    }
    eventually("no task is left", || meter.number("detached_tasks") == 0.0).await;
    meter.assert_idle();
}

#[test]
fn a_runtime_that_stops_takes_what_it_ran_off_the_gauges() {
    let meter = Meter::start();
    let latch = Latch::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let world = {
        let _entered = runtime.enter();
        World::at_most_once(Handler::held(&latch))
    };
    runtime.block_on(async {
        let first = world.start(charge("k"));
        latch.reached().await;
        let _waiting = Crowd::of(&world, 2, || charge("k")).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(meter.waiting() == 2.0);
        assert!(meter.number("detached_tasks") == 1.0);
    });

    drop(runtime);

    meter.assert_idle();
}
