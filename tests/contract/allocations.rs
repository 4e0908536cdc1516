//! What a layer does not apply to costs no memory: counted, on this thread, beside the same service without the layer.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use steadfast::{
    circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, When},
    idempotency::{IdempotencyConfig, IdempotencyLayer, KeyRequirement, Promise},
    retry::IdempotencyKeyLayer,
    store::MemoryStore,
};
use tower::{Layer, Service, util::BoxCloneService};

use crate::support::{PROMISES, layer};

#[test]
fn a_get_costs_no_allocation() {
    for promise in PROMISES {
        let layer = layer(promise, MemoryStore::default());
        adds_nothing(&layer, || request(Method::GET));
    }
}

#[test]
fn a_request_without_an_optional_key_costs_no_allocation() {
    let config = IdempotencyConfig::default().with_key(KeyRequirement::Optional);

    for promise in PROMISES {
        let layer = layer(promise, MemoryStore::default())
            .with_config(config.clone())
            .unwrap();
        adds_nothing(&layer, || request(Method::POST));
    }
}

#[test]
fn a_grpc_request_whose_method_is_not_named_costs_no_allocation() {
    let config = IdempotencyConfig::default().with_grpc_methods([PLACE]);

    for promise in PROMISES {
        let layer = layer(promise, MemoryStore::default())
            .with_config(config.clone())
            .unwrap();
        // With a key, which nothing looks at.
        adds_nothing(&layer, || {
            let mut request = grpc("/shop.Orders/List");
            let key = HeaderValue::from_static("k-1");
            request.headers_mut().insert("idempotency-key", key);
            request
        });

        let base = allocated(Instantly, || grpc(PLACE));
        let refused = allocated(layer.layer(Instantly), || grpc(PLACE));
        assert!(refused.count_total > base.count_total, "it is named");
    }
}

#[test]
fn a_request_that_needs_no_key_costs_no_allocation() {
    let layer = IdempotencyKeyLayer::new();
    costs_nothing(layer.layer(Instantly), || request(Method::GET));
    let elsewhere = IdempotencyKeyLayer::new_for(|head| head.uri.path() == PLACE);
    costs_nothing(elsewhere.layer(Instantly), || request(Method::POST));

    let base = allocated(Instantly, || request(Method::POST));
    let named = allocated(layer.layer(Instantly), || request(Method::POST));
    assert!(named.count_total > base.count_total, "it is named");
}

#[test]
fn a_call_that_a_closed_breaker_lets_through_costs_no_allocation() {
    let breaker = CircuitBreaker::new("charges");
    let layer = CircuitBreakerLayer::http(breaker.clone());

    costs_nothing(layer.layer(Instantly), || request(Method::POST));

    let base = allocated(Instantly, || request(Method::POST));
    let ended = layer.clone().with_outcome_at(When::End);
    let ended = allocated(ended.layer(Instantly), || request(Method::POST));
    assert_eq!(
        ended.count_total,
        base.count_total + 1,
        "the end is waited for"
    );
    breaker.force_open();
    let rejected = allocated(layer.layer(Instantly), || request(Method::POST));
    assert!(rejected.count_total > base.count_total, "it answers");
}

#[test]
fn what_a_layer_does_allocate_is_counted() {
    let refusing = layer(Promise::AtMostOnce, MemoryStore::default());

    let base = allocated(Instantly, || request(Method::POST));
    let refused = allocated(refusing.layer(Instantly), || request(Method::POST));

    assert!(refused.count_total > base.count_total);
}

#[track_caller]
fn adds_nothing(layer: &IdempotencyLayer<MemoryStore>, request: impl Fn() -> Request<Full<Bytes>>) {
    costs_nothing(layer.layer(Instantly), &request);

    let base = allocated(Instantly, &request);
    let boxed = allocated(BoxCloneService::new(Instantly), &request);
    let layered = allocated(layer.layer(BoxCloneService::new(Instantly)), &request);
    assert_eq!(boxed.count_total, layered.count_total, "boxed");
    assert!(boxed.count_total > base.count_total, "a box is counted");
}

/// The service costs what it would without its layer.
#[track_caller]
fn costs_nothing<S, B>(layered: S, request: impl Fn() -> Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let base = allocated(Instantly, &request);
    let layered = allocated(layered, &request);
    assert_eq!(counts(base), counts(layered), "plain");
}

const fn counts(allocated: AllocationInfo) -> (u64, u64) {
    (allocated.count_total, allocated.bytes_total)
}

/// What a call allocates on its way to its answer. The first is left out: it may set something up.
fn allocated<S, B>(mut service: S, request: impl Fn() -> Request<Full<Bytes>>) -> AllocationInfo
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    call(&mut service, request());
    let request = request();
    measure(|| call(&mut service, request))
}

fn call<S, B>(service: &mut S, request: Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let answer = pin!(service.call(request));
    assert!(answer.poll(&mut cx).is_ready());
}

fn request(method: Method) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from("amount=5"));
    *request.method_mut() = method;
    request
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_static("api.example.com"));
    request
}

/// The gRPC method that a layer is told of.
const PLACE: &str = "/shop.Orders/Place";

fn grpc(path: &'static str) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST);
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// Answers at once, whatever the body.
#[derive(Clone)]
struct Instantly;

impl<B> Service<Request<B>> for Instantly {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::from("done"))))
    }
}
