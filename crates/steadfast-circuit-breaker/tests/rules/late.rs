//! circuit-breaker B5.

use steadfast_circuit_breaker::{Refusal, State, Verdict};
use tokio::time::advance;

use crate::support::{
    Piece, Recorded, Site, Step, answer, failure, get, ok, outcomes, poll_body, record, rejected,
    rpc, run, secs, steady, streamed, trailers, within,
};

#[tokio::test(start_paused = true)]
async fn a_result_that_comes_when_it_is_open_changes_nothing() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::After(secs(5), answer(200))]);
    let mut good = site.pending(get());
    site.script.play(Step::After(secs(5), answer(503)));
    let mut bad = site.pending(get());
    site.trip();

    advance(secs(5)).await;
    (&mut good).await.unwrap();
    (&mut bad).await.unwrap();

    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(site.breaker.snapshot().open_left(), secs(25));
    assert_eq!(recorded.stale(), 2);
    assert_eq!(recorded.outcomes(), outcomes([("failure", 5)]));
}

#[tokio::test(start_paused = true)]
async fn late_successes_do_not_close_a_half_open_one_and_late_failures_do_not_open_it() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    let mut late = Vec::new();
    for status in [200, 200, 200, 200, 503, 429] {
        site.script.play(Step::After(secs(60), answer(status)));
        late.push(site.pending(get()));
    }
    site.recover().await;
    site.script.play(Step::Hang);
    let _probe = site.pending(get());

    advance(secs(30)).await;
    for (number, call) in late.iter_mut().enumerate() {
        call.await.unwrap();
        assert_eq!(site.breaker.state(), State::HalfOpen, "{number}");
    }

    assert_eq!(recorded.stale(), 6);
    let response = site.get().await;
    assert_eq!(
        rejected(&response).unwrap().refusal(),
        Refusal::Open,
        "late successes do not prolong the wait either"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_is_not_counted_by_the_next_closed_one() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::After(secs(60), answer(503))]);
    let mut late = site.pending(get());
    site.recover().await;
    site.script.play(ok());
    for _ in 0..3 {
        site.get().await;
    }
    assert_eq!(site.breaker.state(), State::Closed);
    advance(secs(30)).await;
    record(&site.breaker, failure());

    (&mut late).await.unwrap();

    assert_eq!(run(&site.breaker), 1);
    assert_eq!(site.breaker.snapshot().failures().unwrap().calls, 1);
    assert_eq!(recorded.stale(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_success_does_not_end_the_run_of_the_next_closed_one() {
    let site = Site::http(steady(), [Step::Hang]);
    let late = site.breaker.admit(None).unwrap();
    site.breaker.reset();
    record(&site.breaker, failure());

    late.record(Verdict::Success);

    assert_eq!(run(&site.breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_probe_of_an_earlier_half_open_time_changes_nothing_in_the_next() {
    let recorded = Recorded::new();
    for status in [200, 503] {
        let site = Site::http(steady().with_probes(2, 1), [Step::Hang]);
        site.recover().await;
        site.script.play(Step::After(secs(35), answer(status)));
        let mut late = site.pending(get());
        record(&site.breaker, failure());
        assert_eq!(site.breaker.state(), State::Open);
        advance(secs(30)).await;
        site.script.play(Step::Hang);
        let _probe = site.pending(get());

        advance(secs(5)).await;
        (&mut late).await.unwrap();

        assert_eq!(site.breaker.state(), State::HalfOpen, "{status}");
        let _second = site.pending(get());
        assert!(rejected(&site.get().await).is_some(), "two at a time");
    }
    assert_eq!(recorded.stale(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_probe_that_is_dropped_makes_no_room_in_the_next_half_open_time() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let late = site.pending(get());
    advance(secs(30)).await;
    assert!(rejected(&site.get().await).is_some());
    advance(secs(30)).await;
    let _probe = site.pending(get());

    drop(late);

    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.breaker.state(), State::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_under_way_at_a_command_is_stale() {
    for command in [
        steadfast_circuit_breaker::CircuitBreaker::reset as fn(&_),
        steadfast_circuit_breaker::CircuitBreaker::disable,
        steadfast_circuit_breaker::CircuitBreaker::observe_only,
        steadfast_circuit_breaker::CircuitBreaker::force_open,
    ] {
        let recorded = Recorded::new();
        let site = Site::http(steady().with_consecutive_failures(1), [ok()]);
        let late = site.breaker.admit(None).unwrap();
        command(&site.breaker);
        let state = site.breaker.state();

        late.record(failure());

        assert_eq!(site.breaker.state(), state);
        assert_eq!(run(&site.breaker), 0);
        assert_eq!(recorded.stale(), 1);
        assert_eq!(recorded.outcomes(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn late_ends_and_late_trailers_are_stale_too() {
    let recorded = Recorded::new();
    let site = Site::grpc(
        steady(),
        [Step::Answer(streamed([Piece::Text("a"), trailers(14)]))],
    );
    let mut response = site.send(rpc()).await.unwrap();
    site.trip();
    site.breaker.force_closed();

    while let std::task::Poll::Ready(Some(frame)) = poll_body(response.body_mut()) {
        frame.unwrap();
    }

    assert_eq!(recorded.stale(), 1);
    assert_eq!(run(&site.breaker), 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_drop_past_the_deadline_is_stale() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    let late = site.pending(within(get(), secs(1)));
    site.breaker.reset();
    advance(secs(2)).await;

    drop(late);

    assert_eq!(recorded.stale(), 1);
    assert_eq!(run(&site.breaker), 0);
}
