//! Our layers around two clients: reqwest's and hyper-util's.

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use steadfast::{
    circuit_breaker::{BreakerConfig, CircuitBreaker, CircuitBreakerLayer, Rejected},
    http::{BoxError, reqwest::ReqwestService},
    retry::{RetryConfig, RetryLayer},
};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

use crate::peer::within;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Make {
    Reqwest,
    Hyper,
}

impl Make {
    pub(crate) const ALL: [Self; 2] = [Self::Reqwest, Self::Hyper];

    /// With the defaults of the layers.
    pub(crate) fn client(self) -> Client {
        self.configured(RetryConfig::default(), BreakerConfig::default())
    }

    pub(crate) fn configured(self, retry: RetryConfig, breaker: BreakerConfig) -> Client {
        let breaker = CircuitBreaker::with_config("nginx", breaker).unwrap();
        let header = HeaderName::from_static("x-previous-attempts");
        let retry = RetryLayer::http()
            .with_config(retry.with_attempt_header(header))
            .unwrap()
            .trusting_key_header();
        let layers = ServiceBuilder::new()
            .layer(retry)
            .layer(CircuitBreakerLayer::http(breaker.clone()));
        let service = match self {
            Self::Reqwest => {
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .retry(reqwest::retry::never())
                    .build()
                    .unwrap();
                boxed(layers.service(ReqwestService::new(client)))
            }
            Self::Hyper => {
                let client = legacy::Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .retry_canceled_requests(false)
                    .build_http();
                boxed(layers.service(client))
            }
        };
        Client { service, breaker }
    }
}

type Service = BoxCloneSyncService<Request<Full<Bytes>>, Response<Bytes>, BoxError>;

fn boxed<S, B>(stack: S) -> Service
where
    S: tower::Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    BoxCloneSyncService::new(stack.map_err(Into::into).and_then(whole))
}

/// A client of one server. Clones share its connections and its breaker.
#[derive(Clone)]
pub(crate) struct Client {
    service: Service,
    pub(crate) breaker: CircuitBreaker,
}

impl Client {
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, BoxError> {
        within(self.service.clone().oneshot(request)).await
    }

    /// The status of the answer, which must come.
    pub(crate) async fn status(&self, request: Request<Full<Bytes>>) -> u16 {
        self.send(request).await.unwrap().status().as_u16()
    }
}

async fn whole<B>(response: Response<B>) -> Result<Response<Bytes>, BoxError>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Whether the breaker answered, and nobody else was asked.
pub(crate) fn is_rejected<B>(response: &Response<B>) -> bool {
    response.extensions().get::<Rejected>().is_some()
}

pub(crate) fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

pub(crate) fn put(url: &str, body: &Bytes) -> Request<Full<Bytes>> {
    Request::put(url).body(Full::new(body.clone())).unwrap()
}

/// Without a key nothing says that it may be repeated.
pub(crate) fn post(url: &str) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::from("amount=5")).unwrap()
}

pub(crate) fn keyed_post(url: &str, key: &str) -> Request<Full<Bytes>> {
    let mut request = post(url);
    let key = key.parse().unwrap();
    request.headers_mut().insert("idempotency-key", key);
    request
}
