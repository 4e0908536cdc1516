//! idempotency I7: what bounds a run.

use std::{pin::pin, time::Duration};

use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::support::{Handler, Latch, World, charge, poll_once};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);

fn short_lease() -> IdempotencyConfig {
    IdempotencyConfig::default().with_lease(SECOND)
}

#[tokio::test(start_paused = true)]
async fn max_execution_cancels_a_handler_and_abandons_its_record() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let config = short_lease().with_max_execution(SECOND * 5);
        let world = promise(Handler::held(&latch)).with_config(config);
        let begun = Instant::now();

        let answer = world.send(charge("k")).await;

        let lasted = begun.elapsed();
        assert!(lasted >= SECOND * 5 && lasted <= SECOND * 5 + MOMENT);
        assert_eq!(world.handler.running(), 0);
        assert_eq!(world.handler.finished(), 0);
        assert_eq!(world.faults.answers(Method::Abandon), 1);
        world.assert_idle().await;

        latch.open();
        let retry = world.send(charge("k")).await;
        if world.is_at_most_once() {
            answer.assert_refused(409, "outcome-unknown");
            answer.assert_retryable(false);
            retry.assert_refused(409, "outcome-unknown");
        } else {
            answer.assert_refused(503, "outcome-unknown");
            answer.assert_retryable(true);
            answer.assert_retry_after("1");
            retry.assert_executed("charge 2");
            assert_eq!(world.handler.operation().execution(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn max_execution_bounds_a_run_without_its_caller() {
    let latch = Latch::new();
    let config = short_lease().with_max_execution(SECOND * 5);
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let first = world.start(charge("k"));
    latch.reached().await;

    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    sleep(SECOND * 5).await;

    world.assert_idle().await;
    world.assert_indeterminate().await;
}

#[tokio::test(start_paused = true)]
async fn max_execution_bounds_a_run_whose_caller_does_not_poll() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let config = short_lease().with_max_execution(SECOND * 5);
        let world = promise(Handler::held(&latch)).with_config(config);
        let mut service = world.service();
        let mut response = pin!(service.ready().await.unwrap().call(charge("k")));
        assert!(poll_once(response.as_mut()).await.is_pending());

        sleep(SECOND * 7).await;

        assert!(
            world.faults.calls(Method::Renew) <= 15,
            "a lease is renewed past max execution"
        );
        latch.open();
        let retry = world.send(charge("k")).await;
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 2");
        }
    }
}
