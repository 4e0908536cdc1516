//! The layer of circuit breakers, in each state in which it lets requests through; and what it owes the service within in the others.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use steadfast::circuit_breaker::{
    BreakerConfig, BreakerRegistry, Cause, CircuitBreaker, CircuitBreakerLayer, Failure,
    SafetyClass, State, Verdict, When, Window,
};
use tokio::time::sleep;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    layer::util::{Identity, Stack},
    service_fn,
};

use crate::{
    laws::{Answer, Lawful, Oops, Payload, Probe, Subject, laws, payload},
    support::{Count, poll_at_most},
};

const FAULT: Failure = Failure::new(SafetyClass::Transient, Cause::Fault);
const LONG: Duration = Duration::from_secs(60);
const OPEN_FOR: Duration = Duration::from_millis(1);

fn breaker() -> CircuitBreaker {
    CircuitBreaker::new("charges")
}

fn configured(config: BreakerConfig) -> CircuitBreaker {
    CircuitBreaker::with_config("charges", config).unwrap()
}

/// A breaker whose next calls are probes, of a clock that is paused.
fn probing(config: BreakerConfig) -> CircuitBreaker {
    let config = config
        .with_consecutive_failures(1)
        .with_open_for(OPEN_FOR)
        .with_open_jitter(0.0);
    let breaker = configured(config);
    breaker.admit(None).unwrap().record(FAULT.into());
    assert_eq!(breaker.state(), State::Open);
    // The clock is moved before it gives way to others.
    _ = tokio::time::advance(OPEN_FOR).now_or_never();
    assert!(breaker.snapshot().open_left().is_zero());
    breaker
}

fn put(n: u32) -> Request<Payload> {
    Request::put(format!("/charges/{n}"))
        .body(payload("amount=5"))
        .unwrap()
}

fn create(_: u32) -> Request<Payload> {
    Request::post("/bank.Charges/Create")
        .header("content-type", "application/grpc")
        .body(payload("\0\0\0\0\0"))
        .unwrap()
}

fn of(breaker: CircuitBreaker) -> Subject<CircuitBreakerLayer> {
    Subject {
        layer: CircuitBreakerLayer::http(breaker),
        request: put,
    }
}

fn closed() -> Subject<CircuitBreakerLayer> {
    of(breaker())
}

fn disabled() -> Subject<CircuitBreakerLayer> {
    let breaker = breaker();
    breaker.disable();
    of(breaker)
}

fn observing() -> Subject<CircuitBreakerLayer> {
    let breaker = breaker();
    breaker.observe_only();
    of(breaker)
}

/// Nothing that the laws do decides.
fn half_open() -> Subject<CircuitBreakerLayer> {
    of(probing(
        BreakerConfig::default().with_probe_rate(100, 0.5, 1_000),
    ))
}

fn timed() -> Subject<CircuitBreakerLayer> {
    of(configured(BreakerConfig::default().with_slow_calls(
        LONG,
        0.5,
        Window::Calls(10),
        10,
    )))
}

fn told_at_the_end() -> Subject<CircuitBreakerLayer> {
    Subject {
        layer: CircuitBreakerLayer::http(breaker()).with_outcome_at(When::End),
        request: put,
    }
}

fn given_all_it_can_be_given() -> Subject<CircuitBreakerLayer> {
    let layer = CircuitBreakerLayer::http(breaker())
        .with_classifier(|_, verdict| verdict)
        .with_fallback(|_, rejection| rejection);
    Subject {
        layer,
        request: put,
    }
}

/// The probe says nothing that a client of gRPC would understand.
fn over_grpc() -> Subject<CircuitBreakerLayer> {
    let layer =
        CircuitBreakerLayer::grpc(breaker()).with_classifier(|outcome, verdict| match outcome {
            Ok(_) => Verdict::Success,
            Err(_) => verdict,
        });
    Subject {
        layer,
        request: create,
    }
}

