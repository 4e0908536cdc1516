//! circuit-breaker B6: permits, for code without a layer.

use steadfast_circuit_breaker::{BreakerConfig, State, Verdict, Window};
use steadfast_http::Deadline;
use tokio::time::{Instant, advance};

use crate::support::{
    Recorded, Site, Step, breaker, brittle, failure, outcomes, record, run, secs, steady,
};

#[tokio::test(start_paused = true)]
async fn a_permit_records_what_the_call_came_to() {
    let recorded = Recorded::new();
    let breaker = breaker(brittle());

    record(&breaker, Verdict::Success);
    assert_eq!(breaker.state(), State::Closed);
    record(&breaker, failure());

    assert_eq!(breaker.state(), State::Open);
    assert!(breaker.admit(None).is_err());
    assert_eq!(
        recorded.outcomes(),
        outcomes([("failure", 1), ("success", 1)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_says_nothing_before_its_deadline_and_fails_after_it() {
    let breaker = breaker(steady());
    drop(breaker.admit(None).unwrap());
    let deadline = Deadline::at(Instant::now() + secs(1));
    drop(breaker.admit(Some(deadline)).unwrap());
    assert_eq!(run(&breaker), 0);

    let permit = breaker.admit(Some(deadline)).unwrap();
    advance(secs(1)).await;
    drop(permit);

    assert_eq!(run(&breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_counts_as_it_is_recorded_even_after_the_deadline() {
    let breaker = breaker(steady());
    record(&breaker, failure());
    let deadline = Deadline::at(Instant::now() + secs(1));
    let permit = breaker.admit(Some(deadline)).unwrap();
    advance(secs(1)).await;

    permit.record(Verdict::Success);

    assert_eq!(run(&breaker), 0);
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_a_probe_takes_its_place_and_gives_it_back() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    for _ in 0..3 {
        let permit = site.breaker.admit(None).unwrap();
        assert!(site.breaker.admit(None).is_err());
        drop(permit);
    }

    for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
        record(&site.breaker, Verdict::Success);
        assert_eq!(site.breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_whether_a_call_would_pass_takes_nothing_and_is_not_counted() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    assert!(site.breaker.would_admit());
    site.trip();
    assert!(!site.breaker.would_admit());

    advance(site.breaker.config().open_for() * 2).await;
    for _ in 0..3 {
        assert!(site.breaker.would_admit());
    }
    assert_eq!(site.breaker.state(), State::Open);
    let probe = site.breaker.admit(None).unwrap();
    assert!(!site.breaker.would_admit());
    drop(probe);
    assert!(site.breaker.would_admit());

    site.breaker.force_open();
    assert!(!site.breaker.would_admit());
    let rejections = recorded.counters("steadfast_circuit_breaker_rejections_total");
    assert!(
        rejections.values().all(|&count| count == 0),
        "{rejections:?}"
    );
}

/// Else it would stay half-open for ever where all who choose take others.
#[tokio::test(start_paused = true)]
async fn who_asks_whether_a_call_would_pass_ends_the_silence_of_probes() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let probe = site.breaker.admit(None).unwrap();
    assert_eq!(site.breaker.state(), State::HalfOpen);

    advance(BreakerConfig::DEFAULT_HALF_OPEN_LIMIT).await;
    assert!(!site.breaker.would_admit());
    assert_eq!(site.breaker.state(), State::Open);

    probe.record(Verdict::Success);
    assert_eq!(site.breaker.state(), State::Open);
    advance(site.breaker.snapshot().open_left()).await;
    assert!(site.breaker.would_admit());
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_timed() {
    let breaker = breaker(steady().with_slow_calls(secs(2), 1.0, Window::Calls(2), 2));
    for _ in 0..2 {
        let permit = breaker.admit(None).unwrap();
        advance(secs(2)).await;
        permit.record(Verdict::Success);
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_with_a_permit_in_hand_gives_it_back() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let permit = site.breaker.admit(None).unwrap();

    let task = tokio::spawn(async move {
        let _permit = permit;
        panic!("it goes wrong");
    });
    assert!(task.await.unwrap_err().is_panic());

    assert!(site.breaker.admit(None).is_ok());
}

#[tokio::test(start_paused = true)]
async fn permits_move_between_threads_and_show_their_breaker() {
    let breaker = breaker(steady());
    let permit = breaker.admit(None).unwrap();
    assert!(format!("{permit:?}").contains("destination"));

    std::thread::spawn(move || permit.record(failure()))
        .join()
        .unwrap();

    assert_eq!(run(&breaker), 1);
}
