//! retry R13: counted, on this thread, beside the same service without the layer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::Full;
#[cfg(any(feature = "axum", feature = "tonic"))]
use steadfast_retry::SameBody;
use steadfast_retry::{Budget, RetryConfig, RetryLayer, Wrapped};
use tower::{Layer, Service};

/// A service that reads the request to its end, and answers.
#[derive(Clone)]
struct Instantly;

impl<B> Service<Request<B>> for Instantly
where
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut body = request.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) {
            assert!(frame.is_ok_and(|frame| frame.is_data()));
        }
        let mut response = Response::new(Full::new(Bytes::from_static(b"done")));
        // To gRPC, anything else is a failure.
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        ready(Ok(response))
    }
}

fn request<B>(method: Method, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static("http://destination.test/orders");
    request
}

fn get() -> Request<Full<Bytes>> {
    request(Method::GET, Full::default())
}

fn post() -> Request<Full<Bytes>> {
    request(Method::POST, Full::new(Bytes::from_static(b"an order")))
}

/// What one call allocates, from its request to the end of its response.
fn allocated<S, B, RB>(mut service: S, request: impl Fn() -> Request<B>) -> AllocationInfo
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: std::fmt::Debug,
{
    let mut call = || {
        now(poll_fn(|cx| service.poll_ready(cx))).unwrap();
        drop(now(service.call(request())).unwrap());
    };
    // The handles of metrics, and the first slots of threads, are made once.
    call();
    measure(call)
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

/// How many allocations the layer adds to a call.
fn added<M, B>(layer: &RetryLayer<M>, request: impl Fn() -> Request<B>) -> u64
where
    RetryLayer<M>: Layer<Instantly>,
    <RetryLayer<M> as Layer<Instantly>>::Service:
        Service<Request<B>, Response = Response<steadfast_retry::ResponseBody<Full<Bytes>>>>,
    <<RetryLayer<M> as Layer<Instantly>>::Service as Service<Request<B>>>::Error: std::fmt::Debug,
    B: Body<Data = Bytes> + Unpin,
{
    let bare = allocated(Instantly, &request);
    let layered = allocated(layer.layer(Instantly), &request);
    assert_eq!(bare.count_current, 0);
    assert_eq!(layered.count_current, 0, "it keeps something");
    layered.count_total - bare.count_total
}

#[test]
fn a_call_without_a_body_that_succeeds_at_once_allocates_nothing() {
    assert_eq!(added(&RetryLayer::http(), get), 0);
    assert_eq!(added(&RetryLayer::http().without_budget(), get), 0);
    assert_eq!(added(&RetryLayer::grpc().with_wrapped_body(), get), 0);
}

#[test]
fn a_call_with_a_body_that_succeeds_at_once_allocates_one_cell() {
    assert_eq!(added(&RetryLayer::http(), post), 1);
    assert_eq!(added(&RetryLayer::grpc().with_wrapped_body(), post), 1);
}

#[test]
fn the_copy_of_a_head_costs_what_its_fields_do_and_no_more() {
    let with_fields = || {
        let mut request = get();
        for (name, value) in [(header::ACCEPT, "*/*"), (header::USER_AGENT, "test")] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        request
    };
    let request = with_fields();
    let copy = measure(|| drop(request.headers().clone())).count_total;
    assert_ne!(copy, 0);

    assert_eq!(added(&RetryLayer::http(), with_fields), copy);
}

#[test]
fn a_request_that_passes_allocates_nothing() {
    let one_attempt = RetryLayer::http()
        .with_config(RetryConfig::default().with_max_attempts(1))
        .unwrap();
    let small = RetryLayer::http()
        .with_config(RetryConfig::default().with_replay_limit(3))
        .unwrap();
    let poor = RetryLayer::http().with_budget(Budget::ratio(0.001, 0).unwrap());
    let with_fields = || {
        let mut request = post();
        let accept = HeaderValue::from_static("*/*");
        request.headers_mut().insert(header::ACCEPT, accept);
        request
    };

    for (layer, why) in [
        (one_attempt, "one attempt"),
        (small, "declared larger than the limit"),
        (poor, "no token"),
    ] {
        assert_eq!(added(&layer, post), 0, "{why}");
        assert_eq!(added(&layer, with_fields), 0, "{why}");
    }
}

#[test]
fn a_call_with_a_limit_costs_its_extension_and_a_box_for_the_timer() {
    let limited = RetryConfig::default().with_deadline(std::time::Duration::from_secs(1));
    let limited = RetryLayer::http().with_config(limited).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _timers = runtime.enter();

    // An extension that is the first has a map, the map's table, and its own box.
    assert_eq!(added(&limited, get), 3 + 1);
    let bare = allocated(Instantly, get).bytes_total;
    let layered = allocated(limited.layer(Instantly), get).bytes_total;
    assert!(layered - bare < 1024, "the whole call is in the box");
}

#[cfg(feature = "tonic")]
#[test]
fn a_body_of_a_fixed_type_costs_one_box_more_and_none_without_a_body() {
    use tonic::body::Body;
    let layer: RetryLayer<SameBody> = RetryLayer::grpc();

    assert_eq!(added(&layer, || request(Method::POST, Body::empty())), 0);
    let body = || Body::new(Full::new(Bytes::from_static(b"an order")));
    assert_eq!(added(&layer, || request(Method::POST, body())), 2);
}

#[cfg(feature = "axum")]
#[test]
fn a_body_of_axum_costs_one_box_more_and_none_without_a_body() {
    use axum_core::body::Body;
    let layer: RetryLayer<SameBody> = RetryLayer::http().with_same_body();

    let body = || Body::from("an order");
    assert_eq!(added(&layer, || request(Method::POST, body())), 2);
    assert_eq!(added(&layer, || request(Method::GET, Body::empty())), 0);
}

#[test]
fn whatever_takes_any_body_needs_no_box() {
    let layer: RetryLayer<Wrapped> = RetryLayer::http().with_same_body().with_wrapped_body();

    assert_eq!(added(&layer, post), 1);
}
