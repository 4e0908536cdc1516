//! retry R12.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use steadfast_http::{Deadline, LocalRejection, problem::Code};
use steadfast_retry::{Budget, RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer};

use crate::support::{Answer, Fault, Script, Step, affordable, answer, get, post, waiting};

/// What happened to an instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It became ready.
    Ready(usize),
    Called(usize),
    /// The second is a clone of the first.
    Cloned(usize, usize),
}

/// How further attempts find the service.
#[derive(Clone, Copy, Debug)]
enum Readiness {
    AtOnce,
    After(Duration),
    Fails,
    Never,
}

/// A service that panics when it is called without having been polled ready, and when it is cloned after it was.
struct Strict {
    number: usize,
    is_ready: bool,
    was_polled: bool,
    wait: Option<Pin<Box<Sleep>>>,
    readiness: Readiness,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    instances: AtomicUsize,
    events: Mutex<Vec<(Instant, Event)>>,
    limits: Mutex<Vec<Option<Deadline>>>,
}

impl Log {
    fn add(&self, event: Event) {
        self.events.lock().unwrap().push((Instant::now(), event));
    }

    fn events(&self) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        events.iter().map(|(_, event)| *event).collect()
    }

    fn calls(&self) -> usize {
        let is_call = |event: &Event| matches!(event, Event::Called(_));
        self.events().iter().filter(|event| is_call(event)).count()
    }

    fn next(&self) -> usize {
        self.instances.fetch_add(1, Ordering::SeqCst)
    }
}

impl Strict {
    fn new(readiness: Readiness) -> (Self, Arc<Log>) {
        let log = Arc::new(Log::default());
        let strict = Self {
            number: log.next(),
            is_ready: false,
            was_polled: false,
            wait: None,
            readiness,
            log: Arc::clone(&log),
        };
        (strict, log)
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        assert!(!self.was_polled, "a clone of a service that was polled");
        let number = self.log.next();
        self.log.add(Event::Cloned(self.number, number));
        Self {
            number,
            is_ready: false,
            was_polled: false,
            wait: None,
            readiness: self.readiness,
            log: Arc::clone(&self.log),
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Answer;
    type Error = Fault;
    type Future = std::future::Ready<Result<Answer, Fault>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.was_polled = true;
        if self.log.calls() > 0 {
            match self.readiness {
                Readiness::AtOnce => {}
                Readiness::After(time) => {
                    let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(time)));
                    ready!(wait.as_mut().poll(cx));
                    self.wait = None;
                }
                Readiness::Fails => return Poll::Ready(Err(Fault::Strange)),
                Readiness::Never => return Poll::Pending,
            }
        }
        self.is_ready = true;
        self.log.add(Event::Ready(self.number));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(self.is_ready, "called without having been polled ready");
        self.is_ready = false;
        self.log.add(Event::Called(self.number));
        let limit = Deadline::of(request.extensions());
        self.log.limits.lock().unwrap().push(limit);
        std::future::ready(Ok(answer(503)))
    }
}

