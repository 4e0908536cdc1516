//! circuit-breaker B1: the states, and those that are set by hand.

use std::sync::{Arc, Mutex};

use steadfast_circuit_breaker::{CircuitBreaker, Reason, Refusal, State, Transition, Verdict};
use tokio::time::advance;

use crate::support::{
    Recorded, Site, breaker, brittle, broken, failure, ok, record, rejected, retry_after, run,
    secs, steady,
};

/// Each transition, in its order.
fn heard(breaker: &CircuitBreaker) -> Arc<Mutex<Vec<Transition>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    breaker.on_transition(move |_, transition| hears.lock().unwrap().push(*transition));
    heard
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_open_it_and_four_do_not() {
    let site = Site::http(steady(), [broken()]);

    for _ in 0..4 {
        assert_eq!(site.status().await, 503);
    }
    assert_eq!(site.breaker.state(), State::Closed);
    assert_eq!(run(&site.breaker), 4);

    site.status().await;
    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(site.script.calls(), 5);
    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.script.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_run() {
    let site = Site::http(steady(), [broken(), broken(), broken(), broken(), ok()]);

    for _ in 0..5 {
        site.status().await;
    }

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(site.breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn half_of_twenty_calls_open_it_and_of_nineteen_they_do_not() {
    let site = Site::http(steady(), [ok()]);
    for call in 0..19 {
        site.script
            .play(if call % 2 == 0 { broken() } else { ok() });
        site.status().await;
    }
    assert_eq!(site.breaker.state(), State::Closed);
    let counts = site.breaker.snapshot().failures().unwrap();
    assert_eq!((counts.calls, counts.failures), (19, 10));

    // Ten of twenty: a success may be the call that brings the minimum.
    site.script.play(ok());
    site.status().await;

    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn forced_open_lets_nothing_pass_for_as_long_as_it_is_told() {
    let site = Site::http(steady(), [ok()]);
    site.breaker.force_open();

    for _ in 0..3 {
        advance(secs(100)).await;
        let response = site.get().await;
        assert_eq!(response.status(), 503);
        assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Forced);
    }
    assert_eq!(site.breaker.state(), State::ForcedOpen);
    assert_eq!(site.script.calls(), 0);

    site.breaker.force_closed();
    assert_eq!(site.status().await, 200);
}

#[tokio::test(start_paused = true)]
async fn forced_open_names_the_shortest_open_time_as_the_wait() {
    let site = Site::http(steady().with_open_for(secs(7)), [ok()]);
    site.breaker.force_open();

    assert_eq!(
        site.breaker.admit(None).unwrap_err().retry_after(),
        secs(7),
        "by permit"
    );
    assert_eq!(retry_after(&site.get().await), 7, "by layer");
}

#[tokio::test(start_paused = true)]
async fn disabled_lets_everything_pass_and_records_nothing() {
    let recorded = Recorded::new();
    let site = Site::http(brittle(), [broken()]);
    site.breaker.disable();

    for _ in 0..50 {
        assert_eq!(rejected(&site.get().await), None);
    }

    assert_eq!(site.breaker.state(), State::Disabled);
    assert_eq!(site.script.calls(), 50);
    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcomes(), []);
}

#[tokio::test(start_paused = true)]
async fn observing_lets_everything_pass_and_tells_once_per_episode_that_it_would_have_opened() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [broken()]);
    site.breaker.observe_only();
    let heard = heard(&site.breaker);
    let receiver = site.breaker.subscribe();

    for _ in 0..50 {
        assert_eq!(rejected(&site.get().await), None);
    }
    assert_eq!(heard.lock().unwrap().len(), 1);
    let would = heard.lock().unwrap()[0];
    assert!(would.is_hypothetical());
    assert_eq!(
        (would.from(), would.to()),
        (State::ObserveOnly, State::Open)
    );
    assert_eq!(would.reason(), Reason::ConsecutiveFailures);
    assert_eq!(would.open_for(), Some(secs(30)));

    advance(secs(29)).await;
    site.get().await;
    assert_eq!(heard.lock().unwrap().len(), 1);
    advance(secs(1)).await;
    for _ in 0..50 {
        site.get().await;
    }
    assert_eq!(heard.lock().unwrap().len(), 2, "the next episode");

    assert_eq!(site.breaker.state(), State::ObserveOnly);
    assert_eq!(*receiver.borrow(), State::ObserveOnly);
    assert_eq!(site.script.calls(), 101);
    assert_eq!(recorded.outcome("failure"), 101);
    assert_eq!(recorded.stale(), 0);
}

