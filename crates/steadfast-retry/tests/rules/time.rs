//! retry R8, but for the bodies of responses.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use steadfast_http::{
    Deadline, LocalRejection,
    grpc::{self, Code as GrpcCode},
    problem::{Code, Problem},
};
use steadfast_retry::{ResponseBody, RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

#[cfg(feature = "tonic")]
use crate::support::Answer;
use crate::support::{
    Flow, Piece, Script, Seen, Step, answer, call, get, grpc as grpc_layer, marked, millis, post,
    retry_after, rpc, stopped_by, trailers_only, waiting,
};

const HOUR: Duration = Duration::from_secs(3_600);
const UNAVAILABLE: u32 = 14;
const DEADLINE_EXCEEDED: u32 = 4;

fn layer(config: RetryConfig) -> RetryLayer {
    RetryLayer::http().with_config(config).unwrap()
}

fn grpc_with(config: RetryConfig) -> RetryLayer {
    grpc_layer().with_config(config).unwrap()
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What a layer says where there is no result.
#[track_caller]
fn assert_refused<B>(response: &Response<B>, code: Code, attempts: u32, stopped_by: StoppedBy) {
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let rejection = response.extensions().get::<LocalRejection>().unwrap();
    assert_eq!(rejection.code(), code);
    let problem = response.extensions().get::<Problem>().unwrap();
    assert_eq!(problem.code(), code);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), attempts);
    assert_eq!(outcome.stopped_by(), stopped_by);
}

/// When each attempt started.
fn starts(script: &Script) -> Vec<Duration> {
    script.seen().iter().map(|seen| seen.at).collect()
}

#[tokio::test(start_paused = true)]
async fn unconfigured_an_upload_of_an_hour_arrives_and_so_does_its_answer() {
    for method in ["POST", "PUT"] {
        let script = Script::new([Step::Answer(answer(200))]);
        let pieces = (0..60).flat_map(|_| [Piece::Pause(HOUR / 60), Piece::text("a minute ")]);
        let request = Request::builder().method(method).uri("/uploads/1");
        let request = request.body(Flow::new(pieces)).unwrap();
        let started = Instant::now();

        let response = call(&RetryLayer::http(), &script, request).await.unwrap();

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(started.elapsed(), HOUR);
        let seen = &script.seen()[0];
        assert_eq!(seen.body.as_ref().unwrap(), &"a minute ".repeat(60));
    }
}

