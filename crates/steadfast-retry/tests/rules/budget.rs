//! retry R7.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use http_body_util::BodyExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use steadfast_http::Deadline;
use steadfast_retry::{Budget, RetryLayer, RetryOutcome, StoppedBy};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

use crate::support::{
    Beneath, Fault, Script, Step, affordable, answer, call, get, grpc, marked, post, rpc,
    stopped_by, trailers_only, waiting, with_field,
};

const UNAVAILABLE: u32 = 14;
const INTERNAL: u32 = 13;
const FLOOR: usize = 10 * 10;

/// Calls that come evenly, while everything fails, and what their service saw: how many calls in each second.
async fn outage(layer: RetryLayer, per_second: usize, seconds: usize) -> Vec<usize> {
    let script = Script::new([Step::Answer(answer(503))]);
    let between = Duration::from_secs(1) / u32::try_from(per_second).unwrap();
    for _ in 0..per_second * seconds {
        let response = call(&layer, &script, get()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        advance(between).await;
    }
    let mut calls = vec![0; seconds];
    for seen in script.seen() {
        calls[usize::try_from(seen.at.as_secs()).unwrap()] += 1;
    }
    calls
}

fn at_once() -> RetryLayer {
    RetryLayer::http().with_config(waiting(0)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_retries_add_a_fifth_and_the_floor_in_every_window_and_as_a_whole() {
    let (per_second, seconds) = (200, 45);

    let calls = outage(at_once(), per_second, seconds).await;

    for (first, window) in calls.windows(10).enumerate() {
        let originals = per_second * window.len();
        let allowed = originals + originals / 5 + FLOOR;
        let made: usize = window.iter().sum();
        assert!(made <= allowed, "{made} calls from second {first}");
    }
    let originals = per_second * seconds;
    let made: usize = calls.iter().sum();
    let floor = FLOOR * seconds.div_ceil(10);
    assert!(made <= originals + originals / 5 + floor, "{made} calls");
    // What is allowed is made use of.
    assert!(made >= originals + originals / 5, "{made} calls");
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_without_a_floor_retries_never_exceed_their_ratio() {
    let budget = Budget::ratio(0.2, 0).unwrap();

    let calls = outage(at_once().with_budget(budget), 100, 30).await;

    let mut made = 0;
    for (second, calls) in calls.iter().enumerate() {
        made += calls;
        let originals = 100 * (second + 1);
        assert!(made <= originals + originals / 5, "{made} by {second}");
    }
    assert_eq!(made, 3_000 + 600);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_every_call_makes_all_its_attempts() {
    let calls = outage(at_once().without_budget(), 200, 12).await;

    assert_eq!(calls, [600; 12]);
}

#[tokio::test(start_paused = true)]
async fn two_layers_take_from_the_budget_they_share() {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let one = at_once().with_budget(Arc::clone(&budget));
    let other = at_once().with_budget(Arc::clone(&budget));
    let (down, also_down) = (failing(), failing());

    for _ in 0..4 {
        call(&one, &down, get()).await.unwrap();
    }
    assert_eq!(down.calls(), 12);
    assert_eq!(affordable(&budget), 2);

    let response = call(&other, &also_down, get()).await.unwrap();
    assert_eq!(also_down.calls(), 3);
    assert_eq!(stopped_by(&response), Some(StoppedBy::Attempts));
    call(&other, &also_down, get()).await.unwrap();
    assert_eq!(also_down.calls(), 4, "nothing is left of what they share");
}

#[tokio::test(start_paused = true)]
async fn the_originals_of_one_layer_pay_for_the_retries_of_another_that_shares_its_budget() {
    let budget = Arc::new(Budget::ratio(0.5, 0).unwrap());
    let one = at_once().with_budget(Arc::clone(&budget));
    let other = at_once().with_budget(budget);
    let (healthy, down) = (Script::new([Step::Answer(answer(200))]), failing());

    for _ in 0..3 {
        call(&one, &healthy, get()).await.unwrap();
    }
    call(&other, &down, get()).await.unwrap();

    assert_eq!(down.calls(), 3, "four originals pay for two retries");
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_and_their_clones_have_one_budget() {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let layer = at_once().with_budget(Arc::clone(&budget));
    let script = failing();
    let one = layer.layer(script.clone());
    let other = layer.clone().layer(script.clone());

    for service in [&one, &one.clone(), &other, &other.clone(), &one.clone()] {
        service.clone().oneshot(get()).await.unwrap();
    }

    assert_eq!(affordable(&budget), 0);
    assert_eq!(script.calls(), 15);
    one.oneshot(get()).await.unwrap();
    assert_eq!(script.calls(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_layers_own_budget_is_that_of_all_its_services_and_of_no_other_layer() {
    let layer = at_once();
    let script = failing();

    for _ in 0..FLOOR {
        call(&layer, &script, get()).await.unwrap();
    }
    let made = script.calls();
    let allowed = 2 * FLOOR + FLOOR / 5;
    assert_eq!(made, allowed);

    // The rest of the fifth of what goes on untouched pays for an attempt now and then.
    let response = call(&layer.clone(), &script, get()).await.unwrap();
    assert_eq!(stopped_by(&response), Some(StoppedBy::Budget));
    assert_eq!(script.calls(), made + 1);
    call(&at_once(), &script, get()).await.unwrap();
    assert_eq!(script.calls(), made + 4, "another layer has its own");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_runs_dry_amid_a_call_ends_it_and_says_so() {
    let budget = Budget::ratio(1.0, 0).unwrap();
    let layer = at_once().with_budget(budget);
    let script = failing();

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(script.calls(), 2, "one original pays for one retry");
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 2);
    assert_eq!(outcome.stopped_by(), StoppedBy::Budget);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_a_request_passes_untouched_and_is_not_retried() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let layer = at_once().with_budget(Budget::ratio(0.1, 0).unwrap());
    let script = failing();

    let response = call(&layer, &script, marked(post("an order")))
        .await
        .unwrap();

    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stopped_by(&response), Some(StoppedBy::Budget));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "answer 503");
    let [seen] = &script.seen()[..] else {
        panic!("it was retried");
    };
    assert_eq!(seen.body.as_deref(), Some(&b"an order"[..]));
    let passed = recorder
        .snapshotter()
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| key.key().name() == "steadfast_retry_passed_total")
        .map(|(key, _, _, value)| {
            let mut labels = key.key().labels();
            let because = labels.find(|label| label.key() == "because").unwrap();
            (because.value().to_owned(), value)
        });
    let mut passed: Vec<_> = passed.collect();
    passed.sort_by(|(one, _), (other, _)| one.cmp(other));
    let expected = [("body", 0), ("budget", 1)]
        .map(|(because, count)| (because.to_owned(), DebugValue::Counter(count)));
    assert_eq!(passed, expected);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_a_request_with_a_limit_is_stopped_by_the_budget() {
    let config = waiting(0).with_deadline(Duration::from_secs(1));
    let layer = RetryLayer::http()
        .with_config(config)
        .unwrap()
        .with_budget(Budget::ratio(0.1, 0).unwrap());
    let script = failing();

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(script.calls(), 1);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 1);
    assert_eq!(outcome.stopped_by(), StoppedBy::Budget);
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_asked_only_where_nothing_else_forbids_the_retry() {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let layer = at_once().with_budget(Arc::clone(&budget));

    for (status, request) in [(503, post("an order")), (501, get()), (404, get())] {
        let script = Script::new([Step::Answer(answer(status))]);
        call(&layer, &script, request).await.unwrap();
        assert_eq!(script.calls(), 1, "{status}");
    }
    let strange = Script::new([Step::Fail(Fault::Strange)]);
    assert_eq!(
        call(&layer, &strange, get()).await.unwrap_err(),
        Fault::Strange
    );

    assert_eq!(affordable(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn what_was_withdrawn_comes_back_when_its_window_has_passed() {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let layer = at_once().with_budget(Arc::clone(&budget));
    let script = failing();
    for _ in 0..5 {
        call(&layer, &script, get()).await.unwrap();
    }
    assert_eq!(affordable(&budget), 0);

    advance(Duration::from_secs(9)).await;
    assert_eq!(affordable(&budget), 0);
    advance(Duration::from_secs(1)).await;

    assert_eq!(affordable(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn requests_that_could_not_be_retried_in_any_case_are_no_originals() {
    let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
    let one_attempt = RetryLayer::http()
        .with_config(waiting(0).with_max_attempts(1))
        .unwrap()
        .with_budget(Arc::clone(&budget));
    let small_bodies = RetryLayer::http()
        .with_config(waiting(0).with_replay_limit(7))
        .unwrap()
        .with_budget(Arc::clone(&budget));
    let limited = RetryLayer::http()
        .with_config(
            waiting(0)
                .with_replay_limit(7)
                .with_deadline(Duration::from_secs(1)),
        )
        .unwrap()
        .with_budget(Arc::clone(&budget));
    let script = Script::new([Step::Answer(answer(200))]);

    call(&one_attempt, &script, get()).await.unwrap();
    call(&small_bodies, &script, post("an order"))
        .await
        .unwrap();
    call(&limited, &script, post("an order")).await.unwrap();
    assert_eq!(affordable(&budget), 0);

    call(&small_bodies, &script, post("an offer"))
        .await
        .unwrap();
    call(&small_bodies, &script, get()).await.unwrap();
    assert_eq!(affordable(&budget), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_sent_since_its_deadline_has_passed_is_no_original() {
    let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
    let layer = at_once().with_budget(Arc::clone(&budget));
    let script = Script::new([Step::Answer(answer(200))]);
    let mut late = get();
    late.extensions_mut().insert(Deadline::at(Instant::now()));

    let response = call(&layer, &script, late).await.unwrap();

    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(script.calls(), 0);
    assert_eq!(affordable(&budget), 0, "nothing was sent");
}

/// The layer for gRPC with this throttle.
fn throttled(max_tokens: u32, token_ratio: f64) -> (RetryLayer, Arc<Budget>) {
    let budget = Arc::new(Budget::grpc_throttle(max_tokens, token_ratio).unwrap());
    let layer = grpc()
        .with_config(waiting(0))
        .unwrap()
        .with_budget(Arc::clone(&budget));
    (layer, budget)
}

fn permits(budget: &Budget) -> bool {
    budget.has_token(Instant::now().into_std())
}

#[tokio::test(start_paused = true)]
async fn grpcs_throttle_stops_retries_at_half_its_tokens() {
    let (layer, budget) = throttled(10, 0.5);
    let script = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);

    // The last attempt of a call counts too: 10 tokens become 7.
    let first = call(&layer, &script, marked(rpc())).await.unwrap();
    assert_eq!(stopped_by(&first), Some(StoppedBy::Attempts));
    assert_eq!(script.calls(), 3);
    assert!(permits(&budget));

    let second = call(&layer, &script, marked(rpc())).await.unwrap();
    assert_eq!(stopped_by(&second), Some(StoppedBy::Budget));
    assert_eq!(script.calls(), 5, "of 10 tokens 5 are left, and not more");
    assert!(!permits(&budget));

    call(&layer, &script, marked(rpc())).await.unwrap();
    assert_eq!(script.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn grpcs_throttle_recovers_through_the_successes_of_calls_that_it_would_not_retry() {
    let (layer, budget) = throttled(4, 0.5);
    let down = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);
    // 4 tokens become 2.
    call(&layer, &down, marked(rpc())).await.unwrap();
    assert_eq!(down.calls(), 2);
    assert!(!permits(&budget));

    let up = Script::new([Step::Answer(trailers_only(0))]);
    call(&layer, &up, marked(rpc())).await.unwrap();

    assert!(permits(&budget), "2.5 of 4 is more than half");
    call(&layer, &down, marked(rpc())).await.unwrap();
    assert_eq!(down.calls(), 3, "1.5 of 4 is not");
}

#[tokio::test(start_paused = true)]
async fn grpcs_throttle_counts_the_failures_of_calls_that_it_would_not_retry() {
    let (layer, budget) = throttled(4, 1.0);
    let down = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);
    // 4 tokens become 2, and then 1.
    call(&layer, &down, marked(rpc())).await.unwrap();
    call(&layer, &down, marked(rpc())).await.unwrap();

    budget.succeeded();
    assert!(!permits(&budget), "2 of 4 is half, and not more");
    budget.succeeded();
    assert!(permits(&budget));
}

#[tokio::test(start_paused = true)]
async fn grpcs_throttle_recovers_where_calls_have_a_limit() {
    let budget = Arc::new(Budget::grpc_throttle(4, 0.5).unwrap());
    let layer = grpc()
        .with_config(waiting(0).with_deadline(Duration::from_secs(5)))
        .unwrap()
        .with_budget(Arc::clone(&budget));
    let down = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);
    call(&layer, &down, marked(rpc())).await.unwrap();
    assert!(!permits(&budget));

    let up = Script::new([Step::Answer(trailers_only(0))]);
    call(&layer, &up, marked(rpc())).await.unwrap();

    assert!(permits(&budget));
}

#[tokio::test(start_paused = true)]
async fn a_pushback_that_forbids_retries_counts_as_a_failure_whatever_its_code() {
    for code in [UNAVAILABLE, INTERNAL] {
        let (layer, budget) = throttled(2, 0.001);
        let answer = with_field(trailers_only(code), "grpc-retry-pushback-ms", "-1");
        let script = Script::new([Step::Answer(answer)]);

        call(&layer, &script, marked(rpc())).await.unwrap();

        assert_eq!(script.calls(), 1);
        assert!(!permits(&budget), "code {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_failure_without_pushback_takes_no_token_of_grpcs_throttle() {
    let (layer, budget) = throttled(2, 0.001);
    let script = Script::new([Step::Answer(trailers_only(INTERNAL))]);

    for _ in 0..5 {
        call(&layer, &script, marked(rpc())).await.unwrap();
    }

    assert!(permits(&budget));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_processed_takes_no_token_of_grpcs_throttle() {
    let (layer, budget) = throttled(2, 0.001);
    let layer = layer.with_error_view::<Beneath>();
    let script = Script::new([Step::Fail(Fault::Refused)]);

    let error = call(&layer, &script, rpc()).await.unwrap_err();

    assert_eq!(error, Fault::Refused);
    assert_eq!(script.calls(), 3);
    assert!(permits(&budget));
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_that_may_not_be_sent_again_counts_for_grpcs_throttle() {
    let (layer, budget) = throttled(2, 0.001);
    let script = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);

    let response = call(&layer, &script, rpc()).await.unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::NotIdempotent));
    assert!(!permits(&budget));
}

fn failing() -> Script {
    Script::new([Step::Answer(answer(503))])
}
