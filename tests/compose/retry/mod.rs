//! The retry layer (rules R1 to R15) before real clients and servers: loopback sockets, real time.

mod bodies;
mod calls;
mod connections;
mod effects;
mod hints;
mod http2;
mod placements;
mod streams;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use steadfast::{
    http::{IdempotentRequest, body::ReplayBody},
    retry::{Backoff, Jitter, Retry, RetryConfig, RetryLayer, RetryOutcome},
};
use tower::{Layer, Service, ServiceExt};

use crate::support::{Protocol, echo, script, within};

/// Waits that a test can afford, throttled ones too.
fn config() -> RetryConfig {
    let backoff = Backoff::constant(Duration::from_millis(20)).with_jitter(Jitter::None);
    RetryConfig::default().with_backoff(backoff)
}

fn http() -> RetryLayer {
    RetryLayer::http().with_config(config()).unwrap()
}

type HyperClient<B> = Client<HttpConnector, ReplayBody<B>>;

/// hyper-util's client, as its users build it.
fn hyper_client<B>(protocol: Protocol) -> HyperClient<B>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<steadfast::http::BoxError>,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http2_only(protocol == Protocol::Http2)
        .build_http()
}

fn over_hyper<B>(protocol: Protocol) -> Retry<HyperClient<B>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<steadfast::http::BoxError>,
{
    http().layer(hyper_client(protocol))
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

fn post(url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

fn marked<B>(mut request: Request<B>) -> Request<B> {
    request.extensions_mut().insert(IdempotentRequest);
    request
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
    whole(send(service, request).await.unwrap()).await
}

async fn whole<RB>(response: Response<RB>) -> Response<Bytes>
where
    RB: http_body::Body,
    RB::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes();
    Response::from_parts(head, body)
}

/// How many attempts the layer says it made; a first attempt that succeeds goes without saying.
fn attempts<B>(response: &Response<B>) -> u32 {
    RetryOutcome::of(response.extensions()).map_or(1, |outcome| outcome.attempts())
}
