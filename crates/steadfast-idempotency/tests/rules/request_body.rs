//! idempotency I5: the request body is there, whole and within bounds, before anything is claimed.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use steadfast_idempotency::IdempotencyConfig;
use tokio::time::{Instant, sleep};

use crate::support::{
    Answer, Body, Handler, Latch, World, body, broken, channel, created, endless, eventually,
    keyed, with_trailers,
};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);

fn limited(handler: Handler) -> World {
    let config = IdempotencyConfig::default()
        .with_body_limit(8)
        .with_body_pool(8);
    World::at_most_once(handler).with_config(config)
}

fn sent(content: Body) -> Request<Body> {
    keyed("k").body(content).unwrap()
}

/// Hides how long a body is.
fn of_unknown_length(content: &'static str) -> Body {
    let frames = [Ok(http_body::Frame::data(Bytes::from_static(
        content.as_bytes(),
    )))];
    http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Asserts that nothing was claimed, that the pool is whole, and that the key is free.
async fn assert_nothing_claimed(world: &World) {
    assert_eq!(world.writes(), 0);
    assert_eq!(world.handler.started(), 0);
    world
        .send(sent(body("12345678")))
        .await
        .assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_exactly_the_limit_is_handed_on() {
    for content in [body("12345678"), of_unknown_length("12345678"), body("")] {
        let world = limited(Handler::counting());

        world.send(sent(content)).await.assert_executed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused() {
    for content in [body("123456789"), of_unknown_length("123456789")] {
        let world = limited(Handler::counting());

        let answer = world.send(sent(content)).await;

        answer.assert_refused(413, "body-too-large");
        answer.assert_retryable(false);
        assert_nothing_claimed(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused_in_the_middle_of_its_stream() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    for _ in 0..3 {
        sender.send_data("1234".into()).await.unwrap();
    }
    drop(sender);

    let answer = world.send(sent(arriving)).await;

    answer.assert_refused(413, "body-too-large");
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_read_on_for_sixteen_mebibytes_and_no_further() {
    let world = limited(Handler::counting());
    let (endless, read) = endless(64 << 10);

    world
        .send(sent(endless))
        .await
        .assert_refused(413, "body-too-large");

    let read = read.load(Ordering::Relaxed);
    assert!(read >= 16 * MIB, "{read} bytes were read");
    assert!(read <= 17 * MIB, "{read} bytes were read");
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_read_on_for_five_seconds_and_no_longer() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    sender.send_data("123456789".into()).await.unwrap();
    let begun = Instant::now();

    world
        .send(sent(arriving))
        .await
        .assert_refused(413, "body-too-large");

    let lasted = begun.elapsed();
    assert!(lasted >= SECOND * 5 && lasted <= SECOND * 5 + MOMENT);
    drop(sender);
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_gives_its_bytes_back_while_the_rest_is_thrown_away() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    sender.send_data("1234567".into()).await.unwrap();
    sender.send_data("89".into()).await.unwrap();
    let first = world.start(sent(arriving));
    eventually("both frames are read", || sender.capacity() == 64).await;

    world
        .send(sent(body("12345678")))
        .await
        .assert_executed("charge 1");

    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_asked_for_leave_is_refused_without_reading() {
    let world = limited(Handler::counting());
    let begun = Instant::now();
    struct Untouchable;
    impl http_body::Body for Untouchable {
        type Data = Bytes;
        type Error = crate::support::BoxError;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            panic!("it was read");
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(9)
        }
    }

    let answer = world
        .send(
            keyed("k")
                .header("expect", "100-continue")
                .body(Untouchable.boxed_unsync())
                .unwrap(),
        )
        .await;

    answer.assert_refused(413, "body-too-large");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    sender.send_data("1234".into()).await.unwrap();
    let begun = Instant::now();

    let answer = world.send(sent(arriving)).await;

    answer.assert_refused(408, "body-timeout");
    let lasted = begun.elapsed();
    assert!(lasted >= SECOND * 30 && lasted <= SECOND * 30 + MOMENT);
    drop(sender);
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_is_for_the_whole_body_and_not_for_each_frame() {
    let config = IdempotencyConfig::default().with_body_timeout(SECOND * 3);
    let world = World::at_most_once(Handler::counting()).with_config(config);
    let (mut sender, arriving) = channel();
    let begun = Instant::now();
    let answer = world.start(sent(arriving));

    for _ in 0..10 {
        if sender.send_data("1".into()).await.is_err() {
            break;
        }
        sleep(SECOND / 2).await;
    }

    answer.await.unwrap().assert_refused(408, "body-timeout");
    assert!(begun.elapsed() <= SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_refused() {
    let world = limited(Handler::counting());

    let answer = world.send(sent(broken("half"))).await;

    answer.assert_refused(400, "body-unreadable");
    assert_nothing_claimed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_for_a_layer_around_is_not_to_be_sent_again() {
    let over = || Limited::new(of_unknown_length("larger"), 5);
    // As what reads a body as a stream of bytes tells it.
    let in_an_io_error = over().map_err(|error| std::io::Error::other(error).into());
    for content in [over().boxed_unsync(), in_an_io_error.boxed_unsync()] {
        let world = limited(Handler::counting());

        let answer = world.send(sent(content)).await;

        answer.assert_refused(413, "body-too-large");
        answer.assert_retryable(false);
        assert_nothing_claimed(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_of_a_layer_around_is_read_to_its_end_too() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    let answer = world.start(sent(Limited::new(arriving, 5).boxed_unsync()));

    for _ in 0..100 {
        sender.send_data("larger".into()).await.unwrap();
    }
    drop(sender);

    answer.await.unwrap().assert_refused(413, "body-too-large");
}

/// Keeps its request body until the latch is open.
fn keeping(latch: &Latch) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let latch = latch.clone();
        async move {
            latch.pass().await;
            let number = call.number;
            drop(call);
            Ok(created(number))
        }
    })
}

fn of(key: &str, content: &'static str) -> Request<Body> {
    keyed(key).body(body(content)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_the_pool_empty_is_refused_until_another_is_done() {
    let latch = Latch::new();
    let world = limited(keeping(&latch));
    let first = world.start(of("one", "12345"));
    latch.reached().await;

    let refused = world.send(of("two", "1234")).await;
    refused.assert_refused(503, "overloaded");
    refused.assert_retryable(true);
    refused.assert_retry_after("1");
    assert_eq!(world.writes(), 1);

    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    world
        .send(of("two", "12345678"))
        .await
        .assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fits_beside_another_is_taken() {
    let latch = Latch::new();
    let world = limited(keeping(&latch));
    let first = world.start(of("one", "12345"));
    latch.reached().await;

    let second = world.start(of("two", "678"));
    eventually("both run", || world.handler.running() == 2).await;

    latch.open();
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(second.await.unwrap().status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_arrives_slowly_takes_from_the_pool_what_came() {
    let world = limited(Handler::counting());
    let (mut sender, arriving) = channel();
    sender.send_data("1234".into()).await.unwrap();
    let slow = world.start(sent(arriving));
    eventually("the frame is read", || sender.capacity() == 64).await;

    let refused = world.send(of("two", "12345")).await;
    refused.assert_refused(503, "overloaded");
    let taken = world.send(of("two", "1234")).await;
    taken.assert_executed("charge 1");

    drop(sender);
    slow.await.unwrap().assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn a_body_reaches_the_handler_unchanged() {
    let whole = Bytes::from_static(b"one frame");
    let handler = {
        let whole = whole.clone();
        Handler::new(move |call| {
            let whole = whole.clone();
            async move {
                let mut received = call.body;
                assert_eq!(received.size_hint().exact(), Some(whole.len() as u64));
                let data = received.frame().await.unwrap().unwrap();
                let data = data.into_data().unwrap();
                assert_eq!(data.as_ptr(), whole.as_ptr(), "it was copied");
                assert_eq!(data, whole);
                assert!(received.is_end_stream());
                assert!(received.frame().await.is_none());
                Ok(created(call.number))
            }
        })
    };
    let world = World::at_most_once(handler);

    world
        .send(sent(body(whole)))
        .await
        .assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn many_frames_and_trailers_reach_the_handler() {
    let handler = Handler::new(|call| async move {
        let number = call.number;
        let (bytes, trailers) = call.read().await;
        assert_eq!(trailers.unwrap()["checksum"], "42");
        assert_eq!(bytes, "one two three");
        Ok(created(number))
    });
    let world = World::at_most_once(handler);
    let (mut sender, arriving) = channel();
    for frame in ["one ", "two ", "three"] {
        sender.send_data(frame.into()).await.unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "42".parse().unwrap());
    sender.send_trailers(trailers).await.unwrap();
    drop(sender);

    let answer: Answer = world.send(sent(arriving)).await;

    answer.assert_executed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn trailers_of_an_empty_body_reach_the_handler() {
    let handler = Handler::new(|call| async move {
        assert!(!call.body.is_end_stream());
        let number = call.number;
        assert!(call.read().await.1.is_some());
        Ok(created(number))
    });
    let world = World::at_most_once(handler);
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "42".parse().unwrap());

    let answer = world.send(sent(with_trailers("", trailers))).await;

    answer.assert_executed("charge 1");
}