fn of_a_registry() -> Subject<impl Lawful> {
    let registry = BreakerRegistry::per_destination(BreakerConfig::default()).unwrap();
    Subject {
        layer: CircuitBreakerLayer::http(registry),
        request: put,
    }
}

/// There is room for a few keys alone.
fn of_a_registry_with_a_key_for_each_request() -> Subject<impl Lawful> {
    let key = |request: &Request<Payload>| request.uri().path().to_owned();
    let registry = BreakerRegistry::by(BreakerConfig::default(), key).unwrap();
    Subject {
        layer: CircuitBreakerLayer::http(registry.with_capacity(2.try_into().unwrap())),
        request: put,
    }
}

/// Takes HTTP for a protocol that nobody knows.
fn of_results() -> Subject<impl Lawful> {
    let classify = |result: &Result<Response<Full<Bytes>>, Oops>| match result {
        Ok(_) => Verdict::Success,
        Err(_) => FAULT.into(),
    };
    Subject {
        layer: CircuitBreakerLayer::new(breaker(), classify),
        request: put,
    }
}

type Two = Stack<CircuitBreakerLayer, Stack<CircuitBreakerLayer, Identity>>;

fn around_another_one() -> Subject<Two> {
    let layer = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::http(breaker()))
        .layer(CircuitBreakerLayer::http(breaker()))
        .into_inner();
    Subject {
        layer,
        request: put,
    }
}

laws!(closed);
laws!(disabled);
laws!(observing);
laws!(half_open);
laws!(timed);
laws!(told_at_the_end);
laws!(given_all_it_can_be_given);
laws!(over_grpc);
laws!(of_a_registry);
laws!(of_a_registry_with_a_key_for_each_request);
laws!(of_results);
laws!(around_another_one);

/// How many calls of a service that always fails, and is called 20 times, get through.
async fn calls_that_pass(subject: Subject<impl Lawful>) -> usize {
    let (probe, book) = Probe::with_permits(1);
    book.fail_calls();
    let service = subject.layer.layer(probe);
    for _ in 0..20 {
        // Where it is not HTTP, a rejection is an error as well.
        _ = service.clone().oneshot((subject.request)(1)).await;
    }
    book.calls()
}

/// What the laws of a failing service are about.
#[tokio::test(start_paused = true)]
async fn the_subjects_are_what_their_names_say() {
    assert_eq!(calls_that_pass(closed()).await, 5);
    assert_eq!(calls_that_pass(told_at_the_end()).await, 5);
    assert_eq!(calls_that_pass(timed()).await, 5);
    assert_eq!(calls_that_pass(given_all_it_can_be_given()).await, 5);
    assert_eq!(calls_that_pass(over_grpc()).await, 5);
    assert_eq!(calls_that_pass(of_a_registry()).await, 5);
    let keyed = of_a_registry_with_a_key_for_each_request();
    assert_eq!(calls_that_pass(keyed).await, 5);
    assert_eq!(calls_that_pass(of_results()).await, 5);
    assert_eq!(calls_that_pass(around_another_one()).await, 5);

    assert_eq!(calls_that_pass(disabled()).await, 20);
    assert_eq!(calls_that_pass(observing()).await, 20);
    assert_eq!(calls_that_pass(half_open()).await, 20);
}

type Over<S> = steadfast::circuit_breaker::Guarded<S>;

fn guarded(permits: usize, breaker: &CircuitBreaker) -> (Over<Probe>, Arc<crate::laws::Book>) {
    let (probe, book) = Probe::with_permits(permits);
    let service = CircuitBreakerLayer::http(breaker.clone()).layer(probe);
    (service, book)
}

async fn ready(service: &mut Over<Probe>) {
    ServiceExt::<Request<Payload>>::ready(service)
        .await
        .unwrap();
}

async fn called(service: &mut Over<Probe>) -> StatusCode {
    service.call(put(1)).await.unwrap().code()
}

