//! retry R8 and R2, of the bodies of responses.

use std::{convert::Infallible, future::poll_fn, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use steadfast_http::BoxError;
use steadfast_retry::{BodyIdle, ResponseBody, RetryConfig, RetryLayer, StoppedBy};
use tokio::time::{Instant, advance, timeout};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Flow, Piece, Script, Step, call, get, stopped_by, waiting};

const MINUTE: Duration = Duration::from_secs(60);

/// The body of one response through a layer.
async fn through(config: RetryConfig, flow: Flow) -> ResponseBody<Flow> {
    let flow = std::sync::Mutex::new(Some(flow));
    let flow = std::sync::Arc::new(flow);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let service = layer.layer(service_fn(move |_: Request<_>| {
        let flow = flow.lock().unwrap().take().expect("it is called once");
        async { Ok::<_, Infallible>(Response::new(flow)) }
    }));
    service.oneshot(get()).await.unwrap().into_body()
}

fn idle(timeout: Duration) -> RetryConfig {
    waiting(10).with_body_idle_timeout(timeout)
}

async fn next(body: &mut ResponseBody<Flow>) -> Option<Result<Bytes, BoxError>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_while_somebody_waits_fails_after_the_idle_timeout() {
    let flow = Flow::new([Piece::text("a part"), Piece::Stall]);
    let mut body = through(idle(MINUTE), flow).await;
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "a part");
    let started = Instant::now();

    let error = next(&mut body).await.unwrap().unwrap_err();

    assert_eq!(started.elapsed(), MINUTE);
    let idle: &BodyIdle = error.downcast_ref().unwrap();
    assert_eq!(idle.timeout(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_begins_fails_after_the_idle_timeout() {
    let mut body = through(idle(MINUTE), Flow::new([Piece::Stall])).await;
    let started = Instant::now();

    let error = next(&mut body).await.unwrap().unwrap_err();

    assert!(error.is::<BodyIdle>());
    assert_eq!(started.elapsed(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn each_pause_has_the_whole_time() {
    let pause = MINUTE - Duration::from_millis(1);
    let pieces = (0..10).flat_map(|_| [Piece::Pause(pause), Piece::text("a part ")]);
    let body = through(idle(MINUTE), Flow::new(pieces)).await;

    let received = body.collect().await.unwrap().to_bytes();

    assert_eq!(received, "a part ".repeat(10));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_between_the_parts_is_not_cut() {
    let pieces = (0..5).map(|_| Piece::text("a part "));
    let mut body = through(idle(MINUTE), Flow::new(pieces)).await;

    for _ in 0..5 {
        advance(60 * MINUTE).await;
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "a part ");
    }
    advance(60 * MINUTE).await;
    assert!(next(&mut body).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_came_while_nobody_looked_is_handed_out() {
    let flow = Flow::new([Piece::Pause(MINUTE / 2), Piece::text("a part")]);
    let mut body = through(idle(MINUTE), flow).await;
    // Somebody waits, and then turns to something else.
    timeout(MINUTE / 4, next(&mut body)).await.unwrap_err();
    advance(60 * MINUTE).await;

    assert_eq!(next(&mut body).await.unwrap().unwrap(), "a part");
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_body_may_pause_for_a_day() {
    let day = 24 * 60 * MINUTE;
    let flow = Flow::new([Piece::Pause(day), Piece::text("a part")]);
    let config = waiting(10)
        .with_deadline(MINUTE)
        .with_attempt_timeout(MINUTE);
    let body = through(config, flow).await;
    let started = Instant::now();

    let received = body.collect().await.unwrap().to_bytes();

    assert_eq!(received, "a part");
    assert_eq!(started.elapsed(), day);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_the_last_attempt_times_out_too() {
    let layer = RetryLayer::http().with_config(idle(MINUTE)).unwrap();
    let service = layer.layer(service_fn(|_: Request<_>| async {
        let mut response = Response::new(Flow::new([Piece::text("sorry"), Piece::Stall]));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok::<_, Infallible>(response)
    }));

    let response = service.oneshot(get()).await.unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Attempts));
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.is::<BodyIdle>());
}

#[tokio::test(start_paused = true)]
async fn a_body_passes_with_its_size_its_trailers_and_its_end() {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "7".parse().unwrap());
    for config in [waiting(10), idle(MINUTE)] {
        let pieces = [Piece::text("an "), Piece::text("answer")];
        let pieces = pieces
            .into_iter()
            .chain([Piece::Trailers(trailers.clone())]);
        let flow = Flow::new(pieces).declaring(9);
        let mut body = through(config, flow).await;

        assert_eq!(body.size_hint().exact(), Some(9));
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "an ");
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "answer");
        assert!(!body.is_end_stream());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_hands_out_its_own_error() {
    for config in [waiting(10), idle(MINUTE)] {
        let flow = Flow::new([Piece::text("an "), Piece::Fail]);
        let mut body = through(config, flow).await;
        next(&mut body).await.unwrap().unwrap();

        let error = next(&mut body).await.unwrap().unwrap_err();

        assert_eq!(error.to_string(), "the flow broke");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_further_attempt_is_handed_out_untouched() {
    let script = Script::new([Step::Answer(
        Response::builder()
            .status(503)
            .header("x-reason", "overload")
            .body(Full::new(Bytes::from_static(b"come back later")))
            .unwrap(),
    )]);
    let layer = RetryLayer::http().with_config(waiting(10)).unwrap();

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(script.calls(), 3);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-reason"], "overload");
    let body = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(15));
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(body, "come back later");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_read_before_somebody_asks_for_it() {
    let flow = Flow::new([Piece::text("a part")]);
    let watch = flow.watch();
    let mut body = through(idle(MINUTE), flow).await;

    assert_eq!(watch.yielded(), 0);
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;

    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "a part");
    assert_eq!(watch.yielded(), 1);
}