#[tokio::test(start_paused = true)]
async fn unconfigured_a_response_that_takes_an_hour_arrives() {
    for request in [get(), post("an order")] {
        let script = Script::new([Step::After(HOUR, answer(200))]);
        let started = Instant::now();

        let response = call(&RetryLayer::http(), &script, request).await.unwrap();

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(started.elapsed(), HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn unconfigured_a_further_attempt_may_take_an_hour() {
    let script = Script::new([
        Step::After(secs(29), answer(503)),
        Step::After(HOUR, answer(200)),
    ]);
    let started = Instant::now();

    let response = call(&layer(waiting(500)), &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.calls(), 2);
    assert_eq!(
        started.elapsed(),
        HOUR + secs(29) + Duration::from_millis(500)
    );
}

#[tokio::test(start_paused = true)]
async fn unconfigured_a_stream_of_an_hour_arrives_whole() {
    let layer = layer(waiting(10));

    let received = stream_of_an_hour(&layer).await;

    assert_eq!(received, "an event ".repeat(60));
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_at_the_head_of_the_response() {
    let config = waiting(10)
        .with_deadline(secs(2))
        .with_attempt_timeout(secs(1));

    let received = stream_of_an_hour(&layer(config)).await;

    assert_eq!(received, "an event ".repeat(60));
}

async fn stream_of_an_hour(layer: &RetryLayer) -> Bytes {
    let service = layer.layer(service_fn(|_: Request<_>| async {
        let pieces = (0..60).flat_map(|_| [Piece::Pause(HOUR / 60), Piece::text("an event ")]);
        Ok::<_, Infallible>(Response::new(Flow::new(pieces)))
    }));
    let started = Instant::now();
    let response = service.oneshot(get()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(started.elapsed(), HOUR);
    body.to_bytes()
}

#[tokio::test(start_paused = true)]
async fn unconfigured_nothing_is_told_to_the_service() {
    let (script, rpcs) = (
        Script::new([Step::Answer(answer(503))]),
        Script::new([Step::Answer(trailers_only(UNAVAILABLE))]),
    );

    call(&layer(waiting(10)), &script, get()).await.unwrap();
    call(&grpc_with(waiting(10)), &rpcs, marked(rpc()))
        .await
        .unwrap();

    for seen in script.seen().iter().chain(&rpcs.seen()) {
        assert_eq!(Deadline::of(&seen.head.extensions), None);
        assert!(!seen.head.headers.contains_key(grpc::TIMEOUT));
    }
    assert_eq!(script.calls() + rpcs.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn unconfigured_no_attempt_starts_after_30_seconds() {
    for (first, calls) in [(29, 2), (30, 1), (31, 1)] {
        let script = Script::new([
            Step::After(secs(first), answer(503)),
            Step::Answer(answer(200)),
        ]);

        let response = call(&layer(waiting(900)), &script, get()).await.unwrap();

        assert_eq!(script.calls(), calls, "{first} s");
        if calls == 1 {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(stopped_by(&response), Some(StoppedBy::Deadline));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unconfigured_a_wait_that_would_end_after_30_seconds_is_not_begun() {
    for (hint, calls) in [("29", 2), ("31", 1)] {
        let script = Script::new([
            Step::Answer(retry_after(503, hint)),
            Step::Answer(answer(200)),
        ]);
        let started = Instant::now();

        let response = call(&layer(waiting(10)), &script, get()).await.unwrap();

        assert_eq!(script.calls(), calls, "{hint} s");
        if calls == 1 {
            assert_eq!(stopped_by(&response), Some(StoppedBy::Deadline));
            assert_eq!(started.elapsed(), Duration::ZERO);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_cut_and_another_one_made() {
    let script = Script::new([Step::Hang, Step::Answer(answer(200))]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(starts(&script), millis([0, 1_010]));
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 2);
    assert_eq!(outcome.stopped_by(), StoppedBy::Success);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_ends_within_its_time_is_not_cut() {
    let script = Script::new([Step::After(Duration::from_millis(999), answer(200))]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_is_cut_is_answered_with_504_attempt_timeout() {
    let script = Script::new([Step::Hang]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(starts(&script), millis([0, 1_010, 2_020]));
    assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
    let problem = response.extensions().get::<Problem>().unwrap();
    assert!(problem.retryable());
}

#[tokio::test(start_paused = true)]
async fn a_post_whose_attempt_took_too_long_is_not_sent_again() {
    let script = Script::new([Step::Hang]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let response = call(&layer, &script, post("an order")).await.unwrap();

    assert_eq!(script.calls(), 1);
    assert_refused(&response, Code::AttemptTimeout, 1, StoppedBy::NotIdempotent);
    let problem = response.extensions().get::<Problem>().unwrap();
    assert!(!problem.retryable(), "it may have been processed");
}

#[tokio::test(start_paused = true)]
async fn a_marked_post_whose_attempt_took_too_long_is_sent_again() {
    let script = Script::new([Step::Hang, Step::Answer(answer(200))]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let response = call(&layer, &script, marked(post("an order")))
        .await
        .unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    let [_, second] = &script.seen()[..] else {
        panic!("it was not sent again");
    };
    assert_eq!(second.body.as_deref(), Some(&b"an order"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_takes_longer_than_its_attempt_is_cut_and_sent_again_whole() {
    let script = Script::new([Step::Answer(answer(200))]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));
    let pause = Piece::Pause(Duration::from_millis(600));
    let flow = Flow::new([
        pause.clone(),
        Piece::text("an "),
        pause,
        Piece::text("order"),
    ]);

    let request = Request::put("/orders/1").body(flow).unwrap();
    let response = call(&layer, &script, request).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    let [first, second] = &script.seen()[..] else {
        panic!("it was sent {} times", script.calls());
    };
    assert_eq!(first.body, None, "it was cut");
    assert_eq!(second.body.as_deref(), Some(&b"an order"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cuts_the_attempt_that_is_under_way() {
    let script = Script::new([Step::Hang]);
    let layer = layer(waiting(10).with_deadline(secs(3)));
    let started = Instant::now();

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(started.elapsed(), secs(3));
    assert_eq!(script.calls(), 1);
    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
    let problem = response.extensions().get::<Problem>().unwrap();
    assert!(!problem.retryable());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_spans_attempts_and_waits() {
    let script = Script::new([Step::After(secs(1), answer(503)), Step::Hang]);
    let layer = layer(waiting(1_500).with_deadline(secs(3)));
    let started = Instant::now();

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(started.elapsed(), secs(3));
    assert_eq!(starts(&script), millis([0, 2_500]));
    assert_refused(&response, Code::DeadlinePassed, 2, StoppedBy::Deadline);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_fit_before_the_deadline_is_not_begun() {
    for (deadline, calls) in [(1_499, 1), (1_500, 1), (1_501, 2)] {
        let script = Script::new([Step::Answer(answer(503)), Step::Answer(answer(200))]);
        let layer = layer(waiting(1_500).with_deadline(Duration::from_millis(deadline)));
        let started = Instant::now();

        let response = call(&layer, &script, get()).await.unwrap();

        assert_eq!(script.calls(), calls, "{deadline} ms");
        if calls == 1 {
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(stopped_by(&response), Some(StoppedBy::Deadline));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_gets_the_least_of_its_own_time_and_what_remains() {
    let script = Script::new([Step::Hang]);
    let config = waiting(10)
        .with_attempt_timeout(secs(2))
        .with_deadline(secs(3));
    let started = Instant::now();

    let response = call(&layer(config), &script, get()).await.unwrap();

    assert_eq!(started.elapsed(), secs(3));
    assert_eq!(starts(&script), millis([0, 2_010]));
    assert_refused(&response, Code::DeadlinePassed, 2, StoppedBy::Deadline);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_request_counts_where_none_is_configured() {
    let script = Script::new([Step::Hang]);
    let started = Instant::now();

    let response = call(&RetryLayer::http(), &script, with_deadline(get(), secs(2)))
        .await
        .unwrap();

    assert_eq!(started.elapsed(), secs(2));
    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
}

#[tokio::test(start_paused = true)]
async fn of_the_deadlines_of_request_and_layer_the_earlier_counts() {
    for (configured, requested, counts) in [(5, 2, 2), (2, 5, 2)] {
        let script = Script::new([Step::Hang]);
        let layer = layer(waiting(10).with_deadline(secs(configured)));
        let started = Instant::now();

        let request = with_deadline(get(), secs(requested));
        call(&layer, &script, request).await.unwrap();

        assert_eq!(started.elapsed(), secs(counts));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_request_may_be_later_than_30_seconds() {
    let script = Script::new([
        Step::After(secs(50), answer(503)),
        Step::Answer(answer(200)),
    ]);

    let request = with_deadline(get(), secs(60));
    let response = call(&layer(waiting(10)), &script, request).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_deadline_has_passed_is_not_sent() {
    advance(secs(1)).await;
    for deadline in [Instant::now(), Instant::now() - Duration::from_millis(1)] {
        let script = Script::new([Step::Answer(answer(200))]);
        let mut request = get();
        request.extensions_mut().insert(Deadline::at(deadline));

        let response = call(&RetryLayer::http(), &script, request).await.unwrap();

        assert_eq!(script.calls(), 0);
        assert_refused(&response, Code::DeadlinePassed, 0, StoppedBy::Deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_attempt_and_a_body_that_is_too_large_are_cut_too() {
    let one = layer(waiting(10).with_max_attempts(1).with_deadline(secs(2)));
    let small = layer(
        waiting(10)
            .with_replay_limit(1)
            .with_attempt_timeout(secs(2)),
    );

    for (layer, code, by) in [
        (one, Code::DeadlinePassed, StoppedBy::Attempts),
        (small, Code::AttemptTimeout, StoppedBy::Body),
    ] {
        let script = Script::new([Step::Hang]);
        let started = Instant::now();
        let response = call(&layer, &script, marked(post("an order")))
            .await
            .unwrap();
        assert_eq!(started.elapsed(), secs(2));
        assert_eq!(script.calls(), 1);
        assert_refused(&response, code, 1, by);
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_its_own_limit_in_its_extensions() {
    let script = Script::new([Step::After(Duration::from_millis(500), answer(503))]);
    let config = waiting(1_000)
        .with_attempt_timeout(secs(2))
        .with_deadline(secs(4));
    let started = Instant::now();

    call(&layer(config), &script, with_deadline(get(), HOUR))
        .await
        .unwrap();

    let limits = script
        .seen()
        .iter()
        .map(|seen| limit(seen, started))
        .collect::<Vec<_>>();
    assert_eq!(starts(&script), millis([0, 1_500, 3_000]));
    assert_eq!(limits, millis([2_000, 3_500, 4_000]));
}

fn limit(seen: &Seen, started: Instant) -> Duration {
    let deadline = Deadline::of(&seen.head.extensions).unwrap();
    deadline.moment() - started
}

fn with_deadline<B>(mut request: Request<B>, after: Duration) -> Request<B> {
    let deadline = Deadline::at(Instant::now() + after);
    request.extensions_mut().insert(deadline);
    request
}

#[tokio::test(start_paused = true)]
async fn beneath_another_layer_an_elapsed_attempt_is_transient_and_a_passed_deadline_is_not() {
    // The layer beneath cuts, and answers by itself.
    for (beneath, calls) in [
        (
            waiting(10)
                .with_max_attempts(1)
                .with_attempt_timeout(secs(1)),
            3,
        ),
        (waiting(10).with_max_attempts(1).with_deadline(secs(1)), 1),
    ] {
        let script = Script::new([Step::Hang]);
        let service = layer(waiting(10)).layer(layer(beneath).layer(script.clone()));

        let response = service.oneshot(get()).await.unwrap();

        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(script.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_what_the_clock_can_say_is_none() {
    let script = Script::new([Step::After(HOUR, answer(200))]);
    let config = waiting(10)
        .with_attempt_timeout(Duration::MAX)
        .with_deadline(Duration::MAX)
        .with_body_idle_timeout(Duration::MAX);

    let response = call(&layer(config), &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "answer 200");
}

#[cfg(feature = "tonic")]
#[tokio::test(start_paused = true)]
async fn a_connect_that_took_too_long_was_not_processed_whatever_limits_the_attempt() {
    for config in [waiting(10), waiting(10).with_attempt_timeout(secs(5))] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let service = layer(config).layer(service_fn(move |_: Request<_>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
            async { Err::<Answer, _>(tonic::ConnectError(timed_out.into())) }
        }));

        service.oneshot(post("an order")).await.unwrap_err();

        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
}

fn with_timeout<B>(mut request: Request<B>, timeout: &'static str) -> Request<B> {
    let timeout = HeaderValue::from_static(timeout);
    request.headers_mut().insert(grpc::TIMEOUT, timeout);
    request
}

/// The `grpc-timeout` of each attempt.
fn timeouts(script: &Script) -> Vec<Option<Duration>> {
    let seen = script.seen();
    seen.iter()
        .map(|seen| {
            let values = seen.head.headers.get_all(grpc::TIMEOUT).iter().count();
            assert!(values <= 1);
            grpc::timeout(&seen.head.headers)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_grpc_request_limits_its_call() {
    let script = Script::new([Step::Hang]);
    let started = Instant::now();

    let request = with_timeout(marked(rpc()), "2S");
    let response = call(&grpc_layer(), &script, request).await.unwrap();

    assert_eq!(started.elapsed(), secs(2));
    assert_eq!(script.calls(), 1);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        grpc::status(response.headers()),
        Some(GrpcCode::DeadlineExceeded)
    );
    let rejection = response.extensions().get::<LocalRejection>().unwrap();
    assert_eq!(rejection.code(), Code::DeadlinePassed);
    let body: ResponseBody<_> = response.into_body();
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers(), None, "the code is in the head");
    assert!(body.to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_attempt_of_a_grpc_call_is_told_what_remains() {
    let script = Script::new([Step::After(
        Duration::from_millis(300),
        trailers_only(UNAVAILABLE),
    )]);

    let request = with_timeout(marked(rpc()), "2S");
    call(&grpc_with(waiting(500)), &script, request)
        .await
        .unwrap();

    let expected: Vec<_> = millis([2_000, 1_200, 400]).into_iter().map(Some).collect();
    assert_eq!(timeouts(&script), expected);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_grpc_attempt_is_told_where_it_is_the_shorter() {
    let script = Script::new([Step::Answer(trailers_only(UNAVAILABLE))]);
    let config = waiting(500).with_attempt_timeout(Duration::from_millis(1_200));

    let request = with_timeout(marked(rpc()), "2S");
    call(&grpc_with(config), &script, request).await.unwrap();

    let expected: Vec<_> = millis([1_200, 1_200, 1_000])
        .into_iter()
        .map(Some)
        .collect();
    assert_eq!(timeouts(&script), expected);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_grpc_attempt_is_never_larger_than_the_callers_own() {
    for timeout in [
        "1n",
        "999n",
        "12345678u",
        "99999999n",
        "99999999u",
        "99999999m",
        "7S",
        "99999999S",
        "3M",
        "99999999M",
        "1H",
        "99999999H",
    ] {
        let script = Script::new([Step::Answer(trailers_only(0))]);
        let request = with_timeout(rpc(), timeout);
        let own = grpc::timeout(request.headers()).unwrap();

        call(&grpc_layer(), &script, request).await.unwrap();

        let told = timeouts(&script)[0].unwrap();
        assert!(told <= own, "{timeout} became {told:?}");
        // The format has eight digits.
        assert!(own - told <= own / 1_000, "{timeout} became {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_timeout_that_cannot_be_read_is_none_and_goes_on_as_it_is() {
    let script = Script::new([
        Step::After(secs(20), trailers_only(UNAVAILABLE)),
        Step::After(HOUR, trailers_only(0)),
    ]);

    let request = with_timeout(marked(rpc()), "soon");
    let response = call(&grpc_with(waiting(10)), &script, request)
        .await
        .unwrap();

    assert_eq!(grpc::status(response.headers()), Some(GrpcCode::Ok));
    for seen in script.seen() {
        assert_eq!(seen.head.headers[grpc::TIMEOUT], "soon");
    }
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_timeout_of_zero_is_not_sent() {
    let script = Script::new([Step::Answer(trailers_only(0))]);

    let request = with_timeout(rpc(), "0m");
    let response = call(&grpc_layer(), &script, request).await.unwrap();

    assert_eq!(script.calls(), 0);
    assert_eq!(
        grpc::status(response.headers()),
        Some(GrpcCode::DeadlineExceeded)
    );
}

#[tokio::test(start_paused = true)]
async fn over_http_the_header_of_grpc_means_nothing() {
    let script = Script::new([Step::After(HOUR, answer(200))]);

    let request = with_timeout(get(), "2S");
    let response = call(&RetryLayer::http(), &script, request).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(timeouts(&script), [Some(secs(2))], "it goes on as it is");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_reports_the_limit_of_an_attempt_has_ended_only_the_attempt() {
    let script = Script::new([
        Step::After(AT_THE_LIMIT, trailers_only(DEADLINE_EXCEEDED)),
        Step::After(AT_THE_LIMIT, trailers_only(CANCELLED)),
        Step::Answer(trailers_only(0)),
    ]);
    let config = waiting(10)
        .with_attempt_timeout(secs(2))
        .with_deadline(secs(10));

    let response = call(&grpc_with(config), &script, marked(rpc()))
        .await
        .unwrap();

    assert_eq!(grpc::status(response.headers()), Some(GrpcCode::Ok));
    assert_eq!(script.calls(), 3);
}

/// Just before an attempt with 2 s is cut.
const AT_THE_LIMIT: Duration = Duration::from_millis(1999);

const CANCELLED: u32 = 1;

#[tokio::test(start_paused = true)]
async fn a_grpc_server_with_a_deadline_of_its_own_has_ended_the_call() {
    for code in [DEADLINE_EXCEEDED, CANCELLED] {
        let early = Step::After(secs(1), trailers_only(code));
        let script = Script::new([early]);
        let config = waiting(10).with_attempt_timeout(secs(2));

        let response = call(&grpc_with(config), &script, marked(rpc()))
            .await
            .unwrap();

        assert_eq!(script.calls(), 1, "{code}");
        assert_eq!(response.headers()["grpc-status"], code.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_reports_the_limit_of_an_attempt_may_have_processed_it() {
    let script = Script::new([Step::After(AT_THE_LIMIT, trailers_only(DEADLINE_EXCEEDED))]);
    let config = waiting(10).with_attempt_timeout(secs(2));

    let response = call(&grpc_with(config), &script, rpc()).await.unwrap();

    assert_eq!(script.calls(), 1);
    assert_eq!(stopped_by(&response), Some(StoppedBy::NotIdempotent));
    assert!(response.extensions().get::<LocalRejection>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_reports_the_limit_of_the_call_has_ended_the_call() {
    let answers = || Script::new([Step::Answer(trailers_only(DEADLINE_EXCEEDED))]);
    let of_caller = answers();
    let of_layer = answers();
    let of_nobody = answers();

    let config = waiting(10).with_attempt_timeout(secs(2));
    let request = with_timeout(marked(rpc()), "1S");
    let first = call(&grpc_with(config), &of_caller, request).await.unwrap();
    let config = waiting(10).with_deadline(secs(2));
    let second = call(&grpc_with(config), &of_layer, marked(rpc()))
        .await
        .unwrap();
    let third = call(&grpc_layer(), &of_nobody, marked(rpc()))
        .await
        .unwrap();

    for response in [first, second, third] {
        assert_eq!(stopped_by(&response), Some(StoppedBy::Permanent));
    }
    assert_eq!(of_caller.calls() + of_layer.calls() + of_nobody.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_is_dropped_before_the_next_one_starts() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let attempts = Arc::new(AtomicUsize::new(0));
    let config = waiting(10).with_attempt_timeout(secs(1));
    let service = layer(config).layer(service_fn(move |_: Request<_>| {
        let others = attempts.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "one is still there");
        let alive = Alive(Arc::clone(&attempts));
        async move {
            sleep(HOUR).await;
            drop(alive);
            Ok::<_, Infallible>(answer(200))
        }
    }));

    let response = service.oneshot(get()).await.unwrap();

    assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
}
