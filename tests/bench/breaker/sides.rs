//! The layers that are compared, closed and open.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use failsafe::{Config, backoff, failure_policy};
use http::Request;
use http_body_util::Full;
use recloser::AsyncRecloser;
use steadfast::circuit_breaker::{
    BreakerConfig, Cause, CircuitBreaker, CircuitBreakerLayer, Failure, InvalidBreaker,
    SafetyClass, Verdict, Window,
};
use tokio::runtime::Runtime;
use tower::{Layer, Service};
use tower_resilience_circuitbreaker::CircuitBreakerLayer as Resilience;

use super::peers::{Failsafe, Recloser};
use crate::{
    BoxError,
    calls::{Caller, OnRuntime, Polled, Side},
    services::{Answer, Instantly},
};

pub(super) type Incoming = Request<Full<Bytes>>;

/// A service that threads can share, and that layers can keep.
pub(super) trait Inner:
    Service<Incoming, Response = Answer, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S where
    S: Service<Incoming, Response = Answer, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// No breaker opens by itself, or closes, while it is measured.
const LONG: Duration = Duration::from_secs(60 * 60);

/// Of a window of calls, here and there.
const CALLS: u32 = 100;

pub(super) fn run_of_failures() -> BreakerConfig {
    BreakerConfig::default().without_failure_rate()
}

pub(super) fn window_of_calls() -> BreakerConfig {
    run_of_failures()
        .without_consecutive_failures()
        .with_failure_rate(0.5, Window::Calls(CALLS), CALLS)
}

/// The bare service, ours with each kind of statistic, and others, all of them closed.
pub(super) fn closed<S: Inner>(
    threads: usize,
    inner: &S,
    request: fn() -> Incoming,
) -> Result<Vec<Side>, BoxError> {
    let bare = inner.clone();
    let mut sides = vec![called(threads, "bare", request, move || bare.clone())];
    for (name, config) in [
        ("steadfast, run of failures", run_of_failures()),
        ("steadfast, window of calls", window_of_calls()),
        ("steadfast, default", BreakerConfig::default()),
    ] {
        // Once, to see that it can be made.
        ours(config)?;
        let inner = inner.clone();
        sides.push(called(threads, name, request, move || {
            let breaker = ours(config).expect("it was made before");
            CircuitBreakerLayer::http(breaker).layer(inner.clone())
        }));
    }
    let failsafe = inner.clone();
    sides.push(called(threads, "failsafe", request, move || Failsafe {
        inner: failsafe.clone(),
        breaker: Config::new().build(),
    }));
    let recloser = inner.clone();
    sides.push(called(threads, "recloser", request, move || Recloser {
        inner: recloser.clone(),
        breaker: AsyncRecloser::from(recloser::Recloser::default()),
    }));
    let resilience = inner.clone();
    Resilience::builder().build()?;
    sides.push(called(threads, "tower-resilience", request, move || {
        let layer = Resilience::builder().build();
        layer.expect("it was made before").layer(resilience.clone())
    }));
    Ok(sides)
}

/// Ours and others, all of them open, over a service that is never called.
pub(super) fn open(threads: usize, request: fn() -> Incoming) -> Result<Vec<Side>, BoxError> {
    ours(run_of_failures())?;
    let inner = Instantly {
        answer: super::answer,
    };
    let opened = || {
        let breaker = ours(run_of_failures()).expect("it was made before");
        trip(&breaker);
        breaker
    };
    let mut sides = vec![
        side("nothing but the request", request, || Nothing),
        side("steadfast, http", request, move || {
            CircuitBreakerLayer::http(opened()).layer(inner)
        }),
        refused("steadfast, error", request, move || {
            let classify = |_: &Result<Answer, Infallible>| Verdict::Success;
            CircuitBreakerLayer::new(opened(), classify).layer(inner)
        }),
    ];

    if threads == 1 {
        let (layer, handle) = Resilience::builder()
            .wait_duration_in_open(LONG)
            .build_with_handle()?;
        Runtime::new()?.block_on(handle.force_open());
        sides.push(refused("tower-resilience", request, move || {
            layer.layer(inner)
        }));
    }
    sides.push(refused("failsafe", request, move || {
        let policy = failure_policy::consecutive_failures(1, backoff::constant(LONG));
        let breaker = Config::new().failure_policy(policy).build();
        fail(&mut Failsafe {
            inner: Failing,
            breaker: breaker.clone(),
        });
        Failsafe { inner, breaker }
    }));
    sides.push(refused("recloser", request, move || {
        let breaker = recloser::Recloser::custom().closed_len(1).open_wait(LONG);
        let breaker = AsyncRecloser::from(breaker.build());
        let mut failing = Recloser {
            inner: Failing,
            breaker: breaker.clone(),
        };
        // It looks at a ring that is full.
        for _ in 0..2 {
            fail(&mut failing);
        }
        Recloser { inner, breaker }
    }));
    Ok(sides)
}

