//! circuit-breaker B8.

use std::task::Poll;

use http_body::Body;
use http_body_util::BodyExt;
use steadfast_circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, When};

use crate::support::{
    Answer, Piece, Recorded, Reply, Site, Step, answer, answer_of, failure, local, outcomes,
    poll_body, record, rpc, run, steady, streamed, trailers, trailers_only, with_field,
};

fn http_at_the_end(breaker: CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::http(breaker).with_outcome_at(When::End)
}

fn grpc_at_the_head(breaker: CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::grpc(breaker).with_outcome_at(When::Head)
}

/// After one failure, and the head of this answer.
async fn head(
    layer: fn(CircuitBreaker) -> CircuitBreakerLayer,
    answer: Answer,
) -> (Recorded, Site, Reply) {
    let recorded = Recorded::new();
    let site = Site::of(steady(), [Step::Answer(answer)], layer);
    record(&site.breaker, failure());
    let response = site.send(rpc()).await.unwrap();
    (recorded, site, response)
}

/// Reads as those do who send a body on: no further than to an end that is known.
fn forward(response: &mut Reply) {
    while !response.body().is_end_stream() {
        match poll_body(response.body_mut()) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return,
        }
    }
}

fn grpc_at_a_head_that_is_distrusted(breaker: CircuitBreaker) -> CircuitBreakerLayer {
    grpc_at_the_head(breaker).with_classifier(|_, _| failure())
}

#[tokio::test(start_paused = true)]
async fn a_grpc_head_that_decides_is_shown_to_the_classifier() {
    let answer = streamed([Piece::Text("a"), Piece::Stall]);
    let (_recorded, site, _response) = head(grpc_at_a_head_that_is_distrusted, answer).await;

    assert_eq!(run(&site.breaker), 2);
}

#[tokio::test(start_paused = true)]
async fn http_is_decided_by_the_head() {
    let pieces = [Piece::Text("a"), Piece::Stall];
    let (recorded, site, _response) = head(CircuitBreakerLayer::http, answer_of(200, pieces)).await;

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcome("success"), 1);
}