#[tokio::test(start_paused = true)]
async fn observing_that_ends_is_closed_and_counts_anew() {
    let breaker = breaker(steady());
    breaker.observe_only();
    for _ in 0..4 {
        record(&breaker, failure());
    }

    breaker.force_closed();

    assert_eq!(run(&breaker), 0);
    record(&breaker, failure());
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_changes_nothing_is_not_told_and_forgets_nothing() {
    let breaker = breaker(steady());
    let heard = heard(&breaker);
    record(&breaker, failure());

    breaker.force_closed();

    assert_eq!(run(&breaker), 1);
    for command in [
        CircuitBreaker::force_open as fn(&CircuitBreaker),
        CircuitBreaker::disable,
        CircuitBreaker::observe_only,
        CircuitBreaker::force_closed,
    ] {
        command(&breaker);
        command(&breaker);
    }
    let heard: Vec<_> = heard.lock().unwrap().iter().map(Transition::to).collect();
    let once = [
        State::ForcedOpen,
        State::Disabled,
        State::ObserveOnly,
        State::Closed,
    ];
    assert_eq!(heard, once);
}

#[tokio::test(start_paused = true)]
async fn each_state_can_be_left_by_hand() {
    for command in [
        CircuitBreaker::force_open as fn(&CircuitBreaker),
        CircuitBreaker::disable,
        CircuitBreaker::observe_only,
        CircuitBreaker::force_closed,
    ] {
        // Open.
        let site = Site::http(steady(), [ok()]);
        site.trip();
        command(&site.breaker);
        let state = site.breaker.state();
        assert_ne!(state, State::Open);
        assert_eq!(site.status().await == 200, state != State::ForcedOpen);

        // Half-open.
        let site = Site::http(steady(), [ok()]);
        site.recover().await;
        site.get().await;
        assert_eq!(site.breaker.state(), State::HalfOpen);
        command(&site.breaker);
        assert_ne!(site.breaker.state(), State::HalfOpen);
        let state = site.breaker.state();
        assert_eq!(site.status().await == 200, state != State::ForcedOpen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_forgets_what_was_counted_and_how_often_it_opened() {
    let site = Site::http(brittle().with_open_growth(2.0, secs(100)), [ok()]);
    site.recover().await;
    record(&site.breaker, failure());
    assert_eq!(site.breaker.snapshot().open_left(), secs(60));

    site.breaker.reset();
    assert_eq!(site.breaker.state(), State::Closed);
    assert_eq!(site.status().await, 200);
    record(&site.breaker, failure());
    assert_eq!(site.breaker.snapshot().open_left(), secs(30));

    let breaker = breaker(steady());
    record(&breaker, failure());
    breaker.reset();
    assert_eq!(run(&breaker), 0, "also where it is closed");
    assert_eq!(breaker.snapshot().failures().unwrap().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_handle_and_layers_made_of_them_share_everything() {
    let site = Site::http(steady(), [broken()]);
    let other = site.breaker.clone();
    let layer = site.layer.clone();

    for _ in 0..4 {
        site.status().await;
    }
    let again = Site {
        breaker: other.clone(),
        layer,
        script: site.script.clone(),
    };
    again.status().await;

    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(other.state(), State::Open);
    assert_eq!(other.name(), site.breaker.name());
    assert_eq!(other.config(), &steady());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_tells_of_one_state() {
    let config = steady().with_slow_calls(
        secs(1),
        1.0,
        steadfast_circuit_breaker::Window::Calls(10),
        10,
    );
    let breaker = breaker(config);
    record(&breaker, failure());
    let slow = breaker.admit(None).unwrap();
    advance(secs(1)).await;
    slow.record(Verdict::Success);

    let closed = breaker.snapshot();
    assert_eq!(closed.state(), State::Closed);
    assert_eq!(closed.open_left(), secs(0));
    assert_eq!(closed.consecutive_failures(), 0);
    let (failures, slow) = (closed.failures().unwrap(), closed.slow_calls().unwrap());
    assert_eq!((failures.calls, failures.failures), (2, 1));
    assert_eq!((slow.calls, slow.failures), (2, 1));

    while let Ok(permit) = breaker.admit(None) {
        permit.record(failure());
    }
    advance(secs(12)).await;
    let open = breaker.snapshot();
    assert_eq!(open.state(), State::Open);
    assert_eq!(open.open_left(), secs(18));
    assert_eq!(open.consecutive_failures(), 0, "of this generation");

    breaker.force_closed();
    assert_eq!(breaker.snapshot().open_left(), secs(0));
}
