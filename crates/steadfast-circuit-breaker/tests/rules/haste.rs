//! circuit-breaker B6: callers who wait for less than the least wait say nothing by leaving.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll,
    time::Duration,
};

use steadfast_circuit_breaker::{BreakerConfig, CircuitBreakerLayer, State};
use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};
use steadfast_http::{Deadline, problem::Code};
use tokio::time::{Instant, advance};

use crate::support::{
    Get, Piece, Recorded, Reply, Site, Step, answer, breaker, brittle, broken, failure, get, local,
    millis, ok, outcomes, poll, poll_body, rejected, rpc, run, secs, steady, streamed, trailers,
    trailers_only, within,
};

/// A request for one attempt, whose limit is this.
fn limited(mut request: Get, time: Duration) -> Get {
    request.extensions_mut().insert(limit_of(time));
    request
}

fn limit_of(time: Duration) -> Deadline {
    Deadline::at(Instant::now() + time).with_limit(time)
}

async fn leave_after(site: &Site, time: Duration) {
    let call = site.pending(within(get(), time));
    advance(time).await;
    drop(call);
}

fn elapsed() -> Verdict {
    Failure::new(SafetyClass::Transient, Cause::Elapsed).into()
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_do_not_open_the_breaker_however_many_they_are() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    for left in [0, 1, 5, 99].repeat(20) {
        leave_after(&site, millis(left)).await;
    }
    assert_eq!(site.breaker.state(), State::Closed);
    assert_eq!(site.breaker.snapshot().failures().unwrap().calls, 0);
    assert_eq!(recorded.outcomes(), outcomes([("ignored", 80)]));

    for _ in 0..5 {
        leave_after(&site, millis(100)).await;
    }
    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_failures_goes_on_after_a_caller_in_a_hurry() {
    let site = Site::http(steady(), [Step::Hang]);
    for _ in 0..2 {
        leave_after(&site, secs(1)).await;
        leave_after(&site, millis(1)).await;
    }
    assert_eq!(run(&site.breaker), 2);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_an_attempt_counts_however_short_it_is() {
    for protocol in [CircuitBreakerLayer::http, CircuitBreakerLayer::grpc] {
        let site = Site::of(steady(), [Step::Hang], protocol);
        for _ in 0..5 {
            let call = site.pending(limited(get(), millis(1)));
            advance(millis(1)).await;
            drop(call);
        }
        assert_eq!(site.breaker.state(), State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn the_least_wait_is_a_setting_and_may_be_none() {
    for (least, left, failures) in [
        (secs(2), millis(1_999), 0),
        (secs(2), secs(2), 1),
        (millis(10), millis(9), 0),
        (millis(10), millis(10), 1),
        (Duration::ZERO, Duration::ZERO, 1),
    ] {
        let site = Site::http(steady().with_least_wait(least), [Step::Hang]);
        leave_after(&site, left).await;
        assert_eq!(run(&site.breaker), failures, "{left:?} of {least:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_although_its_caller_is_in_a_hurry() {
    for (step, outcome) in [(broken(), "failure"), (ok(), "success")] {
        let recorded = Recorded::new();
        let site = Site::http(steady(), [step]);

        site.send(within(get(), millis(1))).await.unwrap();

        assert_eq!(recorded.outcomes(), outcomes([(outcome, 1)]));
    }
}

#[tokio::test(start_paused = true)]
async fn half_of_a_limit_is_enough_and_less_is_not() {
    for (length, used, failures) in [
        (secs(1), millis(999), 0),
        (secs(1), millis(901), 0),
        (secs(1), millis(900), 1),
        (millis(50), millis(26), 0),
        (millis(50), millis(25), 1),
    ] {
        let site = Site::http(steady(), [Step::Hang]);
        let request = limited(get(), length);
        advance(used).await;

        let call = site.pending(request);
        advance(length - used).await;
        drop(call);

        assert_eq!(run(&site.breaker), failures, "{used:?} of {length:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_waits_on_after_its_deadline_waits() {
    let site = Site::http(steady(), [Step::Hang]);
    let call = site.pending(within(get(), millis(1)));
    advance(millis(100)).await;

    drop(call);

    assert_eq!(run(&site.breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_beneath_that_ends_a_call_before_its_deadline_counts() {
    let cut = local(504, Code::AttemptTimeout);
    for (cut_after, outcome) in [
        (10, "failure"),
        (87, "failure"),
        (88, "ignored"),
        (90, "ignored"),
    ] {
        let recorded = Recorded::new();
        let site = Site::http(steady(), [Step::After(millis(cut_after), cut.clone())]);

        site.send(within(get(), millis(90))).await.unwrap();

        assert_eq!(recorded.outcomes(), outcomes([(outcome, 1)]), "{cut_after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_told_of_the_time_and_says_that_it_is_over_says_nothing() {
    let end = || streamed([Piece::Text("a"), trailers(4)]);
    for answer in [trailers_only(4), end()] {
        for (after, outcome) in [(0, "ignored"), (99, "ignored"), (100, "failure")] {
            let recorded = Recorded::new();
            let step = Step::After(millis(after), answer.clone());
            let site = Site::grpc(brittle(), [step]);

            let response = site.send(within(rpc(), secs(1))).await.unwrap();
            read(response);

            assert_eq!(recorded.outcomes(), outcomes([(outcome, 1)]), "{after}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_grpc_alone_was_told_of_is_known() {
    let told = |mut request: Get| {
        let timeout = "50m".parse().unwrap();
        request.headers_mut().insert("grpc-timeout", timeout);
        request
    };
    let recorded = Recorded::new();
    let site = Site::grpc(steady(), [Step::Answer(trailers_only(4))]);
    read(site.send(told(rpc())).await.unwrap());
    assert_eq!(recorded.outcomes(), outcomes([("ignored", 1)]));

    site.script.play(Step::Hang);
    let call = site.pending(told(rpc()));
    advance(millis(100)).await;
    drop(call);
    assert_eq!(run(&site.breaker), 1);

    // What a layer around says is exact, and knows whose time it is.
    let call = site.pending(told(limited(rpc(), millis(40))));
    advance(millis(40)).await;
    drop(call);
    assert_eq!(run(&site.breaker), 2);

    let site = Site::http(steady(), [Step::Hang]);
    let call = site.pending(told(get()));
    advance(millis(100)).await;
    drop(call);
    assert_eq!(run(&site.breaker), 0, "in HTTP it is no deadline");
}

#[tokio::test(start_paused = true)]
async fn a_classifier_has_the_last_word_on_a_caller_in_a_hurry_too() {
    let site = Site::of(brittle(), [ok()], |breaker| {
        CircuitBreakerLayer::http(breaker).with_classifier(|_, _| elapsed())
    });

    site.send(within(get(), millis(1))).await.unwrap();

    assert_eq!(site.breaker.state(), State::Open);
}

fn read(mut response: Reply) {
    while let Poll::Ready(Some(frame)) = poll_body(response.body_mut()) {
        frame.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_gave_up_counts_since_nobody_told_it_of_the_time() {
    let site = Site::http(brittle(), [Step::Answer(answer(504))]);

    site.send(within(get(), millis(1))).await.unwrap();

    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_caller_in_a_hurry_makes_room_for_another_one() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;

    leave_after(&site, millis(1)).await;

    assert_eq!(site.breaker.state(), State::HalfOpen);
    let mut probe = site.pending(get());
    assert!(rejected(&site.get().await).is_some(), "one at a time");
    assert!(poll(&mut probe).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_time_a_server_says_is_over_makes_room_for_another_one() {
    let site = Site::grpc(steady(), [Step::Answer(trailers_only(4))]);
    site.recover().await;

    for _ in 0..5 {
        read(site.send(within(rpc(), millis(1))).await.unwrap());
        assert_eq!(site.breaker.state(), State::HalfOpen);
    }

    site.script.play(Step::Hang);
    let _probe = site.pending(rpc());
    assert!(rejected(&site.get().await).is_some(), "one at a time");
}

#[tokio::test(start_paused = true)]
async fn probes_in_a_hurry_do_not_keep_a_black_hole_half_open() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    for _ in 0..BreakerConfig::DEFAULT_HALF_OPEN_LIMIT.as_secs() * 20 {
        leave_after(&site, millis(50)).await;
        assert_eq!(site.breaker.state(), State::HalfOpen);
    }

    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_although_its_caller_is_in_a_hurry() {
    let site = Site::http(brittle(), [Step::PanicInPoll]);
    let mut call = site.start(within(get(), millis(1)));

    let polled = catch_unwind(AssertUnwindSafe(|| poll(&mut call)));
    drop(call);

    assert!(polled.is_err(), "it goes on to the caller");
    assert_eq!(site.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_a_caller_in_a_hurry_says_nothing_unless_its_verdict_is_of_the_destination() {
    let breaker = breaker(steady());
    let hasty = || Some(Deadline::at(Instant::now() + millis(1)));
    let permit = breaker.admit(hasty()).unwrap();
    advance(millis(1)).await;
    drop(permit);
    breaker.admit(hasty()).unwrap().record(elapsed());
    assert_eq!(run(&breaker), 0);

    breaker.admit(hasty()).unwrap().record(failure());
    assert_eq!(run(&breaker), 1);
    let permit = breaker.admit(Some(limit_of(millis(1)))).unwrap();
    advance(millis(1)).await;
    permit.record(elapsed());
    assert_eq!(run(&breaker), 2);
}
