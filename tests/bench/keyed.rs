//! Requests with a key, without a socket and without a database: what is left is the layer itself.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use steadfast::{
    idempotency::{IdempotencyLayer, scope},
    store::MemoryStore,
};
use tower::{Layer, Service, ServiceExt};

use crate::{
    BoxError, Report,
    calls::{Costs, OnRuntime, Side, compare},
    options::Options,
    services::{Answer, Instantly},
};

const INNER: Instantly = Instantly { answer };

const BODY: &[u8] = br#"{"amount":1299,"currency":"eur","order":"order-8c5e1f40","customer":"cus_2f9d7a61b0","description":"Two pairs of wool socks, grey","capture":true}"#;

const RECEIPT: &[u8] = br#"{"id":"ch_5b0c8a1e","object":"charge","amount":1299,"currency":"eur","order":"order-8c5e1f40","customer":"cus_2f9d7a61b0","status":"succeeded","provider_id":"pr_77a1c3","created":1767225600}"#;

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    verify()?;
    let sides = [
        Side::new("bare", || || OnRuntime::new(INNER, new_keys())),
        Side::new("layer, new key", || {
            let layer = layer();
            move || OnRuntime::new(layer.layer(INNER), new_keys())
        }),
        Side::new("layer, replay", || {
            let layer = layer();
            move || OnRuntime::new(layer.layer(INNER), || keyed(0))
        }),
    ];
    let mut costs = Costs::new();
    costs.add("POST with a key", &compare(options, 1, &sides));
    Ok(Report::of(format!(
        "## keyed: a keyed request in process\n\n\
         Over a memory store, on a runtime of one thread, with a body of {} bytes and an answer of {}; no handler to speak of,\n\
         no socket, no subscriber of tracing. After each call the runtime has a turn, on all sides.\n\n\
         {costs}",
        BODY.len(),
        RECEIPT.len(),
    )))
}

fn layer() -> IdempotencyLayer<MemoryStore> {
    IdempotencyLayer::at_least_once(MemoryStore::default(), scope::shared())
        .expect("a memory store keeps this promise")
}

/// A first request is executed and a second one replayed: what is measured is what it is called.
fn verify() -> Result<(), BoxError> {
    let service = layer().layer(INNER);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    for expected in ["false", "true"] {
        let answer = runtime.block_on(once(service.clone()));
        let marker = answer.headers().get("idempotent-replayed");
        if answer.status() != StatusCode::CREATED || marker.is_none_or(|marker| marker != expected)
        {
            return Err(format!(
                "{} with the marker {marker:?} instead of 201 with {expected}",
                answer.status()
            )
            .into());
        }
    }
    Ok(())
}

async fn once<S, B>(service: S) -> Response<B>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    match service.oneshot(keyed(0)).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

fn new_keys() -> impl FnMut() -> Request<Full<Bytes>> {
    let mut next = 0;
    move || {
        next += 1;
        keyed(next)
    }
}

fn keyed(n: u64) -> Request<Full<Bytes>> {
    let key = HeaderValue::from_maybe_shared(Bytes::from(format!("key-{n:032}")))
        .expect("a key of letters and digits is a value of a header");
    let mut request = Request::new(Full::new(Bytes::from_static(BODY)));
    *request.method_mut() = http::Method::POST;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert("idempotency-key", key);
    request
}

fn answer() -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(RECEIPT)));
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    answer
}
