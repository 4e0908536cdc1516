//! Requests that the idempotency layer does not apply to: they must pay next to nothing, and nothing on the heap.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, KeyRequirement, scope},
    store::MemoryStore,
};
use tower::{Layer, util::BoxCloneService};

use crate::{
    BoxError,
    calls::{Cost, Costs, Polled, Side, compare},
    options::Options,
    services::{Answer, Instantly},
};

const INNER: Instantly = Instantly { answer };

pub(crate) fn run(options: &Options) -> Result<String, BoxError> {
    let mut costs = Costs::new();
    for method in [Method::GET, Method::POST] {
        for threads in [1, 2] {
            for boxed in [false, true] {
                let comparison = compare_one(options, &method, threads, boxed)?;
                let inner = if boxed { "boxed" } else { "plain" };
                let many = if threads == 1 { "thread" } else { "threads" };
                let request = format!("{method}, {inner} inner, {threads} {many}");
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
    Ok(format!(
        "## bypassed: requests that the layer does not apply to\n\n\
         A GET, and a POST without a key where the key is optional; the inner service answers at once, and is polled by hand.\n\
         `boxed` is a `BoxCloneService`, which is what a route of axum is. ns of a call in each thread.\n\n\
         {costs}"
    ))
}

fn compare_one(
    options: &Options,
    method: &Method,
    threads: usize,
    boxed: bool,
) -> Result<Vec<Cost>, BoxError> {
    let config = IdempotencyConfig::default().with_key(KeyRequirement::Optional);
    let layer = IdempotencyLayer::at_least_once(MemoryStore::default(), scope::shared())?
        .with_config(config)?;

    let request = requests(method.clone());
    let sides = if boxed {
        let bare = move || {
            let request = request.clone();
            move || Polled {
                service: BoxCloneService::new(INNER),
                request: request.clone(),
            }
        };
        let request = requests(method.clone());
        let layered = move || {
            let (request, layer) = (request.clone(), layer.clone());
            move || Polled {
                service: layer.layer(BoxCloneService::new(INNER)),
                request: request.clone(),
            }
        };
        [Side::new("bare", bare), Side::new("layer", layered)]
    } else {
        let bare = move || {
            let request = request.clone();
            move || Polled {
                service: INNER,
                request: request.clone(),
            }
        };
        let request = requests(method.clone());
        let layered = move || {
            let (request, layer) = (request.clone(), layer.clone());
            move || Polled {
                service: layer.layer(INNER),
                request: request.clone(),
            }
        };
        [Side::new("bare", bare), Side::new("layer", layered)]
    };
    Ok(compare(options, threads, &sides))
}

/// With a few headers: an empty map would be looked through for nothing.
fn requests(method: Method) -> impl Fn() -> Request<Full<Bytes>> + Clone + Send + Sync + 'static {
    move || {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, const { value("api.example.com") });
        headers.insert(header::ACCEPT, const { value("application/json") });
        headers.insert(header::USER_AGENT, const { value("client/1.0") });
        request
    }
}

const fn value(text: &'static str) -> http::HeaderValue {
    http::HeaderValue::from_static(text)
}

fn answer() -> Answer {
    Response::new(Full::new(Bytes::from_static(b"answer")))
}
