//! retry R6.

use std::{
    iter::zip,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast_core::verdict::{Cause, Failure, SafetyClass};
use steadfast_retry::{Backoff, Jitter, RetryConfig, RetryLayer};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

use crate::support::{
    Beneath, Fault, Script, Step, answer, call, get, grpc, marked, millis, retry_after, rpc,
    steady, trailers_only,
};

const LOWEST: u64 = 0;
const HIGHEST: u64 = u64::MAX;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A layer of so many attempts, with time and budget enough for them.
fn layer(backoff: Backoff, retries: u32) -> RetryLayer {
    let config = RetryConfig::default()
        .with_backoff(backoff)
        .with_max_attempts(retries + 1)
        .with_deadline(Duration::from_secs(3600));
    RetryLayer::http()
        .with_config(config)
        .unwrap()
        .without_budget()
}

/// What the layer waits where each attempt fails, and each draw is this one.
async fn waits_drawn(backoff: Backoff, retries: u32, drawn: u64) -> Vec<Duration> {
    let layer = layer(backoff, retries).with_sampler(move || drawn);
    waits(&layer, [Step::Answer(answer(503))]).await
}

async fn waits(layer: &RetryLayer, steps: impl IntoIterator<Item = Step>) -> Vec<Duration> {
    let script = Script::new(steps);
    let layer = layer.clone().with_error_view::<Beneath>();
    let _ = call(&layer, &script, get()).await;
    script.waits()
}

#[tokio::test(start_paused = true)]
async fn delays_double_from_the_base_to_the_cap() {
    let backoff = Backoff::default().with_jitter(Jitter::None);

    let waits = waits_drawn(backoff, 11, HIGHEST).await;

    let expected = [
        50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000,
    ];
    assert_eq!(waits, millis(expected));
}

#[tokio::test(start_paused = true)]
async fn delays_grow_by_the_multiplier() {
    let backoff = Backoff::exponential(ms(10), ms(500))
        .with_multiplier(3.0)
        .with_jitter(Jitter::None);

    assert_eq!(
        waits_drawn(backoff, 5, LOWEST).await,
        millis([10, 30, 90, 270, 500])
    );
}

#[tokio::test(start_paused = true)]
async fn full_jitter_is_the_default_and_draws_from_nothing_to_the_delay() {
    for backoff in [
        Backoff::default(),
        Backoff::default().with_jitter(Jitter::Full),
    ] {
        let lowest = waits_drawn(backoff.clone(), 10, LOWEST).await;
        let highest = waits_drawn(backoff, 10, HIGHEST).await;

        assert_eq!(lowest, millis([0; 10]));
        let expected = [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(highest, millis(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn equal_jitter_draws_from_half_of_the_delay() {
    let backoff = Backoff::exponential(ms(100), ms(300)).with_jitter(Jitter::Equal);

    let lowest = waits_drawn(backoff.clone(), 4, LOWEST).await;
    let highest = waits_drawn(backoff, 4, HIGHEST).await;

    assert_eq!(lowest, millis([50, 100, 150, 150]));
    assert_eq!(highest, millis([100, 200, 300, 300]));
}

#[tokio::test(start_paused = true)]
async fn ratio_jitter_draws_around_the_delay_and_never_beyond_the_cap() {
    let backoff = Backoff::exponential(ms(100), ms(300)).with_jitter(Jitter::Ratio(0.2));

    let lowest = waits_drawn(backoff.clone(), 4, LOWEST).await;
    let highest = waits_drawn(backoff, 4, HIGHEST).await;

    assert_eq!(lowest, millis([80, 160, 240, 240]));
    assert_eq!(highest, millis([120, 240, 300, 300]));
}

#[tokio::test(start_paused = true)]
async fn decorrelated_jitter_draws_from_the_base_to_three_times_the_last_delay() {
    let backoff = Backoff::exponential(ms(100), ms(3000)).with_jitter(Jitter::Decorrelated);

    let lowest = waits_drawn(backoff.clone(), 5, LOWEST).await;
    let highest = waits_drawn(backoff, 5, HIGHEST).await;

    assert_eq!(lowest, millis([100; 5]));
    assert_eq!(highest, millis([300, 900, 2700, 3000, 3000]));
}

#[tokio::test(start_paused = true)]
async fn a_constant_backoff_stays_and_is_spread() {
    let constant = Backoff::constant(ms(70));

    let lowest = waits_drawn(constant.clone(), 3, LOWEST).await;
    let highest = waits_drawn(constant.clone(), 3, HIGHEST).await;
    let fixed = waits_drawn(constant.with_jitter(Jitter::None), 3, LOWEST).await;

    assert_eq!(lowest, millis([0; 3]));
    assert_eq!(highest, millis([70; 3]));
    assert_eq!(fixed, millis([70; 3]));
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_is_given_the_number_of_the_retry() {
    let custom = Backoff::custom(|retry| ms(u64::from(retry) * 7)).with_jitter(Jitter::None);

    assert_eq!(
        waits_drawn(custom, 4, LOWEST).await,
        millis([7, 14, 21, 28])
    );
}

#[tokio::test(start_paused = true)]
async fn backoff_is_total_for_any_number_of_attempts() {
    let backoff = Backoff::exponential(ms(1), ms(10)).with_jitter(Jitter::None);

    let waits = waits_drawn(backoff, 5_000, LOWEST).await;

    assert_eq!(waits[..5], millis([1, 2, 4, 8, 10]));
    assert_eq!(waits[4..], vec![ms(10); 4_996]);
}

#[tokio::test(start_paused = true)]
async fn each_delay_is_drawn_anew() {
    let draws = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&draws);
    let backoff = Backoff::constant(ms(100));
    let layer = layer(backoff, 4).with_sampler(move || {
        let quarter = counted.fetch_add(1, Ordering::Relaxed);
        quarter << 62
    });

    let waits = waits(&layer, [Step::Answer(answer(503))]).await;

    assert_eq!(waits, millis([0, 25, 50, 75]));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_caller_starts_from_a_second() {
    let backoff = Backoff::default().with_jitter(Jitter::None);
    let throttled = [Step::Answer(answer(429))];

    let exponential = waits(&layer(backoff.clone(), 5), throttled.clone()).await;
    assert_eq!(exponential, millis([1000, 2000, 4000, 8000, 10_000]));

    let slower = backoff.clone().with_throttled_base(ms(300));
    let slower = waits(&layer(slower, 2), throttled.clone()).await;
    assert_eq!(slower, millis([300, 600]));

    let drawn = |sample| layer(Backoff::default(), 2).with_sampler(move || sample);
    assert_eq!(
        waits(&drawn(LOWEST), throttled.clone()).await,
        millis([0, 0])
    );
    assert_eq!(
        waits(&drawn(HIGHEST), throttled.clone()).await,
        millis([1000, 2000])
    );

    let capped = Backoff::exponential(ms(50), ms(400)).with_jitter(Jitter::None);
    assert_eq!(
        waits(&layer(capped, 2), throttled.clone()).await,
        millis([400, 400])
    );

    let constant = Backoff::constant(ms(70)).with_jitter(Jitter::None);
    assert_eq!(
        waits(&layer(constant, 2), throttled).await,
        millis([70, 70])
    );

    let with_hint = [Step::Answer(retry_after(429, "0"))];
    assert_eq!(
        waits(&layer(backoff, 2), with_hint).await,
        millis([50, 100])
    );
}

#[tokio::test(start_paused = true)]
async fn a_throttled_grpc_caller_starts_from_a_second() {
    let layer = RetryLayer::grpc()
        .with_wrapped_body()
        .with_config(steady().add_transient_code(steadfast_http::grpc::Code::ResourceExhausted))
        .unwrap();
    let script = Script::new([Step::Answer(trailers_only(8))]);

    call(&layer, &script, marked(rpc())).await.unwrap();

    assert_eq!(script.waits(), millis([1000, 2000]));
}

#[tokio::test(start_paused = true)]
async fn throttling_counts_for_the_attempt_that_follows_it_alone() {
    let backoff = Backoff::default().with_jitter(Jitter::None);
    let steps = [503, 429, 503].map(|status| Step::Answer(answer(status)));

    assert_eq!(
        waits(&layer(backoff, 3), steps).await,
        millis([50, 2000, 200])
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_again_at_once_and_the_next_time_after_a_delay() {
    for refused in [Step::Fail(Fault::Refused), Step::Answer(answer(425))] {
        let steps = [
            refused,
            Step::Fail(Fault::Refused),
            Step::Fail(Fault::Refused),
        ];
        let backoff = Backoff::default().with_jitter(Jitter::None);

        let waits = waits(&layer(backoff, 3), steps).await;

        assert_eq!(waits, millis([0, 100, 200]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_at_once_is_there_after_other_failures_too_and_only_once() {
    let backoff = Backoff::default().with_jitter(Jitter::None);
    let steps = [
        Step::Answer(answer(503)),
        Step::Fail(Fault::Refused),
        Step::Answer(answer(503)),
        Step::Fail(Fault::Refused),
        Step::Answer(answer(200)),
    ];

    assert_eq!(
        waits(&layer(backoff, 4), steps).await,
        millis([50, 0, 200, 400])
    );
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_waited_for_even_by_what_was_not_processed() {
    let layer = grpc()
        .with_config(steady())
        .unwrap()
        .with_classifier(|attempted| {
            let failure = Failure::new(SafetyClass::NotProcessed, Cause::Fault);
            let hint = steadfast_core::verdict::Hint::After(ms(700));
            match attempted.error() {
                None => attempted.verdict(),
                Some(_) => failure.with_hint(Some(hint)).into(),
            }
        });
    let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(trailers_only(0))]);

    call(&layer, &script, rpc()).await.unwrap();

    assert_eq!(script.waits(), millis([700]));
}

/// The two delays of each of `calls` concurrent calls, in parts of the longest delay.
async fn concurrent_delays(calls: usize) -> Vec<[f64; 2]> {
    let longest = Duration::from_secs(10);
    let layer = layer(Backoff::exponential(longest, longest), 2);
    let mut tasks = JoinSet::new();
    let mut scripts = Vec::new();
    for _ in 0..calls {
        let script = Script::new([Step::Answer(answer(503))]);
        let service = layer.layer(script.clone());
        tasks.spawn(async move { service.oneshot(get()).await.unwrap().status() });
        scripts.push(script);
    }
    tasks.join_all().await;
    // In the order in which the calls were made.
    let delays = scripts.iter().map(|script| {
        let waits: [_; 2] = script.waits().try_into().unwrap();
        waits.map(|wait| wait.as_secs_f64() / longest.as_secs_f64())
    });
    delays.collect()
}

fn correlation(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = pairs.clone().count() as f64;
    let mean = |sum: f64| sum / count;
    let (x, y) = (
        mean(pairs.clone().map(|(x, _)| x).sum()),
        mean(pairs.clone().map(|(_, y)| y).sum()),
    );
    let products = pairs.map(|(a, b)| ((a - x) * (b - y), (a - x).powi(2), (b - y).powi(2)));
    let (xy, xx, yy) = products.fold((0.0, 0.0, 0.0), |sum, product| {
        (sum.0 + product.0, sum.1 + product.1, sum.2 + product.2)
    });
    xy / (xx * yy).sqrt()
}

/// The greatest distance between the distribution of these numbers and the even one from 0 to 1.
fn distance_from_even(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let count = numbers.len() as f64;
    let distances = numbers.iter().enumerate().map(|(below, number)| {
        let (before, after) = (below as f64 / count, (below + 1) as f64 / count);
        (number - before).abs().max((number - after).abs())
    });
    distances.fold(0.0, f64::max)
}

/// Each bound is missed by chance in less than one run of a billion.
#[tokio::test(start_paused = true)]
async fn delays_of_concurrent_calls_are_even_and_know_nothing_of_each_other() {
    const CALLS: usize = 1_000;
    let root = (CALLS as f64).sqrt();

    let delays = concurrent_delays(CALLS).await;

    let first: Vec<_> = delays.iter().map(|[first, _]| *first).collect();
    let second: Vec<_> = delays.iter().map(|[_, second]| *second).collect();
    for delays in [&first, &second] {
        let distance = distance_from_even(delays.clone());
        assert!(distance < 3.4 / root, "{distance}");
        let neighbours = zip(delays.iter().copied(), delays.iter().copied().skip(1));
        let neighbours = correlation(neighbours);
        assert!(neighbours.abs() < 6.2 / root, "{neighbours}");
    }
    let of_one_call = correlation(zip(first.iter().copied(), second.iter().copied()));
    assert!(of_one_call.abs() < 6.2 / root, "{of_one_call}");
}
