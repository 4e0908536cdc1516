//! retry R7, R9 and R10, where a call is dropped or its service panics: nothing is kept, nothing is charged that was not used.

use std::{
    collections::BTreeSet,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use steadfast_http::BoxError;
use steadfast_retry::{Budget, RetryConfig, RetryLayer};
use tokio::{runtime::Handle, time::sleep};
use tower::{Layer, Service, ServiceExt};

use crate::support::{Fault, Flow, FlowWatch, Piece, affordable, waiting};

const ORDER: &str = "an order";

/// Where a call stood when it was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    FirstAttempt,
    OldResponse,
    Sleep,
    Readiness,
    SecondAttempt,
    Done,
}

/// What happens in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer(u16),
    PanicAtOnce,
    PanicLater,
}

/// A service that takes its time at every step, and tells where it is.
#[derive(Clone)]
struct Slow {
    state: Arc<State>,
    fates: Vec<Fate>,
    panics_when_polled: bool,
    /// How often this instance still answers that it is not ready.
    unready: usize,
}

struct State {
    place: Mutex<Place>,
    calls: AtomicUsize,
    alive: AtomicUsize,
    old_response: Mutex<Option<FlowWatch>>,
}

/// An attempt that is under way.
struct Alive(Arc<State>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Slow {
    fn new(fates: impl IntoIterator<Item = Fate>) -> Self {
        Self {
            state: Arc::new(State {
                place: Mutex::new(Place::FirstAttempt),
                calls: AtomicUsize::new(0),
                alive: AtomicUsize::new(0),
                old_response: Mutex::new(None),
            }),
            fates: fates.into_iter().collect(),
            panics_when_polled: false,
            unready: 2,
        }
    }

    fn place(&self) -> Place {
        let place = *self.state.place.lock().unwrap();
        let old_response = self.state.old_response.lock().unwrap();
        match (place, &*old_response) {
            (Place::OldResponse, Some(old)) if old.is_dropped() => Place::Sleep,
            (place, _) => place,
        }
    }

    fn enter(&self, place: Place) {
        *self.state.place.lock().unwrap() = place;
    }

    fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    fn alive(&self) -> usize {
        self.state.alive.load(Ordering::SeqCst)
    }
}

impl<B> Service<Request<B>> for Slow
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Flow>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Flow>, Fault>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.calls() > 0 {
            self.enter(Place::Readiness);
            assert!(!self.panics_when_polled, "the service panicked");
            if self.unready > 0 {
                self.unready -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let number = self.state.calls.fetch_add(1, Ordering::SeqCst);
        let fate = *self.fates.get(number).or(self.fates.last()).unwrap();
        if number > 0 {
            self.enter(Place::SecondAttempt);
        }
        self.state.alive.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&self.state));
        assert!(fate != Fate::PanicAtOnce, "the service panicked");
        let this = self.clone();
        Box::pin(async move {
            let _alive = alive;
            sleep(Duration::from_millis(3)).await;
            let body = request.into_body().collect().await;
            assert!(fate != Fate::PanicLater, "the service panicked");
            let body = body.map_err(|_| Fault::Strange)?.to_bytes();
            assert_eq!(body, ORDER);
            sleep(Duration::from_millis(3)).await;

            let pause = || Piece::Pause(Duration::from_millis(2));
            let flow = Flow::new([pause(), Piece::text("sor"), pause(), Piece::text("ry")]);
            *this.state.old_response.lock().unwrap() = Some(flow.watch());
            this.enter(Place::OldResponse);
            let mut response = Response::new(flow);
            let Fate::Answer(status) = fate else {
                unreachable!("it panicked");
            };
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        })
    }
}

/// Drops a call after so many polls that came to nothing.
struct Impatient<F> {
    call: Option<Pin<Box<F>>>,
    polls: usize,
    service: Slow,
}

impl<F: Future> Future for Impatient<F> {
    /// The output, or the place where the call was dropped.
    type Output = Result<F::Output, Place>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<F::Output, Place>> {
        let this = &mut *self;
        if this.polls == 0 {
            let place = this.service.place();
            this.call = None;
            return Poll::Ready(Err(place));
        }
        this.polls -= 1;
        let call = this.call.as_mut().expect("it was not dropped");
        call.as_mut().poll(cx).map(Ok)
    }
}

/// A layer whose pool holds one order, and whose budget ten retries.
fn layer(config: RetryConfig) -> (RetryLayer, Arc<Budget>) {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let config = config
        .with_replay_limit(ORDER.len())
        .with_replay_pool(ORDER.len());
    let layer = RetryLayer::http()
        .with_config(config)
        .unwrap()
        .with_budget(Arc::clone(&budget));
    (layer, budget)
}

fn configs() -> [RetryConfig; 3] {
    [
        waiting(40),
        waiting(40).with_deadline(Duration::from_secs(9)),
        waiting(40).with_attempt_timeout(Duration::from_secs(9)),
    ]
}

