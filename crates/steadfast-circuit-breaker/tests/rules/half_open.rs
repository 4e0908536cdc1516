//! circuit-breaker B4.

use std::sync::{Arc, Mutex};

use steadfast_circuit_breaker::{Reason, Refusal, State};
use tokio::{
    task::JoinSet,
    time::{advance, timeout},
};
use tower::{Layer, ServiceExt};

use crate::support::{
    Recorded, Site, Step, answer, broken, failure, get, ok, outcomes, rejected, retry_after, secs,
    steady, throttled,
};

#[tokio::test(start_paused = true)]
async fn three_successes_in_a_row_close_it() {
    let site = Site::http(steady(), [ok()]);
    site.recover().await;

    for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
        assert_eq!(site.status().await, 200);
        assert_eq!(site.breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_probe_that_fails_opens_it_again() {
    for step in [
        broken(),
        Step::Fail(crate::support::Fault::Reset),
        Step::Answer(answer(429)),
    ] {
        let site = Site::http(steady(), [ok(), ok(), step]);
        site.recover().await;
        for _ in 0..2 {
            site.get().await;
        }
        assert_eq!(site.breaker.state(), State::HalfOpen);

        let _ = site.send(get()).await;

        assert_eq!(site.breaker.state(), State::Open);
        assert_eq!(site.breaker.snapshot().open_left(), secs(30));
        advance(secs(30)).await;
        site.script.play(ok());
        for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
            site.get().await;
            assert_eq!(site.breaker.state(), state, "it counts anew");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_callers_who_come_after_the_open_time_exactly_one_passes() {
    let site = Site::http(steady(), [Step::After(secs(1), answer(200))]);
    site.recover().await;

    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let service = site.service();
        callers.spawn(service.oneshot(get()));
    }
    let mut passed = 0;
    while let Some(response) = callers.join_next().await {
        let response = response.unwrap().unwrap();
        match rejected(&response) {
            None => passed += 1,
            Some(rejected) => {
                assert_eq!(rejected.refusal(), Refusal::Probing);
                assert_eq!(rejected.retry_after(), secs(0));
                assert_eq!(response.status(), 503);
                assert_eq!(retry_after(&response), 1);
            }
        }
    }

    assert_eq!(passed, 1);
    assert_eq!(site.script.calls(), 1);
    assert_eq!(site.breaker.state(), State::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn as_many_probes_as_are_set_are_under_way_at_a_time() {
    let site = Site::http(steady().with_probes(3, 5), [Step::Hang]);
    site.recover().await;

    let mut calls: Vec<_> = (0..3).map(|_| site.pending(get())).collect();
    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.script.most_under_way(), 3);

    calls.pop();
    calls.push(site.pending(get()));
    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.script.most_under_way(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_probe_frees_its_place_and_decides_nothing() {
    let local = crate::support::local(503, steadfast_http::problem::Code::CircuitOpen);
    let site = Site::http(steady(), [Step::Answer(local)]);
    site.recover().await;

    for _ in 0..10 {
        assert_eq!(rejected(&site.get().await), None);
        assert_eq!(site.breaker.state(), State::HalfOpen);
    }

    site.script.play(ok());
    for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
        site.get().await;
        assert_eq!(site.breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_over_the_probes_decides_where_that_is_set() {
    let config = steady().with_probe_rate(1, 0.5, 4);
    let site = Site::http(config, [broken(), ok(), ok(), ok()]);
    site.recover().await;
    for state in [
        State::HalfOpen,
        State::HalfOpen,
        State::HalfOpen,
        State::Closed,
    ] {
        site.get().await;
        assert_eq!(site.breaker.state(), state);
    }

    let site = Site::http(config, [broken(), ok(), broken()]);
    site.recover().await;
    for state in [State::HalfOpen, State::HalfOpen, State::Open] {
        site.get().await;
        assert_eq!(site.breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_has_failed() {
    let recorded = Recorded::new();
    let config =
        steady().with_slow_calls(secs(2), 1.0, steadfast_circuit_breaker::Window::Calls(9), 9);
    let site = Site::http(config, [Step::After(secs(2), answer(200))]);
    site.recover().await;

    site.get().await;

    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(recorded.outcomes(), outcomes([("failure", 5), ("slow", 1)]));
}

/// A timeout around the layer drops the calls, and nobody told the layer how long they wait.
#[tokio::test(start_paused = true)]
async fn a_destination_that_never_answers_does_not_keep_it_half_open_for_ever() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    site.breaker.on_transition(move |_, transition| {
        let transition = (transition.to(), transition.reason());
        hears.lock().unwrap().push(transition);
    });

    for _ in 0..30 {
        let elapsed = timeout(secs(1), site.send(get())).await;
        assert!(elapsed.is_err(), "it passes, and never ends");
        assert_eq!(site.breaker.state(), State::HalfOpen);
    }
    assert_eq!(site.script.calls(), 30);
    let response = site.get().await;

    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Open);
    assert_eq!(retry_after(&response), 30);
    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(site.script.calls(), 30);
    let expected = [
        (State::HalfOpen, Reason::OpenTimeOver),
        (State::Open, Reason::ProbesSilent),
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn towers_timeout_beneath_the_layer_makes_a_probe_fail() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let slow = tower::timeout::Timeout::new(site.script.clone(), secs(1));
    let service = site.layer.clone().with_boxed_errors().layer(slow);

    let error = service.oneshot(get()).await.unwrap_err();

    assert!(error.is::<tower::timeout::error::Elapsed>());
    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_still_under_way_does_not_keep_it_half_open_either() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::After(secs(40), answer(200))]);
    site.recover().await;
    let mut probe = site.pending(get());

    advance(secs(29)).await;
    let probing = site.get().await;
    assert_eq!(rejected(&probing).unwrap().refusal(), Refusal::Probing);
    advance(secs(1)).await;
    let open = site.get().await;
    assert_eq!(rejected(&open).unwrap().refusal(), Refusal::Open);

    advance(secs(10)).await;
    let late = (&mut probe).await.unwrap();
    assert_eq!(late.status(), 200, "its caller has it");
    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(recorded.stale(), 1);

    advance(secs(20)).await;
    site.script.play(Step::Hang);
    let _next = site.pending(get());
    assert!(
        rejected(&site.get().await).is_some(),
        "the place of the old probe is not one of the new"
    );
}

#[tokio::test(start_paused = true)]
async fn the_limit_runs_anew_from_a_success_and_not_while_nobody_comes() {
    let site = Site::http(steady(), [ok()]);
    site.recover().await;
    site.get().await;
    advance(secs(100)).await;
    site.get().await;
    assert_eq!(site.breaker.state(), State::HalfOpen, "nobody came");

    advance(secs(100)).await;
    site.script.play(Step::Hang);
    drop(site.pending(get()));
    advance(secs(29)).await;
    drop(site.pending(get()));
    assert_eq!(site.breaker.state(), State::HalfOpen);

    advance(secs(1)).await;
    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_limit_runs_from_a_success_if_other_probes_are_under_way_then() {
    let site = Site::http(steady().with_probes(2, 3), [Step::Hang]);
    site.recover().await;
    let _silent = site.pending(get());
    advance(secs(20)).await;
    site.script.play(ok());
    site.get().await;

    advance(secs(29)).await;
    site.script.play(Step::Hang);
    drop(site.pending(get()));
    advance(secs(1)).await;

    let response = site.get().await;
    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Open);
}

#[tokio::test(start_paused = true)]
async fn probes_are_taken_by_permits_and_layers_alike() {
    let site = Site::http(steady(), [ok()]);
    site.recover().await;
    let permit = site.breaker.admit(None).unwrap();
    assert!(rejected(&site.get().await).is_some());

    permit.record(throttled());

    assert_eq!(site.breaker.state(), State::Open);
    advance(secs(30)).await;
    site.breaker.admit(None).unwrap().record(failure());
    assert_eq!(site.breaker.state(), State::Open);
}
