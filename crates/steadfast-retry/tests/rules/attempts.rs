//! retry R1.

use std::time::Duration;

use http::StatusCode;
use steadfast_retry::{RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tower::{Layer, ServiceExt};

use crate::support::{Fault, Script, Step, answer, call, get, stopped_by};

#[tokio::test(start_paused = true)]
async fn the_first_attempt_counts_among_three() {
    let script = Script::new([Step::Answer(answer(503))]);

    let response = call(&RetryLayer::http(), &script, get()).await.unwrap();

    assert_eq!(script.calls(), 3);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 3);
    assert_eq!(outcome.stopped_by(), StoppedBy::Attempts);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_heals_returns_its_success() {
    let script = Script::new([Step::Answer(answer(503)), Step::Answer(answer(200))]);

    let response = call(&RetryLayer::http(), &script, get()).await.unwrap();

    assert_eq!(script.calls(), 2);
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn as_many_attempts_are_made_as_were_configured() {
    for max_attempts in 2..=7 {
        let layer = RetryLayer::http()
            .with_config(RetryConfig::default().with_max_attempts(max_attempts))
            .unwrap();
        let script = Script::new([Step::Answer(answer(503))]);

        let response = call(&layer, &script, get()).await.unwrap();

        assert_eq!(script.calls(), max_attempts as usize);
        let outcome = RetryOutcome::of(response.extensions()).unwrap();
        assert_eq!(outcome.attempts(), max_attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_disables_retries() {
    let config = RetryConfig::default().with_max_attempts(1);
    let layer = RetryLayer::http().with_config(config.clone()).unwrap();
    let limited = config.with_deadline(Duration::from_secs(5));
    let limited = RetryLayer::http().with_config(limited).unwrap();
    for layer in [layer, limited] {
        let script = Script::new([Step::Answer(answer(503)), Step::Fail(Fault::Refused)]);

        let response = call(&layer, &script, get()).await.unwrap();
        let error = call(&layer, &script, get()).await.unwrap_err();

        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error, Fault::Refused);
        assert_eq!(script.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_without_a_response_count_alike() {
    let script = Script::new([
        Step::Fail(Fault::Refused),
        Step::Answer(answer(503)),
        Step::Fail(Fault::Reset),
        Step::Answer(answer(200)),
    ]);

    let error = call(&RetryLayer::http(), &script, get()).await.unwrap_err();

    assert_eq!(script.calls(), 3);
    assert_eq!(error, Fault::Reset);
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_own_attempts() {
    let script = Script::new([Step::Answer(answer(503))]);
    let service = RetryLayer::http().layer(script.clone());

    for calls in [3, 6, 9] {
        let response = service.clone().oneshot(get()).await.unwrap();

        assert_eq!(stopped_by(&response), Some(StoppedBy::Attempts));
        assert_eq!(script.calls(), calls);
    }
}