fn put(order: &'static str) -> Request<Full<Bytes>> {
    Request::put("http://destination.test/orders/1")
        .body(Full::new(Bytes::from_static(order.as_bytes())))
        .unwrap()
}

/// Another order can be sent twice: the pool has room for all of it.
async fn assert_pool_is_full(layer: &RetryLayer) {
    let slow = Slow::new([Fate::Answer(503), Fate::Answer(200)]);
    let response = layer.layer(slow.clone()).oneshot(put(ORDER)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(slow.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_await_gives_back_exactly_what_it_did_not_use() {
    for config in configs() {
        let mut places = BTreeSet::new();
        for polls in 1.. {
            let (layer, budget) = layer(config.clone());
            let slow = Slow::new([Fate::Answer(503), Fate::Answer(200)]);
            let call = layer.layer(slow.clone()).oneshot(put(ORDER));

            let impatient = Impatient {
                call: Some(Box::pin(call)),
                polls,
                service: slow.clone(),
            };
            let place = match impatient.await {
                Err(place) => place,
                Ok(response) => {
                    assert_eq!(response.unwrap().status(), StatusCode::OK);
                    Place::Done
                }
            };

            places.insert(place);
            let used = slow.calls().saturating_sub(1);
            assert_eq!(affordable(&budget), 10 - used, "{place:?}");
            assert_eq!(slow.alive(), 0, "{place:?}");
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
            let old_response = slow.state.old_response.lock().unwrap().clone();
            assert!(old_response.is_none_or(|old| old.is_dropped()), "{place:?}");
            assert_pool_is_full(&layer).await;
            if place == Place::Done {
                break;
            }
        }
        let all = [
            Place::FirstAttempt,
            Place::OldResponse,
            Place::Sleep,
            Place::Readiness,
            Place::SecondAttempt,
            Place::Done,
        ];
        assert_eq!(places, BTreeSet::from(all), "some place was not reached");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_retry_waits_it_is_charged() {
    let (layer, budget) = layer(waiting(40));
    let slow = Slow::new([Fate::Answer(503), Fate::Answer(200)]);
    let mut future = Box::pin(layer.layer(slow.clone()).oneshot(put(ORDER)));

    while slow.place() != Place::Sleep {
        let impatient = tokio::time::timeout(Duration::from_millis(1), &mut future);
        impatient.await.unwrap_err();
    }
    assert_eq!(affordable(&budget), 9);
    drop(future);

    assert_eq!(affordable(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_charges_nothing() {
    for config in configs() {
        let (layer, budget) = layer(config);
        let slow = Slow::new([Fate::Answer(503)]);
        let mut service = layer.layer(slow.clone());
        std::future::poll_fn(|cx| Service::<Request<Full<Bytes>>>::poll_ready(&mut service, cx))
            .await
            .unwrap();

        drop(service.call(put(ORDER)));

        assert_eq!(slow.alive(), 0);
        assert_eq!(affordable(&budget), 10);
        assert_pool_is_full(&layer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_service_reaches_the_caller_and_leaves_nothing_behind() {
    for config in configs() {
        for (fates, used) in [
            (vec![Fate::PanicAtOnce], 0),
            (vec![Fate::PanicLater], 0),
            (vec![Fate::Answer(503), Fate::PanicAtOnce], 1),
            (vec![Fate::Answer(503), Fate::PanicLater], 1),
        ] {
            let (layer, budget) = layer(config.clone());
            let slow = Slow::new(fates.clone());

            assert_panics(layer.layer(slow.clone())).await;

            assert_eq!(affordable(&budget), 10 - used, "{fates:?}");
            assert_eq!(slow.alive(), 0, "{fates:?}");
            assert_pool_is_full(&layer).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_the_service_becomes_ready_gives_the_retry_back() {
    for config in configs() {
        let (layer, budget) = layer(config);
        let mut slow = Slow::new([Fate::Answer(503)]);
        slow.panics_when_polled = true;

        assert_panics(layer.layer(slow.clone())).await;

        assert_eq!(slow.place(), Place::Readiness);
        assert_eq!(affordable(&budget), 10);
        assert_eq!(slow.alive(), 0);
        assert_pool_is_full(&layer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panicked_once_goes_on_to_serve_others() {
    let (layer, _) = layer(waiting(40));
    let slow = Slow::new([Fate::PanicLater, Fate::Answer(503), Fate::Answer(200)]);
    let service = layer.layer(slow.clone());
    assert_panics(service.clone()).await;

    let response = service.oneshot(put(ORDER)).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(slow.calls(), 3);
}

async fn assert_panics<S>(service: S)
where
    S: Service<Request<Full<Bytes>>>,
{
    let mut future = Box::pin(async move { service.oneshot(put(ORDER)).await.is_ok() });
    let panicked = std::future::poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(cx));
        match std::panic::catch_unwind(poll) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(_)) => Poll::Ready(None),
            Err(payload) => Poll::Ready(Some(payload)),
        }
    });
    let payload = panicked.await.expect("it did not panic");
    let message = payload.downcast_ref::<&str>();
    assert_eq!(message, Some(&"the service panicked"));
}
