//! retry R10.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use steadfast_http::BoxError;
use steadfast_retry::RetryLayer;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Flow, FlowWatch, Piece, get, waiting};

const KIB: usize = 1 << 10;

/// What became of the old response by the time the next attempt was made, and when that was.
struct Freed {
    old: FlowWatch,
    has_ended: bool,
    next_at: Duration,
    /// When the old body was dropped, to a millisecond.
    dropped_at: Duration,
}

/// A call whose first response has this body, and whose second attempt succeeds.
async fn freed(old: Flow, delay: u64) -> Freed {
    let watch = old.watch();
    let next_at = Arc::new(Mutex::new(None));
    let started = Instant::now();
    let service = {
        let (old, watch) = (Arc::new(Mutex::new(Some(old))), watch.clone());
        let next_at = Arc::clone(&next_at);
        service_fn(move |_: Request<_>| {
            let old = old.lock().unwrap().take();
            let response = match old {
                Some(old) => respond(503, old),
                None => {
                    assert!(watch.is_dropped(), "the old response is still there");
                    *next_at.lock().unwrap() = Some((started.elapsed(), watch.has_ended()));
                    respond(200, Flow::new([]))
                }
            };
            async { Ok::<_, Infallible>(response) }
        })
    };
    let layer = RetryLayer::http().with_config(waiting(delay)).unwrap();
    let call = layer.layer(service).oneshot(get());
    let dropped = async {
        while !watch.is_dropped() {
            sleep(Duration::from_millis(1)).await;
        }
        started.elapsed()
    };
    let (response, dropped_at) = tokio::join!(call, dropped);
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    let (next_at, has_ended) = next_at.lock().unwrap().unwrap();
    Freed {
        old: watch,
        has_ended,
        next_at,
        dropped_at,
    }
}

