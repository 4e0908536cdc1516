//! circuit-breaker B3.

use std::collections::BTreeSet;

use steadfast_circuit_breaker::{BreakerConfig, CircuitBreaker, Refusal, State, Window};
use tokio::time::advance;

use crate::support::{
    Site, Step, answer, breaker, brittle, broken, failure, millis, ok, record, rejected,
    retry_after, secs, steady, throttled, trailers_only, with_field,
};

fn asking_for(status: u16, seconds: &str) -> Step {
    Step::Answer(with_field(answer(status), "retry-after", seconds))
}

async fn open_time_after(site: &Site) -> std::time::Duration {
    site.status().await;
    assert_eq!(site.breaker.state(), State::Open);
    site.breaker.snapshot().open_left()
}

#[tokio::test(start_paused = true)]
async fn it_is_open_for_thirty_seconds_to_the_millisecond() {
    let site = Site::http(steady(), [ok()]);
    site.trip();

    assert_eq!(retry_after(&site.get().await), 30);
    advance(millis(29_999)).await;
    let response = site.get().await;
    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Open);
    assert_eq!(rejected(&response).unwrap().retry_after(), millis(1));
    assert_eq!(site.script.calls(), 0);

    advance(millis(1)).await;
    assert_eq!(
        site.breaker.state(),
        State::Open,
        "until a call comes that may probe"
    );
    assert_eq!(site.breaker.snapshot().open_left(), secs(0));
    assert_eq!(site.status().await, 200);
    assert_eq!(site.breaker.state(), State::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn the_server_may_lengthen_it_up_to_the_cap_and_never_shorten_it() {
    for (asked, open_for) in [("45", 45), ("90", 60), ("10", 30), ("0", 30)] {
        let site = Site::http(brittle(), [asking_for(503, asked)]);
        assert_eq!(open_time_after(&site).await, secs(open_for), "{asked}");
    }
    let higher = brittle().with_hint_cap(secs(100));
    let site = Site::http(higher, [asking_for(503, "90")]);
    assert_eq!(open_time_after(&site).await, secs(90));
    let deaf = brittle().with_hint_cap(secs(0));
    let site = Site::http(deaf, [asking_for(503, "90")]);
    assert_eq!(open_time_after(&site).await, secs(30));
}

#[tokio::test(start_paused = true)]
async fn only_the_failure_that_trips_is_heard() {
    let config = steady().with_consecutive_failures(2);
    let site = Site::http(config, [asking_for(503, "45"), broken()]);
    site.status().await;
    assert_eq!(open_time_after(&site).await, secs(30));

    let site = Site::http(config, [broken(), asking_for(503, "45")]);
    site.status().await;
    assert_eq!(open_time_after(&site).await, secs(45));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_and_a_failed_probe_are_heard_too() {
    let by_rate = steady().with_failure_rate(1.0, Window::Calls(2), 2);
    let site = Site::http(by_rate, [asking_for(429, "45")]);
    site.status().await;
    assert_eq!(open_time_after(&site).await, secs(45), "throttled");

    let site = Site::http(steady(), [asking_for(429, "50")]);
    site.recover().await;
    assert_eq!(open_time_after(&site).await, secs(50), "a probe");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_asks_by_pushback() {
    for (asked, open_for) in [("45000", 45), ("-1", 30)] {
        let answer = with_field(trailers_only(14), "grpc-retry-pushback-ms", asked);
        let site = Site::grpc(brittle(), [Step::Answer(answer)]);
        assert_eq!(open_time_after(&site).await, secs(open_for), "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_grows_with_each_opening_in_a_row_up_to_the_cap() {
    let site = Site::http(brittle().with_open_growth(2.0, secs(100)), [broken()]);

    let mut open_times = vec![open_time_after(&site).await];
    for _ in 0..3 {
        advance(site.breaker.snapshot().open_left()).await;
        open_times.push(open_time_after(&site).await);
    }

    assert_eq!(open_times, [30, 60, 100, 100].map(secs));
}

#[tokio::test(start_paused = true)]
async fn without_growth_each_opening_is_as_long_as_the_first() {
    let site = Site::http(brittle(), [broken()]);
    site.status().await;
    for _ in 0..3 {
        advance(secs(30)).await;
        assert_eq!(open_time_after(&site).await, secs(30));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_held_for_as_long_ends_the_row_and_a_shorter_one_does_not() {
    for (held, open_for) in [(59, 100), (60, 30)] {
        let config = brittle().with_open_growth(2.0, secs(100)).with_probes(1, 1);
        let site = Site::http(config, [broken()]);
        site.status().await;
        advance(secs(30)).await;
        assert_eq!(open_time_after(&site).await, secs(60));
        advance(secs(60)).await;
        site.script.play(ok());
        site.status().await;
        assert_eq!(site.breaker.state(), State::Closed);

        advance(secs(held)).await;
        site.script.play(broken());

        assert_eq!(open_time_after(&site).await, secs(open_for), "{held}");
    }
}

#[tokio::test(start_paused = true)]
async fn chance_lengthens_it_by_a_tenth_at_most() {
    let mut times = BTreeSet::new();
    for _ in 0..100 {
        let breaker = CircuitBreaker::new("destination");
        while let Ok(permit) = breaker.admit(None) {
            permit.record(failure());
        }
        times.insert(breaker.snapshot().open_left());
    }

    assert!(times.len() > 50, "each draws its own");
    assert!(*times.first().unwrap() >= secs(30));
    assert!(*times.last().unwrap() <= secs(33));
    assert!(*times.last().unwrap() > millis(31_500), "it uses all of it");
}

#[tokio::test(start_paused = true)]
async fn throttled_calls_do_not_count_in_the_run() {
    let breaker = breaker(steady().without_failure_rate());
    for _ in 0..100 {
        record(&breaker, throttled());
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_where_that_is_asked_for() {
    let config = BreakerConfig::default()
        .with_open_jitter(0.0)
        .without_consecutive_failures()
        .without_failure_rate()
        .with_slow_calls(secs(2), 0.5, Window::Calls(4), 4);
    let site = Site::http(config, [Step::After(secs(2), answer(200))]);
    for _ in 0..2 {
        site.status().await;
    }
    site.script.play(Step::After(millis(1_999), answer(200)));
    site.status().await;
    assert_eq!(site.breaker.state(), State::Closed);
    site.status().await;

    assert_eq!(site.breaker.state(), State::Open);
}