#[tokio::test(start_paused = true)]
async fn http_can_wait_for_the_end_of_the_body() {
    let pieces = [Piece::Text("a"), Piece::Text("b"), Piece::Quiet];
    let (recorded, site, mut response) = head(http_at_the_end, answer_of(200, pieces)).await;
    for _ in 0..2 {
        assert!(matches!(
            poll_body(response.body_mut()),
            Poll::Ready(Some(_))
        ));
        assert_eq!(run(&site.breaker), 1);
    }

    assert!(matches!(poll_body(response.body_mut()), Poll::Ready(None)));

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(
        recorded.outcomes(),
        outcomes([("failure", 1), ("success", 1)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_a_failure_where_the_end_decides() {
    for layer in [http_at_the_end, CircuitBreakerLayer::grpc] {
        let pieces = [Piece::Text("a"), Piece::Fail];
        let (recorded, site, mut response) = head(layer, streamed(pieces)).await;
        forward(&mut response);
        assert_eq!(run(&site.breaker), 2);
        drop(response);
        assert_eq!(recorded.outcomes(), outcomes([("failure", 2)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_another_layer_cut_off_says_nothing() {
    for layer in [http_at_the_end, CircuitBreakerLayer::grpc] {
        let pieces = [Piece::Text("a"), Piece::Refuse];
        let (recorded, site, mut response) = head(layer, streamed(pieces)).await;
        forward(&mut response);
        drop(response);
        assert_eq!(run(&site.breaker), 1);
        assert_eq!(
            recorded.outcomes(),
            outcomes([("failure", 1), ("ignored", 1)])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_head_decides_at_once_and_once() {
    let pieces = [Piece::Text("a"), Piece::Fail];
    let (recorded, site, mut response) = head(http_at_the_end, answer_of(503, pieces)).await;
    assert_eq!(run(&site.breaker), 2);

    forward(&mut response);
    drop(response);

    assert_eq!(recorded.outcomes(), outcomes([("failure", 2)]));

    let rejection = local(503, steadfast_http::problem::Code::CircuitOpen);
    let (recorded, _site, _response) = head(http_at_the_end, rejection).await;
    assert_eq!(
        recorded.outcomes(),
        outcomes([("failure", 1), ("ignored", 1)])
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_has_ended_with_its_head() {
    let (recorded, site, response) = head(http_at_the_end, answer_of(204, [])).await;
    assert!(response.body().is_end_stream());
    assert_eq!(run(&site.breaker), 0);
    drop(response);
    assert_eq!(recorded.outcome("success"), 1);

    let (recorded, site, response) = head(CircuitBreakerLayer::grpc, streamed([])).await;
    assert_eq!(run(&site.breaker), 2, "gRPC without a code");
    drop(response);
    assert_eq!(recorded.outcome("failure"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_known_to_have_ended_needs_nobody_to_ask() {
    let (recorded, site, mut response) = head(http_at_the_end, answer(200)).await;
    forward(&mut response);
    assert_eq!(run(&site.breaker), 0);
    drop(response);
    assert_eq!(recorded.outcome("success"), 1);

    let pieces = [Piece::Text("a"), trailers(0)];
    let (recorded, site, mut response) = head(CircuitBreakerLayer::grpc, streamed(pieces)).await;
    forward(&mut response);
    assert_eq!(run(&site.breaker), 0);
    drop(response);
    assert_eq!(recorded.outcome("success"), 1);
}

#[tokio::test(start_paused = true)]
async fn trailers_end_an_http_body_and_say_nothing_else() {
    let pieces = [Piece::Text("a"), trailers(14)];
    let (recorded, site, response) = head(http_at_the_end, answer_of(200, pieces)).await;
    let collected = response.into_body().collect().await.unwrap();

    assert_eq!(collected.trailers().unwrap()["grpc-status"], "14");
    assert_eq!(collected.to_bytes(), "a");
    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcome("success"), 1);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_decided_by_its_trailers_and_not_before() {
    for (code, expected) in [(0, 0), (14, 2), (5, 0)] {
        let pieces = [Piece::Text("a"), trailers(code)];
        let (recorded, site, mut response) =
            head(CircuitBreakerLayer::grpc, streamed(pieces)).await;
        assert!(poll_body(response.body_mut()).is_ready());
        assert_eq!(run(&site.breaker), 1, "not before");
        assert!(poll_body(response.body_mut()).is_ready());

        assert_eq!(run(&site.breaker), expected, "{code}");
        drop(response);
        let calls: u64 = recorded.outcomes().iter().map(|(_, count)| count).sum();
        assert_eq!(calls, 2, "each once");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_whose_code_is_in_the_head_is_decided_by_it() {
    let (_recorded, site, _response) = head(CircuitBreakerLayer::grpc, trailers_only(14)).await;
    assert_eq!(run(&site.breaker), 2);
    let (_recorded, site, _response) = head(CircuitBreakerLayer::grpc, trailers_only(0)).await;
    assert_eq!(run(&site.breaker), 0);
}

#[tokio::test(start_paused = true)]
async fn grpc_without_trailers_is_a_failure() {
    for pieces in [
        vec![Piece::Text("a")],
        vec![Piece::Text("a"), Piece::Quiet],
        vec![Piece::Quiet],
        vec![Piece::Trailers(http::HeaderMap::new())],
    ] {
        let (recorded, site, mut response) =
            head(CircuitBreakerLayer::grpc, streamed(pieces)).await;
        forward(&mut response);
        drop(response);
        assert_eq!(run(&site.breaker), 2);
        assert_eq!(recorded.outcomes(), outcomes([("failure", 2)]));
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_that_is_dropped_before_its_trailers_is_ignored_and_after_them_it_is_not() {
    for (polls, calls, expected) in [(0, 1, 1), (1, 1, 1), (2, 2, 2)] {
        let pieces = [Piece::Text("a"), trailers(14)];
        let (recorded, site, mut response) =
            head(CircuitBreakerLayer::grpc, streamed(pieces)).await;
        for _ in 0..polls {
            assert!(poll_body(response.body_mut()).is_ready());
        }

        drop(response);

        assert_eq!(run(&site.breaker), expected, "{polls}");
        let (total, success) = (recorded.outcome("failure"), recorded.outcome("success"));
        assert_eq!((total, success), (calls, 0), "{polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_can_be_decided_by_the_head_where_its_code_is_not_waited_for() {
    let pieces = [Piece::Text("a"), trailers(14)];
    let (recorded, site, mut response) = head(grpc_at_the_head, streamed(pieces)).await;
    assert_eq!(run(&site.breaker), 0);

    forward(&mut response);

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcome("success"), 1);
    let (_recorded, site, _response) = head(grpc_at_the_head, trailers_only(14)).await;
    assert_eq!(run(&site.breaker), 2);
}

#[tokio::test(start_paused = true)]
async fn the_body_passes_as_it_is() {
    for layer in [
        CircuitBreakerLayer::http,
        CircuitBreakerLayer::grpc,
        http_at_the_end,
        grpc_at_the_head,
    ] {
        let pieces = [
            Piece::Text("a"),
            Piece::Text("b"),
            trailers(0),
            Piece::Quiet,
        ];
        let answer = with_field(streamed(pieces), "x-other", "1");
        let (_recorded, _site, response) = head(layer, answer).await;
        assert_eq!(response.headers()["x-other"], "1");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "ab");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_wakes_its_reader() {
    let pieces = [
        Piece::Pause(crate::support::secs(3)),
        Piece::Text("a"),
        Piece::Quiet,
    ];
    let (recorded, _site, response) = head(http_at_the_end, answer_of(200, pieces)).await;
    let collected = response.into_body().collect().await.unwrap();

    assert_eq!(collected.to_bytes(), "a");
    assert_eq!(recorded.outcome("success"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_slow_call_runs_to_what_decides_it() {
    let config = steady().with_slow_calls(
        crate::support::secs(2),
        1.0,
        steadfast_circuit_breaker::Window::Calls(9),
        9,
    );
    let pieces = [Piece::Pause(crate::support::secs(2)), Piece::Text("a")];
    for (layer, slow) in [
        (
            CircuitBreakerLayer::http as fn(CircuitBreaker) -> CircuitBreakerLayer,
            0,
        ),
        (http_at_the_end, 1),
    ] {
        let recorded = Recorded::new();
        let answer = answer_of(200, pieces.clone());
        let site = Site::of(config, [Step::Answer(answer)], layer);
        site.get().await.into_body().collect().await.unwrap();

        let counts = site.breaker.snapshot().slow_calls().unwrap();
        assert_eq!((counts.calls, counts.failures), (1, slow));
        assert_eq!(recorded.outcome("slow"), slow);
        assert_eq!(recorded.outcome("success"), 1 - slow);
    }
}