#[tokio::test(start_paused = true)]
async fn open_it_is_ready_without_the_service_within() {
    let breaker = breaker();
    let (mut service, book) = guarded(0, &breaker);
    breaker.force_open();

    let is_ready = ServiceExt::<Request<Payload>>::ready(&mut service).now_or_never();

    assert!(is_ready.is_some());
    assert_eq!(called(&mut service).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(book.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_not_readied_is_not_called_even_if_it_closed_since() {
    let breaker = breaker();
    let (mut service, book) = guarded(1, &breaker);
    breaker.force_open();
    ready(&mut service).await;
    breaker.force_closed();

    assert_eq!(called(&mut service).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((book.calls(), book.unready_calls()), (0, 0));
    assert_eq!(breaker.snapshot().failures().unwrap().calls, 0);

    ready(&mut service).await;
    assert_eq!(called(&mut service).await, StatusCode::OK);
    assert_eq!((book.calls(), book.unready_calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_asked_for_again_once_it_lets_calls_through() {
    let breaker = breaker();
    let (mut service, book) = guarded(1, &breaker);
    breaker.force_open();
    ready(&mut service).await;
    breaker.force_closed();

    ready(&mut service).await;

    assert_eq!(called(&mut service).await, StatusCode::OK);
    assert_eq!((book.calls(), book.unready_calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_for_a_call_that_is_rejected_is_given_back() {
    for times_ready in 1..=3 {
        let breaker = breaker();
        let (mut service, book) = guarded(1, &breaker);
        for _ in 0..times_ready {
            ready(&mut service).await;
        }
        assert_eq!(book.free(), 0);
        breaker.force_open();

        let call = service.call(put(1));
        assert_eq!(book.free(), 1, "before the rejection is waited for");
        assert_eq!(call.await.unwrap().code(), StatusCode::SERVICE_UNAVAILABLE);

        breaker.force_closed();
        ready(&mut service).await;
        assert_eq!(called(&mut service).await, StatusCode::OK);
        assert_eq!((book.calls(), book.unready_calls()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_readied_service_whose_breaker_opened_and_closed_again_is_called() {
    let breaker = breaker();
    let (mut service, book) = guarded(1, &breaker);
    ready(&mut service).await;
    breaker.force_open();
    ready(&mut service).await;
    breaker.force_closed();

    assert_eq!(called(&mut service).await, StatusCode::OK);
    assert_eq!((book.calls(), book.unready_calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_service_that_is_ready_to_reject_asks_for_itself() {
    let breaker = breaker();
    let (mut service, book) = guarded(1, &breaker);
    breaker.force_open();
    ready(&mut service).await;
    breaker.force_closed();

    let mut another = service.clone();
    ready(&mut another).await;

    assert_eq!(called(&mut another).await, StatusCode::OK);
    assert_eq!((book.calls(), book.unready_calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_service_within_is_not_woken_but_sees_at_its_next_look_that_it_opened() {
    let breaker = breaker();
    let (mut service, _book) = guarded(0, &breaker);
    let mut ready = Box::pin(ServiceExt::<Request<Payload>>::ready(&mut service));
    assert!(ready.as_mut().now_or_never().is_none());

    breaker.force_open();

    assert!(ready.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn who_is_rejected_after_waiting_keeps_no_place_in_the_queue() {
    for is_called in [false, true] {
        let breaker = breaker();
        let (mut service, book) = guarded(0, &breaker);
        let waits = ServiceExt::<Request<Payload>>::ready(&mut service).now_or_never();
        assert!(waits.is_none());
        breaker.force_open();
        ready(&mut service).await;
        if is_called {
            assert_eq!(called(&mut service).await, StatusCode::SERVICE_UNAVAILABLE);
        }

        book.add(1);

        assert_eq!(book.free(), 1, "called: {is_called}");
        breaker.force_closed();
        drop(service);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_passed_on_and_says_nothing() {
    let breaker = breaker();
    let (mut service, book) = guarded(1, &breaker);
    book.fail_readiness();

    for _ in 0..10 {
        let failed = ServiceExt::<Request<Payload>>::ready(&mut service).await;
        assert_eq!(failed.map(|_| ()).unwrap_err(), Oops::Readiness);
    }

    assert_eq!(breaker.snapshot().failures().unwrap().calls, 0);
    assert_eq!(breaker.state(), State::Closed);
}

/// A service with await points before and in its answer.
fn slow(
    runs: &Arc<Count>,
) -> impl Service<
    Request<Payload>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let runs = Arc::clone(runs);
    service_fn(move |_: Request<Payload>| {
        let runs = Arc::clone(&runs);
        async move {
            runs.add();
            for _ in 0..3 {
                sleep(Duration::from_millis(1)).await;
            }
            Ok(Response::new(Full::from("done")))
        }
    })
}

/// A probe that is dropped at any await point, and before it is polled at all: its place is free, and nothing is decided.
#[tokio::test(start_paused = true)]
async fn wherever_a_probe_is_dropped_the_next_call_is_one() {
    for when in [When::Head, When::End] {
        for polls in 0.. {
            let breaker = probing(BreakerConfig::default().with_half_open_limit(LONG));
            let runs = Arc::new(Count::default());
            let layer = CircuitBreakerLayer::http(breaker.clone()).with_outcome_at(when);
            let service = layer.layer(slow(&runs));

            let is_done = poll_at_most(service.clone().oneshot(put(1)), polls).await;
            let left = if is_done.is_some() { 2 } else { 3 };
            drop(is_done);
            for n in 0..left {
                assert_ne!(breaker.state(), State::Closed, "{polls} polls, {n}");
                let answer = service.clone().oneshot(put(1)).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK, "{polls} polls, {n}");
            }

            assert_eq!(breaker.state(), State::Closed, "{polls} polls");
            if left == 2 {
                assert!(polls > 3, "{polls}");
                break;
            }
        }
    }
}

/// However many are dropped, there are never more probes under way than may be.
#[tokio::test(start_paused = true)]
async fn dropped_probes_do_not_raise_their_number() {
    let config = BreakerConfig::default()
        .with_probes(2, 100)
        .with_half_open_limit(LONG);
    let breaker = probing(config);
    let runs = Arc::new(Count::default());
    let service = CircuitBreakerLayer::http(breaker.clone()).layer(slow(&runs));

    for round in 0..10 {
        let started = runs.get();
        let mut calls: Vec<_> = (0..5)
            .map(|_| Box::pin(service.clone().oneshot(put(1))))
            .collect();
        for call in &mut calls {
            _ = call.as_mut().now_or_never();
        }
        assert_eq!(runs.get() - started, 2, "round {round}");
        drop(calls);
        assert_eq!(breaker.state(), State::HalfOpen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_of_a_closed_breaker_says_nothing() {
    let breaker = breaker();
    let runs = Arc::new(Count::default());
    let service = CircuitBreakerLayer::http(breaker.clone()).layer(slow(&runs));

    for polls in 0..3 {
        for _ in 0..10 {
            let left = poll_at_most(service.clone().oneshot(put(1)), polls).await;
            assert!(left.is_none());
        }
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().failures().unwrap().calls, 0);
}

/// Readied services, futures and bodies that are not used keep no place of a probe.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_only_readied_takes_no_place_of_a_probe() {
    let breaker = probing(BreakerConfig::default().with_half_open_limit(LONG));
    let (mut readied, book) = guarded(10, &breaker);
    let mut calling = readied.clone();
    ready(&mut readied).await;

    for _ in 0..3 {
        ready(&mut calling).await;
        assert_eq!(called(&mut calling).await, StatusCode::OK);
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(book.unready_calls(), 0);
}
