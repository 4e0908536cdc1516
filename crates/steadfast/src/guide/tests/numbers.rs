//! The numbers of the page on tuning.

use std::time::Duration;

use crate::{
    circuit_breaker::BreakerConfig,
    core::{backoff::Sample, retry::Rules},
    idempotency::IdempotencyConfig,
    retry::{Backoff, Budget, RetryConfig},
};

#[test]
fn the_budgets_of_the_example_grant_what_the_page_computes() {
    assert_eq!(granted(&Budget::default(), 50), 200);
    assert_eq!(granted(&Budget::ratio(0.05, 1).unwrap(), 50), 35);

    // At night: five calls in ten seconds.
    let night = Budget::ratio(0.05, 1).unwrap();
    let start = tokio::time::Instant::now().into_std();
    (0..5).for_each(|call| night.deposit(start + seconds(2 * call)));
    assert_eq!(
        std::iter::from_fn(|| night.withdraw(start + seconds(9))).count(),
        10
    );
}

/// Retries at the end of ten seconds with so many calls in each.
fn granted(budget: &Budget, a_second: u32) -> usize {
    let start = tokio::time::Instant::now().into_std();
    for second in 0..10 {
        (0..a_second).for_each(|_| budget.deposit(start + seconds(second)));
    }
    std::iter::from_fn(|| budget.withdraw(start + seconds(9))).count()
}

#[test]
fn the_waits_of_the_example_are_as_long_as_the_page_says() {
    let backoff = Backoff::default();
    let most = |retry, throttled| {
        let sample = Sample::new(u64::MAX);
        backoff.delay(retry, Duration::ZERO, throttled, sample)
    };

    assert_eq!((most(1, false), most(2, false)), (ms(50), ms(100)));
    assert_eq!((most(1, true), most(2, true)), (seconds(1), seconds(2)));
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_retry_layer() {
    type R = RetryConfig;

    assert_eq!(Rules::DEFAULT_MAX_ATTEMPTS, 3);
    assert_eq!((Budget::DEFAULT_RATIO, Budget::DEFAULT_FLOOR), (0.2, 10));
    assert_eq!(R::DEFAULT_PATIENCE, seconds(30));
    assert_eq!(
        (R::DEFAULT_REPLAY_LIMIT, R::DEFAULT_REPLAY_POOL),
        (64 << 10, 16 << 20)
    );
    assert_eq!(Backoff::DEFAULT_CAP, seconds(10));
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_breaker() {
    type B = BreakerConfig;

    assert_eq!(B::DEFAULT_CONSECUTIVE_FAILURES, 5);
    assert_eq!(
        (B::DEFAULT_FAILURE_RATE, B::DEFAULT_MINIMUM_CALLS),
        (0.5, 20)
    );
    assert_eq!(B::DEFAULT_WINDOW, seconds(30));
    assert_eq!(B::DEFAULT_OPEN_FOR, seconds(30));
    assert_eq!(B::DEFAULT_HALF_OPEN_LIMIT, seconds(30));
    assert_eq!(B::DEFAULT_PROBES_AT_A_TIME, 1);
    assert_eq!(B::DEFAULT_PROBE_SUCCESSES, 3);
    assert_eq!(B::DEFAULT_JITTER, 0.1);
    assert_eq!(B::DEFAULT_LEAST_WAIT, ms(100));
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_idempotency_layer() {
    type I = IdempotencyConfig;

    assert_eq!(I::DEFAULT_LEASE, seconds(30));
    assert_eq!(I::DEFAULT_MAX_EXECUTION, seconds(600));
    assert_eq!(I::DEFAULT_RETENTION, seconds(86_400));
    assert_eq!(I::DEFAULT_WAIT, seconds(2));
    assert_eq!(I::DEFAULT_COMPLETION_WAIT, seconds(2));
    assert_eq!(I::DEFAULT_CAPTURE_TIMEOUT, seconds(10));
    assert_eq!(I::DEFAULT_BODY_LIMIT, 1 << 20);
    assert_eq!(I::DEFAULT_RESPONSE_LIMIT, 1 << 20);
    assert_eq!(I::DEFAULT_BODY_POOL, 64 << 20);
    assert_eq!(I::DEFAULT_MAX_RUNNING, 1024);
    assert_eq!(I::DEFAULT_MAX_WAITING, 1024);
    assert_eq!(I::DEFAULT_MAX_WAITING_PER_KEY, 16);
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}
