//! Requests that the idempotency layer does not apply to: they must pay next to nothing, and nothing on the heap.

use bytes::Bytes;
use http::{Method, Request, Response, Uri, Version, header};
use http_body_util::Full;
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, KeyRequirement, scope},
    store::MemoryStore,
};
use tower::{Layer, util::BoxCloneService};

use crate::{
    BoxError, Report,
    calls::{Cost, Costs, Polled, Side, compare},
    options::Options,
    services::{Answer, Instantly},
};

const INNER: Instantly = Instantly { answer };

/// A kind of request, and a configuration that does not cover it.
struct Bypass {
    name: &'static str,
    config: fn() -> IdempotencyConfig,
    request: fn() -> Request<Full<Bytes>>,
}

const BYPASSES: [Bypass; 3] = [
    Bypass {
        name: "GET",
        config: IdempotencyConfig::default,
        request: || request(Method::GET),
    },
    Bypass {
        name: "POST without a key",
        config: || IdempotencyConfig::default().with_key(KeyRequirement::Optional),
        request: || request(Method::POST),
    },
    Bypass {
        name: "gRPC, not named",
        config: || IdempotencyConfig::default().with_grpc_methods(["/shop.Orders/Place"]),
        request: grpc,
    },
];

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    let mut costs = Costs::new();
    for bypass in &BYPASSES {
        for threads in [1, 2] {
            for boxed in [false, true] {
                let comparison = compare_one(options, bypass, threads, boxed)?;
                let inner = if boxed { "boxed" } else { "plain" };
                let many = if threads == 1 { "thread" } else { "threads" };
                let request = format!("{}, {inner} inner, {threads} {many}", bypass.name);
                if let Some(cost) = comparison
                    .iter()
                    .find(|cost| cost.added_allocations() != 0.0)
                {
                    let added = cost.added_allocations();
                    return Err(format!("{request}: the layer allocates {added} times").into());
                }
                costs.add(&request, &comparison);
            }
        }
    }
    Ok(Report::of(format!(
        "## bypassed: requests that the layer does not apply to\n\n\
         A GET; a POST without a key where the key is optional; a gRPC request with a key whose method is not among those that are\n\
         covered. The inner service answers at once, and is polled by hand. `boxed` is a `BoxCloneService`, which is what a route of\n\
         axum is. ns of a call in each thread.\n\n\
         {costs}"
    )))
}

fn compare_one(
    options: &Options,
    bypass: &Bypass,
    threads: usize,
    boxed: bool,
) -> Result<Vec<Cost>, BoxError> {
    let layer = IdempotencyLayer::at_least_once(MemoryStore::default(), scope::shared())?
        .with_config((bypass.config)())?;
    let request = bypass.request;

    let sides = if boxed {
        let bare = move || {
            move || Polled {
                service: BoxCloneService::new(INNER),
                request,
            }
        };
        let layered = move || {
            let layer = layer.clone();
            move || Polled {
                service: layer.layer(BoxCloneService::new(INNER)),
                request,
            }
        };
        [Side::new("bare", bare), Side::new("layer", layered)]
    } else {
        let bare = move || {
            move || Polled {
                service: INNER,
                request,
            }
        };
        let layered = move || {
            let layer = layer.clone();
            move || Polled {
                service: layer.layer(INNER),
                request,
            }
        };
        [Side::new("bare", bare), Side::new("layer", layered)]
    };
    Ok(compare(options, threads, &sides))
}

/// With a few headers: an empty map would be looked through for nothing.
fn request(method: Method) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    let headers = request.headers_mut();
    headers.insert(header::HOST, const { value("api.example.com") });
    headers.insert(header::ACCEPT, const { value("application/json") });
    headers.insert(header::USER_AGENT, const { value("client/1.0") });
    request
}

fn grpc() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/shop.Orders/List");
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, const { value("application/grpc") });
    headers.insert(header::TE, const { value("trailers") });
    headers.insert(header::USER_AGENT, const { value("client/1.0") });
    headers.insert("idempotency-key", const { value("order-8c5e1f40") });
    request
}

const fn value(text: &'static str) -> http::HeaderValue {
    http::HeaderValue::from_static(text)
}

fn answer() -> Answer {
    Response::new(Full::new(Bytes::from_static(b"answer")))
}
