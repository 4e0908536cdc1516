//! circuit-breaker B13: counted, on this thread, beside the same service without the layer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame};
use steadfast_circuit_breaker::{
    BreakerConfig, CircuitBreaker, CircuitBreakerLayer, State, Verdict, When, Window,
};
use steadfast_http::problem::{Code, Problem, ProblemBase};
use tower::{Layer, Service};

/// A body of one part, and empty trailers where they are asked for.
struct Part {
    data: Option<Bytes>,
    has_trailers: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = std::mem::take(&mut self.has_trailers);
        Poll::Ready(trailers.then(|| Ok(Frame::trailers(HeaderMap::new()))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.has_trailers
    }
}

/// A service that answers at once with this status, and allocates nothing for a plain one.
#[derive(Clone)]
struct Instantly {
    status: StatusCode,
    grpc: bool,
}

const GOOD: Instantly = Instantly {
    status: StatusCode::OK,
    grpc: false,
};
const BAD: Instantly = Instantly {
    status: StatusCode::SERVICE_UNAVAILABLE,
    grpc: false,
};
const GRPC: Instantly = Instantly {
    status: StatusCode::OK,
    grpc: true,
};

impl Service<Request<()>> for Instantly {
    type Response = Response<Part>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Part>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut response = Response::new(Part {
            data: Some(Bytes::from_static(b"done")),
            has_trailers: self.grpc,
        });
        *response.status_mut() = self.status;
        if self.grpc {
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        }
        ready(Ok(response))
    }
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_static("http://destination.test/orders");
    request
}

fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// What one call allocates, from its request to the end of its response.
fn allocated<S, B>(service: &mut S) -> AllocationInfo
where
    S: Service<Request<()>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body + Unpin,
{
    let mut call = || {
        now(poll_fn(|cx| service.poll_ready(cx))).unwrap();
        let mut body = now(service.call(request())).unwrap().into_body();
        while !body.is_end_stream() {
            let frame = now(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
            assert!(frame.unwrap().is_ok());
        }
    };
    // The handles of metrics, and the first slots of threads, are made once.
    call();
    measure(call)
}

/// How many allocations this service adds to a call of the one without layers.
fn added<S, B>(bare: &Instantly, mut layered: S) -> u64
where
    S: Service<Request<()>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body + Unpin,
{
    let bare = allocated(&mut bare.clone());
    let layered = allocated(&mut layered);
    assert_eq!(layered.count_current, 0, "it keeps something");
    layered.count_total - bare.count_total
}

fn breaker(config: BreakerConfig) -> CircuitBreaker {
    CircuitBreaker::with_config("destination", config).unwrap()
}

fn configs() -> [(&'static str, BreakerConfig); 5] {
    let config = BreakerConfig::default;
    let slow = Duration::from_secs(1);
    [
        ("the default", config()),
        (
            "a window of calls",
            config().with_failure_rate(0.5, Window::Calls(100), 20),
        ),
        (
            "a window of time",
            config().with_failure_rate(0.5, Window::Time(slow), 20),
        ),
        (
            "slow calls",
            config().with_slow_calls(slow, 0.5, Window::Calls(100), 20),
        ),
        ("a run alone", config().without_failure_rate()),
    ]
}

#[test]
fn a_call_that_passes_a_closed_breaker_allocates_nothing() {
    for (name, config) in configs() {
        let breaker = breaker(config);
        let layer = CircuitBreakerLayer::http(breaker.clone());
        assert_eq!(added(&GOOD, layer.layer(GOOD)), 0, "{name}");

        let second = CircuitBreakerLayer::http(CircuitBreaker::new("the second"));
        let both = second.layer(layer.layer(GOOD));
        assert_eq!(added(&GOOD, both), 0, "two of them: {name}");
        assert_eq!(breaker.state(), State::Closed);
    }
}

#[test]
fn a_call_that_fails_while_it_stays_closed_allocates_nothing() {
    for (name, config) in configs() {
        let breaker = breaker(config.with_consecutive_failures(100));
        let layer = CircuitBreakerLayer::http(breaker.clone());
        assert_eq!(added(&BAD, layer.layer(BAD)), 0, "{name}");
        assert_eq!(breaker.snapshot().consecutive_failures(), 2);
    }
}

#[test]
fn a_layer_with_settings_allocates_nothing_more() {
    let layer = CircuitBreakerLayer::http(CircuitBreaker::new("destination"))
        .with_classifier(|_, verdict| verdict)
        .with_problem_base(ProblemBase::new("/problems"));
    assert_eq!(added(&GOOD, layer.layer(GOOD)), 0);
}

#[test]
fn what_waits_for_the_end_of_a_response_costs_one_box() {
    let breaker = breaker(BreakerConfig::default().with_consecutive_failures(100));
    let http = CircuitBreakerLayer::http(breaker.clone()).with_outcome_at(When::End);
    assert_eq!(added(&GOOD, http.layer(GOOD)), 1);
    assert_eq!(added(&BAD, http.layer(BAD)), 0, "the head decides");
    assert_eq!(breaker.snapshot().consecutive_failures(), 2);

    let grpc = CircuitBreakerLayer::grpc(breaker.clone());
    assert_eq!(added(&GRPC, grpc.layer(GRPC)), 1);
    let at_the_head = grpc.with_outcome_at(When::Head);
    assert_eq!(added(&GRPC, at_the_head.layer(GRPC)), 0);
}

/// A service that is not HTTP, without a future of its own.
#[derive(Clone)]
struct Plain;

impl Service<u8> for Plain {
    type Response = u8;
    type Error = Infallible;
    type Future = Ready<Result<u8, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u8) -> Self::Future {
        ready(Ok(number))
    }
}

#[test]
fn other_services_cost_nothing_while_they_pass_and_the_box_of_the_error_when_they_do_not() {
    let breaker = CircuitBreaker::new("destination");
    let layer = CircuitBreakerLayer::new(breaker.clone(), |_: &Result<u8, Infallible>| {
        Verdict::Success
    });
    let mut service = layer.layer(Plain);
    let mut call = |asks: bool| {
        if asks {
            now(poll_fn(|cx| service.poll_ready(cx))).unwrap();
        }
        drop(now(service.call(7)));
    };
    call(true);
    assert_eq!(measure(|| call(true)).count_total, 0);

    breaker.force_open();
    call(true);
    let rejection = measure(|| call(true));
    assert_eq!((rejection.count_total, rejection.count_current), (1, 0));
    let unasked = measure(|| call(false));
    assert_eq!((unasked.count_total, unasked.count_current), (1, 0));
}

#[test]
fn a_permit_allocates_nothing_and_neither_does_its_rejection() {
    let breaker = CircuitBreaker::new("destination");
    let call = || breaker.admit(None).unwrap().record(Verdict::Success);
    call();
    assert_eq!(measure(call).count_total, 0);
    assert_eq!(measure(|| drop(breaker.admit(None))).count_total, 0);

    breaker.force_open();
    let rejected = || drop(breaker.admit(None).unwrap_err());
    rejected();
    assert_eq!(measure(rejected).count_total, 0);
}

#[test]
fn a_rejection_allocates_no_more_than_its_response() {
    let breaker = CircuitBreaker::new("destination");
    let layer = CircuitBreakerLayer::http(breaker.clone());
    breaker.force_open();
    let mut service = layer.layer(GOOD);
    let rejection = allocated(&mut service);
    assert_eq!(rejection.count_current, 0);

    let wait = BreakerConfig::DEFAULT_OPEN_FOR;
    let base = ProblemBase::default();
    let response = || {
        let problem = Problem::new(Code::CircuitOpen, "taken out").with_retry_after(wait);
        drop(problem.into_response(&base));
    };
    response();
    // The extension of its own, and the box of its body.
    assert_eq!(
        rejection.count_total - measure(response).count_total,
        2,
        "beyond a problem's response"
    );
}

#[test]
fn what_the_layer_does_allocate_is_counted() {
    let breaker = CircuitBreaker::new("destination");
    assert!(measure(|| breaker.on_transition(|_, _| {})).count_total > 0);
}