fn layer(config: RetryConfig) -> (RetryLayer, Arc<Budget>) {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let layer = RetryLayer::http()
        .with_config(config)
        .unwrap()
        .with_budget(Arc::clone(&budget));
    (layer, budget)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_uses_the_instance_that_was_polled_and_further_ones_a_clone_that_was_not()
{
    for config in [waiting(100), waiting(100).with_deadline(secs(9))] {
        let (strict, log) = Strict::new(Readiness::AtOnce);
        let service = layer(config).0.layer(strict);
        let first = service.get_ref().number;

        service.oneshot(get()).await.unwrap();

        let further = log.instances.load(Ordering::SeqCst) - 1;
        let mut events = log.events();
        events.retain(|event| !matches!(event, Event::Cloned(..)));
        let expected = [first, further, further].map(|n| [Event::Ready(n), Event::Called(n)]);
        assert_eq!(events, expected.as_flattened());
        assert_ne!(first, further);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_with_its_first_attempt_clones_no_service() {
    let (strict, log) = Strict::new(Readiness::AtOnce);
    let service = layer(waiting(100)).0.layer(strict);
    let clones = log.instances.load(Ordering::SeqCst);

    service.oneshot(post("an order")).await.unwrap();

    assert_eq!(log.instances.load(Ordering::SeqCst), clones);
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_is_polled_ready_after_its_sleep() {
    let (strict, log) = Strict::new(Readiness::AtOnce);
    let started = Instant::now();

    layer(waiting(100))
        .0
        .layer(strict)
        .oneshot(get())
        .await
        .unwrap();

    let events = log.events.lock().unwrap();
    let ready = events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Ready(_)));
    let ready: Vec<_> = ready.map(|(at, _)| (*at - started).as_millis()).collect();
    assert_eq!(ready, [0, 100, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_until_the_service_is_ready_for_the_first_attempt() {
    // Ready only once its other caller has left.
    let limit = ConcurrencyLimitLayer::new(1);
    let inner = limit.layer(Script::new([Step::Answer(answer(200))]));
    let mut busy = inner.clone();
    ServiceExt::<Request<String>>::ready(&mut busy)
        .await
        .unwrap();
    let mut service = layer(waiting(100)).0.layer(inner);

    let mut ready = becoming_ready(&mut service);
    timeout(secs(1), &mut ready).await.unwrap_err();
    drop(busy);
    ready.await.unwrap();
}

/// Polls a service ready, as for a request without a body.
fn becoming_ready<S>(service: &mut S) -> Pin<Box<dyn Future<Output = Result<(), S::Error>> + '_>>
where
    S: Service<Request<String>>,
{
    Box::pin(poll_fn(|cx| service.poll_ready(cx)))
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_a_call_sleeps() {
    for config in [waiting(1_000), waiting(1_000).with_deadline(secs(9))] {
        let script = Script::new([Step::Answer(answer(503)), Step::Answer(answer(200))]);
        let limit = ConcurrencyLimitLayer::new(1);
        let service = layer(config).0.layer(limit.layer(script.clone()));
        let started = Instant::now();
        let mut sleeping = Box::pin(service.clone().oneshot(get()));
        timeout(Duration::from_millis(500), &mut sleeping)
            .await
            .unwrap_err();
        assert_eq!(script.calls(), 1);

        let other = timeout(Duration::from_millis(1), service.oneshot(get())).await;

        assert_eq!(other.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(script.calls(), 2);
        let response = sleeping.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(started.elapsed(), secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_waits_for_its_permit_like_any_other_call() {
    let script = Script::new([
        Step::Answer(answer(503)),
        Step::After(secs(5), answer(200)),
        Step::Answer(answer(200)),
    ]);
    let limit = ConcurrencyLimitLayer::new(1);
    let service = layer(waiting(1_000)).0.layer(limit.layer(script.clone()));
    let started = Instant::now();
    let first = service.clone().oneshot(get());
    let second = async {
        sleep(Duration::from_millis(500)).await;
        service.clone().oneshot(get()).await
    };

    let (first, second) = tokio::join!(first, second);

    assert_eq!(first.unwrap().status(), StatusCode::OK);
    assert_eq!(second.unwrap().status(), StatusCode::OK);
    let starts: Vec<_> = script
        .seen()
        .iter()
        .map(|seen| seen.at.as_millis())
        .collect();
    assert_eq!(starts, [0, 500, 5_500]);
    assert_eq!(started.elapsed(), Duration::from_millis(5_500));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_that_never_comes_is_answered_with_504_at_the_deadline() {
    for (config, end) in [
        (waiting(100).with_deadline(secs(3)), secs(3)),
        // Without a deadline attempts may start for 30 s.
        (waiting(100), secs(30)),
        (waiting(100).with_attempt_timeout(secs(1)), secs(30)),
    ] {
        let (strict, log) = Strict::new(Readiness::Never);
        let (layer, budget) = layer(config);
        let started = Instant::now();

        let response = layer.layer(strict).oneshot(get()).await.unwrap();

        assert_eq!(started.elapsed(), end);
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let rejection: &LocalRejection = response.extensions().get().unwrap();
        assert_eq!(rejection.code(), Code::DeadlinePassed);
        let outcome = RetryOutcome::of(response.extensions()).unwrap();
        assert_eq!(outcome.attempts(), 1, "the second was never made");
        assert_eq!(outcome.stopped_by(), StoppedBy::Deadline);
        assert_eq!(log.calls(), 1);
        assert_eq!(affordable(&budget), 10, "what was not used is back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_readiness_leaves_less_of_the_deadline_to_the_attempt() {
    let (strict, log) = Strict::new(Readiness::After(secs(2)));
    let config = waiting(500)
        .with_deadline(secs(4))
        .with_attempt_timeout(secs(2));
    let started = Instant::now();

    let response = layer(config).0.layer(strict).oneshot(get()).await.unwrap();

    let limits = log.limits.lock().unwrap();
    let limits = limits.iter().map(|limit| limit.unwrap().moment() - started);
    assert_eq!(limits.collect::<Vec<_>>(), [secs(2), secs(4)]);
    // The third attempt would have to be ready at 5 s.
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(started.elapsed(), secs(4));
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_at_becoming_ready_hands_out_its_own_error() {
    for config in [waiting(100), waiting(100).with_deadline(secs(9))] {
        let (strict, log) = Strict::new(Readiness::Fails);
        let (layer, budget) = layer(config);

        let error = layer.layer(strict).oneshot(get()).await.unwrap_err();

        assert_eq!(error, Fault::Strange);
        assert_eq!(log.calls(), 1);
        assert_eq!(affordable(&budget), 10, "what was not used is back");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_service_do_not_share_the_instance_of_their_further_attempts() {
    let (strict, log) = Strict::new(Readiness::AtOnce);
    let service = layer(waiting(100)).0.layer(strict);

    let (one, other) = tokio::join!(service.clone().oneshot(get()), service.oneshot(get()));

    let is_answer = |response: Response<_>| response.status() == StatusCode::SERVICE_UNAVAILABLE;
    assert!(is_answer(one.unwrap()) && is_answer(other.unwrap()));
    let mut called: Vec<_> = log.events();
    called.retain(|event| matches!(event, Event::Called(_)));
    let instances: std::collections::BTreeSet<_> = called
        .iter()
        .map(|event| match event {
            Event::Called(number) | Event::Ready(number) | Event::Cloned(_, number) => *number,
        })
        .collect();
    assert_eq!(called.len(), 6);
    assert_eq!(instances.len(), 4, "two of the callers, two of the calls");
}