fn respond(status: u16, body: Flow) -> Response<Flow> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn bytes(bytes: usize) -> Piece {
    Piece::Data(Bytes::from(vec![b'x'; bytes]))
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn a_short_body_is_read_to_its_end_before_the_sleep() {
    for old in [
        Flow::new([bytes(100)]),
        Flow::new([bytes(100)]).declaring(100),
        Flow::new([bytes(8 * KIB), bytes(8 * KIB)]),
        Flow::new([bytes(16 * KIB)]).declaring(16 << 10),
    ] {
        let freed = freed(old, 500).await;

        assert!(freed.has_ended);
        assert_eq!(freed.dropped_at, Duration::ZERO);
        assert_eq!(freed.next_at, millis(500));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_within_20_milliseconds_is_read_to_its_end() {
    let pause = Piece::Pause(millis(9));
    let old = Flow::new([pause.clone(), bytes(10), pause, bytes(10)]);

    let freed = freed(old, 500).await;

    assert!(freed.has_ended);
    assert_eq!(freed.dropped_at, millis(18));
    assert_eq!(freed.next_at, millis(500), "the wait is not longer for it");
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_is_dropped_within_20_milliseconds() {
    let slow = (0..1_000).flat_map(|_| [bytes(1), Piece::Pause(millis(3))]);
    for old in [Flow::new([bytes(10), Piece::Stall]), Flow::new(slow)] {
        let freed = freed(old, 500).await;

        assert!(!freed.has_ended);
        assert!(
            (millis(19)..=millis(21)).contains(&freed.dropped_at),
            "{:?}",
            freed.dropped_at
        );
        assert_eq!(freed.next_at, millis(500), "the wait is not longer for it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_dropped_at_once() {
    let declared = freed(Flow::new([Piece::Stall]).declaring((16 << 10) + 1), 500).await;
    assert_eq!(declared.old.yielded(), 0);
    assert_eq!(declared.dropped_at, Duration::ZERO);
    assert_eq!(declared.next_at, millis(500));

    let many = std::iter::repeat_n(bytes(KIB), 1_000);
    let undeclared = freed(Flow::new(many), 500).await;
    assert_eq!(undeclared.old.yielded(), 17);
    assert_eq!(undeclared.dropped_at, Duration::ZERO);
    assert_eq!(undeclared.next_at, millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_wait_shorter_than_20_milliseconds_is_not_lengthened() {
    for delay in [0, 1, 5, 19] {
        let freed = freed(Flow::new([bytes(10), Piece::Stall]), delay).await;

        assert_eq!(freed.next_at, millis(delay));
        assert!(freed.dropped_at <= millis(delay + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_body_that_is_there_is_read_to_its_end_even_without_a_wait() {
    let freed = freed(Flow::new([bytes(10), bytes(10)]), 0).await;

    assert!(freed.has_ended);
    assert_eq!(freed.next_at, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_while_it_is_read_does_not_disturb_the_call() {
    let freed = freed(Flow::new([bytes(10), Piece::Fail]), 500).await;

    assert_eq!(freed.dropped_at, Duration::ZERO);
    assert_eq!(freed.next_at, millis(500));
}

/// Frames without data, always there.
struct Empties {
    polls: Arc<AtomicUsize>,
}

impl Body for Empties {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polls = self.polls.fetch_add(1, Ordering::SeqCst);
        // It would go on for ever.
        assert!(polls < 1_000_000, "nobody drops it");
        Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_of_empty_frames_is_dropped() {
    let polls = Arc::new(AtomicUsize::new(0));
    let statuses = Arc::new(Mutex::new(VecDeque::from([503, 200])));
    let service = {
        let polls = Arc::clone(&polls);
        service_fn(move |_: Request<_>| {
            let status = statuses.lock().unwrap().pop_front().unwrap();
            let mut response = Response::new(Empties {
                polls: Arc::clone(&polls),
            });
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            async { Ok::<_, Infallible>(response) }
        })
    };
    let layer = RetryLayer::http().with_config(waiting(500)).unwrap();

    let response = layer.layer(service).oneshot(get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
}

/// An attempt that answers 503, counted while it is there.
struct Attempt(Arc<AtomicUsize>);

impl Future for Attempt {
    type Output = Result<Response<Flow>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(respond(503, Flow::new([]))))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_ended_is_dropped_before_the_sleep() {
    for config in [waiting(500), waiting(500).with_deadline(millis(9_000))] {
        let alive = Arc::new(AtomicUsize::new(0));
        let calls = Arc::new(AtomicUsize::new(0));
        let service = {
            let (alive, calls) = (Arc::clone(&alive), Arc::clone(&calls));
            service_fn(move |_: Request<_>| {
                calls.fetch_add(1, Ordering::SeqCst);
                alive.fetch_add(1, Ordering::SeqCst);
                Attempt(Arc::clone(&alive))
            })
        };
        let layer = RetryLayer::http().with_config(config).unwrap();
        let mut call = Box::pin(layer.layer(service).oneshot(get()));

        for attempts in 1..=2 {
            timeout(millis(499), &mut call).await.unwrap_err();
            assert_eq!(calls.load(Ordering::SeqCst), attempts);
            assert_eq!(alive.load(Ordering::SeqCst), 0);
        }
    }
}

/// An attempt that never ends, counted while it is there.
struct Endless(Arc<AtomicUsize>);

impl Future for Endless {
    type Output = Result<Response<Flow>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_cut_is_dropped_with_the_answer_though_the_call_is_kept() {
    let one = waiting(500).with_max_attempts(1);
    for config in [
        one.clone().with_attempt_timeout(millis(100)),
        one.with_deadline(millis(100)),
        waiting(500).with_attempt_timeout(millis(100)),
    ] {
        let alive = Arc::new(AtomicUsize::new(0));
        let service = {
            let alive = Arc::clone(&alive);
            service_fn(move |_: Request<_>| {
                let before = alive.fetch_add(1, Ordering::SeqCst);
                assert_eq!(before, 0, "the one that was cut is still there");
                Endless(Arc::clone(&alive))
            })
        };
        let layer = RetryLayer::http().with_config(config).unwrap();
        // Not `oneshot`, which drops the call once it has ended.
        let mut call = pin!(layer.layer(service).call(get()));

        let answer = call.as_mut().await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_holds_up_no_attempt_that_follows_at_once() {
    // Between two ticks of the timer, where a wait of no time would last.
    tokio::time::advance(Duration::from_micros(1_300)).await;
    let started = Instant::now();
    let stalled = Flow::new([bytes(10), Piece::Stall]);
    let watch = stalled.watch();
    let responses = [respond(425, stalled), respond(200, Flow::new([]))];
    let responses = Arc::new(Mutex::new(VecDeque::from(responses)));
    let service = service_fn(move |_: Request<_>| {
        let response = responses.lock().unwrap().pop_front().unwrap();
        async { Ok::<_, Infallible>(response) }
    });

    let response = RetryLayer::http().layer(service).oneshot(get()).await;

    assert_eq!(response.unwrap().status(), StatusCode::OK);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(watch.yielded(), 1, "what was there was read");
    assert!(watch.is_dropped());
}
