//! The client alone, and with one layer more each time, in the order in which they belong.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use steadfast::{
    circuit_breaker::{CircuitBreaker, CircuitBreakerLayer},
    client_metrics::ClientMetricsLayer,
    retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer},
};
use tokio::runtime::{self, Runtime};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::neighbour::Neighbour;
use crate::{
    BoxError,
    calls::{Caller, Side},
};

pub(super) type Incoming = Request<Full<Bytes>>;

/// Of one attempt, and of the whole call: nobody makes a client without them.
const ATTEMPT: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(10);

pub(super) fn all(
    neighbour: &Neighbour,
    request: fn(&Uri) -> Incoming,
) -> Result<Vec<Side>, BoxError> {
    let config = RetryConfig::default()
        .with_attempt_timeout(ATTEMPT)
        .with_deadline(CALL);
    let retry = RetryLayer::http().with_config(config)?;
    let breaker = || CircuitBreakerLayer::http(CircuitBreaker::new("bench"));
    let metrics = ClientMetricsLayer::new;

    let uri = neighbour.uri();
    let (with_breaker, whole) = (retry.clone(), retry.clone());
    Ok(vec![
        side("client alone", &uri, request, client::<Full<Bytes>>),
        side("+ metrics", &uri, request, move || {
            metrics().layer(client())
        }),
        side("+ breaker", &uri, request, move || {
            ServiceBuilder::new()
                .layer(breaker())
                .layer(metrics())
                .service(client())
        }),
        side("+ retry, limits of time", &uri, request, move || {
            ServiceBuilder::new()
                .layer(with_breaker.clone())
                .layer(breaker())
                .layer(metrics())
                .service(client())
        }),
        side("+ key: the whole stack", &uri, request, move || {
            ServiceBuilder::new()
                .layer(IdempotencyKeyLayer::new())
                .layer(whole.clone())
                .layer(breaker())
                .layer(metrics())
                .service(client())
        }),
    ])
}

fn client<B>() -> Client<HttpConnector, B>
where
    B: Body<Data: Send> + Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

fn side<S, B>(
    name: &'static str,
    uri: &Uri,
    request: fn(&Uri) -> Incoming,
    make: impl Fn() -> S + 'static,
) -> Side
where
    S: Service<Incoming, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: std::fmt::Debug,
    B: Body + 'static,
    B::Error: std::fmt::Debug,
{
    let uri = uri.clone();
    Side::new(name, move || {
        let (service, uri) = (make(), uri.clone());
        move || Exchanges {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built where another was"),
            service: service.clone(),
            request,
            uri: uri.clone(),
        }
    })
}

/// Calls a server over a connection that is kept, and reads each answer to its end.
struct Exchanges<S> {
    runtime: Runtime,
    service: S,
    request: fn(&Uri) -> Incoming,
    uri: Uri,
}

impl<S, B> Caller for Exchanges<S>
where
    S: Service<Incoming, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body,
    B::Error: std::fmt::Debug,
{
    fn call(&mut self, times: u64) {
        let Self {
            runtime,
            service,
            request,
            uri,
        } = self;
        runtime.block_on(async {
            for _ in 0..times {
                let service = service.ready().await.expect("a client is ready");
                let answer = service
                    .call(request(uri))
                    .await
                    .expect("the server is there");
                assert!(answer.status().is_success(), "{}", answer.status());
                answer.into_body().collect().await.expect("a whole answer");
            }
        });
    }
}
