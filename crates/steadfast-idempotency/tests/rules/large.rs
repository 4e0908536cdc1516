//! idempotency I11: answers that are too large, or endless, to be kept.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, response::Builder};
use http_body_util::{BodyExt, channel::Sender};
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, BoxError, Handler, World, body, broken, channel, charge, endless, with_trailers,
};

const MOMENT: Duration = Duration::from_millis(2);

/// A handler that answers this body, once.
fn once(head: impl Fn() -> Builder + Send + Sync + 'static, content: Body) -> Handler {
    let content = Mutex::new(Some(content));
    Handler::answering(move || {
        let content = content.lock().unwrap().take();
        head().body(content.expect("executed once")).unwrap()
    })
}

fn limited(handler: Handler) -> [World; 2] {
    let config = || IdempotencyConfig::default().with_response_limit(8);
    let handler = Arc::new(handler);
    World::both(|| (*handler).clone()).map(|world| world.with_config(config()))
}

/// Asserts what every retry gets of an answer that was not kept.
async fn assert_not_retained(world: &World, status: u16, location: Option<&str>) {
    world.assert_idle().await;
    for _ in 0..2 {
        let replay = world.send(charge("k")).await;
        replay.assert_refused(409, "response-not-retained");
        replay.assert_retryable(false);
        assert_eq!(replay.header("retry-after"), None);
        let problem = replay.problem();
        assert_eq!(problem["original-status"], status);
        assert_eq!(problem["location"].as_str(), location);
    }
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_exactly_the_limit_is_kept() {
    let [once, again] = limited(Handler::answering(|| Response::new(body("12345678"))));
    for world in [once, again] {
        world.send(charge("k")).await.assert_executed("12345678");
        world.send(charge("k")).await.assert_replayed("12345678");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_given_whole_and_not_kept() {
    for promise in 0..2 {
        let head = || {
            Response::builder()
                .status(201)
                .header("location", "/charges/1")
                .header("x-own", "7")
        };
        let world = limited(once(head, body("123456789")))
            .into_iter()
            .nth(promise)
            .unwrap();

        let first = world.send(charge("k")).await;

        first.assert_executed("123456789");
        assert_eq!(first.status, 201);
        assert_eq!(first.header("x-own"), Some("7"));
        assert_not_retained(&world, 201, Some("/charges/1")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_grows_over_the_limit_is_given_whole_with_its_trailers() {
    let (mut sender, arriving) = channel();
    for frame in ["1234", "5678", "9abc"] {
        sender.send_data(frame.into()).await.unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("checksum", "1".parse().unwrap());
    sender.send_trailers(trailers.clone()).await.unwrap();
    drop(sender);
    let [world, _] = limited(once(Response::builder, arriving));

    let first = world.send(charge("k")).await;

    first.assert_executed("123456789abc");
    assert_eq!(first.trailers, Some(trailers));
    assert_not_retained(&world, 200, None).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_it_is_too_large_is_not_read() {
    struct Long(Body);
    impl http_body::Body for Long {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(1 << 40)
        }
    }
    let (endless, read) = endless(1024);
    let [world, _] = limited(once(Response::builder, Long(endless).boxed_unsync()));
    let mut service = world.service();

    let response = service.ready().await.unwrap().call(charge("k")).await;

    assert_eq!(read.load(Ordering::Relaxed), 0);
    assert_eq!(world.faults.answers(Method::Complete), 1);
    drop(response);
    assert_not_retained(&world, 200, None).await;
}

/// Asserts that an answer which never ends is passed on as it comes, its tombstone stored before the first byte.
async fn assert_streamed(head: fn() -> Builder, status: u16, after: Duration) {
    for promise in [World::at_most_once, World::at_least_once] {
        let (mut sender, arriving): (Sender<Bytes, BoxError>, _) = channel();
        sender.send_data("one ".into()).await.unwrap();
        let world = promise(once(head, arriving));
        let mut service = world.service();
        let begun = Instant::now();

        let response = service.ready().await.unwrap().call(charge("k")).await;
        let response = response.unwrap();

        let lasted = begun.elapsed();
        assert!(lasted >= after, "{lasted:?}");
        assert!(lasted <= after + MOMENT, "{lasted:?}");
        assert_eq!(world.faults.answers(Method::Complete), 1);
        sender.send_data("two".into()).await.unwrap();
        drop(sender);
        let first = Answer::read(response).await;
        first.assert_executed("one two");
        assert_eq!(first.status, status);
        assert_not_retained(&world, status, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_is_passed_on_at_once() {
    assert_streamed(
        || Response::builder().header("content-type", "text/event-stream"),
        200,
        Duration::ZERO,
    )
    .await;
    assert_streamed(
        || Response::builder().header("content-type", "text/event-stream; charset=utf-8"),
        200,
        Duration::ZERO,
    )
    .await;
}

/// Media types are case-insensitive (RFC 9110 section 8.3.1).
#[tokio::test(start_paused = true)]
async fn a_stream_of_events_is_known_in_any_case() {
    assert_streamed(
        || Response::builder().header("content-type", "Text/Event-Stream"),
        200,
        Duration::ZERO,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_part_and_another_protocol_are_passed_on_at_once() {
    assert_streamed(|| Response::builder().status(206), 206, Duration::ZERO).await;
    assert_streamed(|| Response::builder().status(101), 101, Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_end_in_time_is_passed_on() {
    assert_streamed(
        Response::builder,
        200,
        IdempotencyConfig::DEFAULT_CAPTURE_TIMEOUT,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_passed_on_before_its_tombstone_is_stored() {
    let [world, _] = limited(once(Response::builder, body("123456789")));
    let gate = world.faults.on(Method::Complete).hold_before(1);
    let mut service = world.service();
    let mut response = std::pin::pin!(service.ready().await.unwrap().call(charge("k")));

    for _ in 0..3 {
        assert!(
            crate::support::poll_once(response.as_mut())
                .await
                .is_pending()
        );
    }

    gate.open();
    let first = Answer::read(response.await.unwrap()).await;
    first.assert_executed("123456789");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_behind_the_limit_breaks_for_its_client_only() {
    let [world, _] = limited(once(Response::builder, broken("123456789")));

    let first = world.send(charge("k")).await;

    first.assert_executed("123456789");
    assert_eq!(first.error.as_deref(), Some("the body broke"));
    assert_not_retained(&world, 200, None).await;
}

#[tokio::test(start_paused = true)]
async fn the_size_of_an_answer_that_is_not_stored_does_not_matter() {
    let head = || Response::builder().status(500);
    for promise in 0..2 {
        let world = limited(once(head, body("123456789")))
            .into_iter()
            .nth(promise)
            .unwrap();

        let first = world.send(charge("k")).await;

        first.assert_executed("123456789");
        assert_eq!(world.faults.calls(Method::Complete), 0);
        assert_eq!(world.faults.answers(Method::Abandon), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_stored_is_not_buffered() {
    let (mut sender, arriving): (Sender<Bytes, BoxError>, _) = channel();
    let head = || Response::builder().status(401);
    let world = World::at_most_once(once(head, arriving));
    let mut service = world.service();

    let response = service.ready().await.unwrap().call(charge("k")).await;
    let response = response.unwrap();

    sender.send_data("sign in".into()).await.unwrap();
    drop(sender);
    Answer::read(response).await.assert_executed("sign in");
}

#[tokio::test(start_paused = true)]
async fn trailers_do_not_count_as_body() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("checksum", "1234567890".parse().unwrap());
    let content = with_trailers("12345678", trailers);
    let [world, _] = limited(once(Response::builder, content));

    world.send(charge("k")).await.assert_executed("12345678");
    world.send(charge("k")).await.assert_replayed("12345678");
}
