use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, request};
use steadfast_http::{IdempotentRequest, header::IDEMPOTENCY_KEY};
use tower_layer::Layer;
use tower_service::Service;
use uuid::Uuid;

/// Names each operation, and marks its request idempotent.
///
/// A request of an unsafe method, CONNECT apart, that has no `Idempotency-Key` gets one; in gRPC the key is metadata of that name. Every
/// request that has one key when it passes, its caller's or a new one, and not an empty one, is marked with [`IdempotentRequest`]:
/// placing the layer states that the destination honours keys. [`new_for`](Self::new_for) limits it to those that do.
///
/// It belongs outside of [`RetryLayer`](crate::RetryLayer): then all attempts have the same key.
#[derive(Clone)]
#[must_use]
pub struct IdempotencyKeyLayer {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    applies: Option<Applies>,
    source: Option<Source>,
    structured: bool,
}

type Applies = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;
type Source = Arc<dyn Fn(&request::Parts) -> Option<HeaderValue> + Send + Sync>;

impl IdempotencyKeyLayer {
    /// For a destination that honours keys on all requests.
    pub fn new() -> Self {
        Self::of(Settings {
            applies: None,
            source: None,
            structured: false,
        })
    }

    /// For those requests whose destination honours keys. The others pass untouched.
    pub fn new_for(applies: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::of(Settings {
            applies: Some(Arc::new(applies)),
            source: None,
            structured: false,
        })
    }

    /// Writes the keys that it makes as a String of RFC 9651, in double quotes, as draft-ietf-httpapi-idempotency-key-header asks.
    /// Default: bare, which is what deployed servers expect.
    pub fn with_structured_string(self) -> Self {
        self.with(|settings| settings.structured = true)
    }

    /// Takes the keys of requests without one from `source`, as they will stand in the header; `None` sends the request without a key.
    /// Two requests with one key are one operation. Default: a UUID, version 4.
    pub fn with_source(
        self,
        source: impl Fn(&request::Parts) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.source = Some(Arc::new(source)))
    }

    fn of(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
        }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = (*self.settings).clone();
        change(&mut settings);
        Self::of(settings)
    }
}

impl Default for IdempotencyKeyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IdempotencyKeyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKeyLayer")
            .field("structured", &self.settings.structured)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyKeyLayer {
    type Service = SetIdempotencyKey<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SetIdempotencyKey {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Names each operation, and marks its request idempotent. See [`IdempotencyKeyLayer`].
///
/// It is ready when its inner service is.
#[derive(Clone)]
pub struct SetIdempotencyKey<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> SetIdempotencyKey<S> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for SetIdempotencyKey<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetIdempotencyKey")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for SetIdempotencyKey<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (mut head, body) = request.into_parts();
        self.settings.name(&mut head);
        self.inner.call(Request::from_parts(head, body))
    }
}

impl Settings {
    fn name(&self, head: &mut request::Parts) {
        if self.applies.as_ref().is_some_and(|applies| !applies(head)) {
            return;
        }
        if !head.headers.contains_key(IDEMPOTENCY_KEY) {
            if !asks_for_an_effect(&head.method) {
                return;
            }
            let Some(key) = self.key(head) else {
                return;
            };
            head.headers.insert(IDEMPOTENCY_KEY, key);
        }
        if has_key(&head.headers) {
            head.extensions.insert(IdempotentRequest);
        }
    }

    fn key(&self, head: &request::Parts) -> Option<HeaderValue> {
        match &self.source {
            Some(source) => source(head),
            None => Some(new_key(self.structured)),
        }
    }
}

/// Whether there is one key, and it is not empty. A server may take anything else for no key at all.
pub(crate) fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) => !key.as_bytes().trim_ascii().is_empty(),
        _ => false,
    }
}

/// Whether the method is unsafe (RFC 9110 section 9.2.1), and names an operation at all.
fn asks_for_an_effect(method: &Method) -> bool {
    !method.is_safe() && *method != Method::CONNECT && method.as_str() != "QUERY"
}

fn new_key(structured: bool) -> HeaderValue {
    let mut buffer = [b'"'; uuid::fmt::Hyphenated::LENGTH + 2];
    let end = buffer.len() - 1;
    Uuid::new_v4()
        .hyphenated()
        .encode_lower(&mut buffer[1..end]);
    let key = if structured {
        &buffer[..]
    } else {
        &buffer[1..end]
    };
    HeaderValue::from_bytes(key).expect("a UUID is visible ASCII, and so are quotes")
}
