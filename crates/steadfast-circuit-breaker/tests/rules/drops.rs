//! circuit-breaker B6: calls that end without a result.

use std::sync::{Arc, Weak};

use http_body::Body;
use steadfast_circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, State, When};
use tokio::time::advance;

use crate::support::{
    Call, Get, Piece, Recorded, Reply, Site, Step, answer_of, brittle, failure, get, is_gone,
    millis, outcomes, poll_body, record, rejected, rpc, run, secs, steady, streamed, trailers,
    within,
};

/// What the caller holds when it goes away.
enum Held {
    Call(std::pin::Pin<Box<Call>>),
    Body(Box<Reply>),
}

/// Its name, the layer, what the service does, and how to get there.
type Point = (
    &'static str,
    fn(CircuitBreaker) -> CircuitBreakerLayer,
    Step,
    fn(Arc<Site>, Get) -> Held,
);

fn at_the_end(breaker: CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::http(breaker).with_outcome_at(When::End)
}

fn head(site: &Site, request: Get) -> Box<Reply> {
    let mut call = site.start(request);
    match crate::support::poll(&mut call) {
        std::task::Poll::Ready(response) => Box::new(response.unwrap()),
        std::task::Poll::Pending => panic!("the script answers at once"),
    }
}

/// Each point at which a call can be dropped, such that nobody knows what became of it.
fn points() -> Vec<Point> {
    let stalls = || Step::Answer(streamed([Piece::Text("a"), Piece::Stall]));
    let in_mid_body = |site: Arc<Site>, request| {
        let mut response = head(&site, request);
        assert!(poll_body(response.body_mut()).is_ready());
        assert!(poll_body(response.body_mut()).is_pending());
        Held::Body(response)
    };
    vec![
        (
            "before the first poll",
            CircuitBreakerLayer::http,
            Step::Hang,
            |site, request| Held::Call(site.start(request)),
        ),
        (
            "while it waits",
            CircuitBreakerLayer::http,
            Step::Hang,
            |site, request| Held::Call(site.pending(request)),
        ),
        (
            "while a gRPC call waits",
            CircuitBreakerLayer::grpc,
            Step::Hang,
            |site, request| Held::Call(site.pending(request)),
        ),
        (
            "after the head of a gRPC call",
            CircuitBreakerLayer::grpc,
            stalls(),
            |site, request| Held::Body(head(&site, request)),
        ),
        (
            "in the body of a gRPC call",
            CircuitBreakerLayer::grpc,
            stalls(),
            in_mid_body,
        ),
    ]
}

/// Those of them at which no head has come.
fn points_before_a_head() -> Vec<Point> {
    let mut points = points();
    points.truncate(3);
    points
}