/// A side whose calls are errors.
fn refused<S>(name: &'static str, request: fn() -> Incoming, make: impl Fn() -> S + 'static) -> Side
where
    S: Service<Incoming> + Clone + Send + Sync + 'static,
{
    Side::new(name, move || {
        let service = make();
        move || Refused {
            service: service.clone(),
            request,
        }
    })
}

struct Refused<S> {
    service: S,
    request: fn() -> Incoming,
}

impl<S: Service<Incoming>> Caller for Refused<S> {
    fn call(&mut self, times: u64) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..times {
            let request = (self.request)();
            let Poll::Ready(Ok(())) = self.service.poll_ready(&mut cx) else {
                panic!("the service is not ready");
            };
            let refusal = pin!(self.service.call(request));
            let Poll::Ready(Err(refusal)) = refusal.poll(&mut cx) else {
                panic!("the breaker is closed");
            };
            black_box(&refusal);
        }
    }
}

fn fail<S: Service<()>>(service: &mut S) {
    let mut cx = Context::from_waker(Waker::noop());
    let call = pin!(service.call(()));
    assert!(
        matches!(call.poll(&mut cx), Poll::Ready(Err(_))),
        "it fails at once"
    );
}

/// Fails at once.
#[derive(Clone)]
struct Failing;

impl Service<()> for Failing {
    type Response = ();
    type Error = ();
    type Future = Ready<Result<(), ()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Err(()))
    }
}

/// Drops the request.
#[derive(Clone)]
struct Nothing;

impl Service<Incoming> for Nothing {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Incoming) -> Self::Future {
        ready(Ok(()))
    }
}

fn trip(breaker: &CircuitBreaker) {
    let failure = Failure::new(SafetyClass::Transient, Cause::Fault);
    for _ in 0..BreakerConfig::DEFAULT_CONSECUTIVE_FAILURES {
        let permit = breaker.admit(None).expect("it is closed");
        permit.record(failure.into());
    }
}

fn ours(config: BreakerConfig) -> Result<CircuitBreaker, InvalidBreaker> {
    CircuitBreaker::with_config("bench", config.with_open_for(LONG))
}

/// A side whose calls are polled by hand in one thread. Several threads have runtimes: tower-resilience waits for an asynchronous
/// lock, which they could not share otherwise.
fn called<S>(
    threads: usize,
    name: &'static str,
    request: fn() -> Incoming,
    make: impl Fn() -> S + 'static,
) -> Side
where
    S: Service<Incoming> + Clone + Send + Sync + 'static,
{
    if threads == 1 {
        return side(name, request, make);
    }
    Side::new(name, move || {
        let service = make();
        move || OnRuntime::new(service.clone(), request)
    })
}

/// Each round makes a service, and each of its threads has a clone.
fn side<S>(name: &'static str, request: fn() -> Incoming, make: impl Fn() -> S + 'static) -> Side
where
    S: Service<Incoming> + Clone + Send + Sync + 'static,
{
    Side::new(name, move || {
        let service = make();
        move || Polled {
            service: service.clone(),
            request,
        }
    })
}
