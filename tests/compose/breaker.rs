//! The circuit breaker (rules B1 to B13) before real clients and servers: loopback sockets, real time.

mod channels;
mod clients;
mod grpc_servers;
mod keys;
mod retries;
mod servers;
mod stacks;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use steadfast::{
    circuit_breaker::{
        BreakerConfig, Cause, CircuitBreaker, CircuitBreakerLayer, Failure, Refusal, Rejected,
        SafetyClass, State, Transition,
    },
    http::{LocalRejection, problem::Code},
};
use tonic::Status;
use tonic_types::StatusExt;
use tower::{Service, ServiceExt};

use crate::support::{Answer, Protocol, echo, eventually, script, within};

/// Open for longer than a test takes, once it opens.
fn breaker() -> CircuitBreaker {
    CircuitBreaker::new("charges")
}

/// Open for a time that a test can wait for.
fn brief() -> BreakerConfig {
    BreakerConfig::default()
        .with_open_for(Duration::from_millis(100))
        .with_open_jitter(0.0)
}

fn configured(config: BreakerConfig) -> CircuitBreaker {
    CircuitBreaker::with_config("charges", config).unwrap()
}

fn http(breaker: &CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::http(breaker.clone())
}

fn grpc(breaker: &CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::grpc(breaker.clone())
}

const FAULT: Failure = Failure::new(SafetyClass::Transient, Cause::Fault);

/// Opens the breaker by its own rule.
fn trip(breaker: &CircuitBreaker) {
    for _ in 0..5 {
        breaker.admit(None).unwrap().record(FAULT.into());
    }
    assert_eq!(breaker.state(), State::Open);
}

/// Waits until the next call would be a probe.
async fn until_probed(breaker: &CircuitBreaker) {
    assert_eq!(breaker.state(), State::Open);
    let is_over = || breaker.snapshot().open_left().is_zero();
    eventually("the open time is over", is_over).await;
}

/// How many calls are in the window, and how many of them failed.
fn counted(breaker: &CircuitBreaker) -> (u64, u64) {
    let counts = breaker.snapshot().failures().unwrap();
    (counts.calls, counts.failures)
}

fn failures_in_a_row(breaker: &CircuitBreaker) -> u32 {
    breaker.snapshot().consecutive_failures()
}

/// All transitions from now on.
fn recorded(breaker: &CircuitBreaker) -> Arc<Mutex<Vec<Transition>>> {
    let transitions = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&transitions);
    breaker.on_transition(move |_, transition| record.lock().unwrap().push(*transition));
    transitions
}

/// hyper-util's client, as its users build it.
fn hyper_client<B>(protocol: Protocol) -> Client<HttpConnector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http2_only(protocol == Protocol::Http2)
        .build_http()
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

fn post(url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

/// Sends the request, and waits for the head of its answer.
async fn send<S, B, RB>(service: &S, request: Request<B>) -> Result<Response<RB>, S::Error>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
{
    within(service.clone().oneshot(request)).await
}

/// Sends the request, and reads all of its answer.
async fn answer<S, B, RB>(service: &S, request: Request<B>) -> Response<Bytes>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: std::fmt::Debug,
    RB: http_body::Body,
    RB::Error: std::fmt::Debug,
{
    let (head, body) = send(service, request).await.unwrap().into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes();
    Response::from_parts(head, body)
}

/// Of 30 s, with a tenth added by chance.
const SECONDS_LEFT: std::ops::RangeInclusive<u64> = 1..=33;

/// The layer's own answer, as its caller gets it in the same process.
#[track_caller]
fn assert_rejected(response: &Response<Bytes>) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let wait = response.headers()["retry-after"].to_str().unwrap();
    assert!(SECONDS_LEFT.contains(&wait.parse().unwrap()), "{wait}");
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["code"], "circuit-open");
    let rejected: &Rejected = response.extensions().get().unwrap();
    assert_eq!(rejected.breaker(), "charges");
    assert_eq!(rejected.refusal(), Refusal::Open);
    let marker: &LocalRejection = response.extensions().get().unwrap();
    assert_eq!(marker.code(), Code::CircuitOpen);
}

/// The layer's own answer, as it came over the wire.
#[track_caller]
fn assert_rejected_over_the_wire(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.code().as_deref(), Some("circuit-open"));
    let wait = answer.headers["retry-after"].to_str().unwrap();
    assert!(SECONDS_LEFT.contains(&wait.parse().unwrap()), "{wait}");
}

/// The layer's own status.
#[track_caller]
fn assert_rejected_in_grpc(status: &Status) {
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("CIRCUIT_OPEN", "steadfast")
    );
    assert_eq!(info.metadata["retryable"], "true");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pushback: u64 = pushback.to_str().unwrap().parse().unwrap();
    assert!((1..=33_000).contains(&pushback), "{pushback}");
    let delay = status
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(33));
}