fn drop_it(held: Held) {
    match held {
        Held::Call(call) => drop(call),
        Held::Body(body) => drop(body),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_closed_says_nothing() {
    for (name, layer, step, until) in points() {
        for deadline in [None, Some(secs(10))] {
            let recorded = Recorded::new();
            let site = Arc::new(Site::of(brittle(), [step.clone()], layer));
            let request = match deadline {
                Some(deadline) => within(get(), deadline),
                None => get(),
            };
            let held = until(Arc::clone(&site), request);
            advance(secs(9)).await;

            drop_it(held);

            assert_eq!(site.breaker.state(), State::Closed, "{name}");
            assert_eq!(site.breaker.snapshot().failures().unwrap().calls, 0);
            assert_eq!(recorded.outcomes(), [], "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_after_its_deadline_has_failed() {
    for (name, layer, step, until) in points_before_a_head() {
        let recorded = Recorded::new();
        let site = Arc::new(Site::of(steady(), [step], layer));
        let held = until(Arc::clone(&site), within(get(), secs(10)));
        advance(secs(10)).await;

        drop_it(held);

        assert_eq!(run(&site.breaker), 1, "{name}");
        assert_eq!(recorded.outcomes(), outcomes([("failure", 1)]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_makes_room_at_once_and_only_for_one() {
    for (name, layer, step, until) in points() {
        let recorded = Recorded::new();
        let site = Arc::new(Site::of(steady(), [step.clone()], layer));
        site.recover().await;
        for _ in 0..5 {
            let held = until(Arc::clone(&site), within(get(), secs(10)));
            assert!(rejected(&site.get().await).is_some(), "{name}");

            drop_it(held);

            assert_eq!(site.breaker.state(), State::HalfOpen, "{name}");
        }
        let _probe = until(Arc::clone(&site), get());
        assert!(rejected(&site.get().await).is_some(), "{name}");
        assert_eq!(recorded.outcomes(), outcomes([("failure", 5)]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_after_its_deadline_has_failed() {
    for (name, layer, step, until) in points_before_a_head() {
        let site = Arc::new(Site::of(steady(), [step], layer));
        site.recover().await;
        let held = until(Arc::clone(&site), within(get(), secs(10)));
        advance(secs(10)).await;

        drop_it(held);

        assert_eq!(site.breaker.state(), State::Open, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_read_when_the_call_is_admitted() {
    let site = Site::http(steady(), [Step::Hang]);
    let request = within(get(), secs(1));
    advance(millis(950)).await;

    let call = site.pending(request);
    advance(millis(50)).await;
    drop(call);
    assert_eq!(run(&site.breaker), 0, "50 ms were left by then");

    let call = site.pending(within(get(), secs(1)));
    advance(secs(1)).await;
    drop(call);
    assert_eq!(run(&site.breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_after_a_good_head_is_a_success_where_the_end_decides() {
    for polls in [0, 1, 2] {
        let recorded = Recorded::new();
        let pieces = [Piece::Text("a"), Piece::Stall];
        let site = Site::of(steady(), [Step::Answer(answer_of(200, pieces))], at_the_end);
        record(&site.breaker, failure());
        let mut response = head(&site, within(get(), secs(10)));
        for _ in 0..polls {
            let _ = poll_body(response.body_mut());
        }
        assert_eq!(run(&site.breaker), 1, "not before");

        drop(response);

        assert_eq!(run(&site.breaker), 0);
        assert_eq!(
            recorded.outcomes(),
            outcomes([("failure", 1), ("success", 1)]),
            "{polls}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_with_the_head_where_the_end_decides() {
    let recorded = Recorded::new();
    let pieces = [Piece::Text("a"), Piece::Stall];
    let site = Site::of(steady(), [Step::Answer(answer_of(200, pieces))], at_the_end);
    let response = head(&site, within(get(), secs(10)));
    advance(secs(10)).await;

    drop(response);

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcomes(), outcomes([("success", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_head_decided_says_nothing_any_more_whatever_happens_to_it() {
    let recorded = Recorded::new();
    for pieces in [
        vec![Piece::Text("a"), Piece::Stall],
        vec![Piece::Fail],
        vec![Piece::Text("a"), Piece::Fail],
    ] {
        let site = Site::http(steady(), [Step::Answer(answer_of(200, pieces))]);
        let mut response = head(&site, within(get(), secs(10)));
        let _ = poll_body(response.body_mut());
        let _ = poll_body(response.body_mut());
        advance(secs(10)).await;
        drop(response);
        assert_eq!(run(&site.breaker), 0);
    }
    assert_eq!(recorded.outcomes(), outcomes([("success", 3)]));
}

/// The end comes after the trailers; who asks for it, and drops the body then, has told nothing new.
#[tokio::test(start_paused = true)]
async fn a_probe_that_was_read_to_its_end_makes_room_only_once() {
    type Case = (
        &'static str,
        fn(CircuitBreaker) -> CircuitBreakerLayer,
        Vec<Piece>,
    );
    let cases: [Case; 6] = [
        ("trailers", CircuitBreakerLayer::grpc, vec![trailers(0)]),
        (
            "trailers and a quiet end",
            CircuitBreakerLayer::grpc,
            vec![Piece::Text("a"), trailers(0), Piece::Quiet],
        ),
        ("no body", at_the_end, vec![]),
        ("a body", at_the_end, vec![Piece::Text("a")]),
        (
            "a quiet end",
            at_the_end,
            vec![Piece::Text("a"), Piece::Quiet],
        ),
        (
            "an end that is asked for twice",
            at_the_end,
            vec![Piece::Quiet, Piece::Quiet],
        ),
    ];
    for (name, layer, pieces) in cases {
        let site = Site::of(steady(), [Step::Answer(streamed(pieces))], layer);
        site.recover().await;
        let mut response = head(&site, rpc());
        while let std::task::Poll::Ready(Some(frame)) = poll_body(response.body_mut()) {
            frame.unwrap();
        }
        let _ = poll_body(response.body_mut());
        assert_eq!(site.breaker.state(), State::HalfOpen);
        site.script.play(Step::Hang);
        let _probe = site.pending(get());

        drop(response);

        assert!(rejected(&site.get().await).is_some(), "{name}");
        assert_eq!(site.script.most_under_way(), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_ended_does_not_fail_by_its_deadline_later() {
    let recorded = Recorded::new();
    let site = Site::grpc(
        steady(),
        [Step::Answer(streamed([
            Piece::Text("a"),
            trailers(0),
            Piece::Quiet,
        ]))],
    );
    let mut response = head(&site, within(rpc(), secs(1)));
    while let std::task::Poll::Ready(Some(frame)) = poll_body(response.body_mut()) {
        frame.unwrap();
    }
    advance(secs(1)).await;

    drop(response);

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcomes(), outcomes([("success", 1)]));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_keeps_no_breaker_alive() {
    let alive = Arc::new(());
    let weak: Weak<()> = Arc::downgrade(&alive);
    for (_, layer, step, until) in points() {
        let site = Arc::new(Site::of(steady(), [step], layer));
        let hold = Arc::clone(&alive);
        site.breaker.on_transition(move |_, _| {
            let _ = &hold;
        });
        let held = until(Arc::clone(&site), get());
        drop(site);
        assert!(Arc::strong_count(&alive) > 1, "the call holds it");

        drop_it(held);

        assert_eq!(Arc::strong_count(&alive), 1);
    }
    drop(alive);
    assert!(is_gone(&weak));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_is_dropped_says_nothing() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let _probe = site.pending(get());

    drop(site.start(get()));
    let response = site.get().await;
    assert!(response.body().size_hint().exact().is_some());
    drop(response);

    assert!(rejected(&site.get().await).is_some());
    assert_eq!(site.breaker.state(), State::HalfOpen);
    assert_eq!(recorded.counter("rejections_total{refusal=probing}"), 3);
}
