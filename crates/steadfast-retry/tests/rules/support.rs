//! A service that plays a script, and what it saw.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use steadfast_http::{BoxError, IdempotentRequest, classify::ErrorView};
use steadfast_retry::{Backoff, Budget, Jitter, RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service, ServiceExt};

pub(crate) type Answer = Response<Full<Bytes>>;

/// What the service does with one request.
#[derive(Clone)]
pub(crate) enum Step {
    /// Answers after it has read the whole request.
    Answer(Answer),
    /// Waits, then answers.
    After(Duration, Answer),
    /// Answers without a look at the body.
    Early(Answer),
    Fail(Fault),
    /// Never answers.
    Hang,
}

/// An error of the service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nobody listens.
    Refused,
    /// The connection broke.
    Reset,
    /// Nobody knows this error.
    Strange,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static REFUSED: std::sync::LazyLock<std::io::Error> =
            std::sync::LazyLock::new(|| std::io::ErrorKind::ConnectionRefused.into());
        static RESET: std::sync::LazyLock<std::io::Error> =
            std::sync::LazyLock::new(|| std::io::ErrorKind::ConnectionReset.into());
        match self {
            Self::Refused => Some(&*REFUSED),
            Self::Reset => Some(&*RESET),
            Self::Strange => None,
        }
    }
}

/// Looks at what is beneath a [`Fault`]: by itself it is of a type that nobody knows, beneath which nothing is proof.
pub(crate) struct Beneath;

impl ErrorView<Fault> for Beneath {
    fn view(fault: &Fault) -> &(dyn std::error::Error + 'static) {
        std::error::Error::source(fault).unwrap_or(fault)
    }
}

/// One request as the service saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) head: request::Parts,
    /// `None` where the script did not read it.
    pub(crate) body: Option<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Plays its steps, the last one for ever.
#[derive(Clone)]
pub(crate) struct Script {
    state: Arc<Mutex<State>>,
}

struct State {
    steps: VecDeque<Step>,
    seen: Vec<Seen>,
    started: Instant,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                steps: steps.into_iter().collect(),
                seen: Vec::new(),
                started: Instant::now(),
            })),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen().len()
    }

    fn next(&self, head: request::Parts) -> (usize, Step) {
        let mut state = self.state.lock().unwrap();
        let at = state.started.elapsed();
        state.seen.push(Seen {
            at,
            head,
            body: None,
            trailers: None,
        });
        let step = if state.steps.len() > 1 {
            state.steps.pop_front().unwrap()
        } else {
            state.steps.front().expect("a script has a step").clone()
        };
        (state.seen.len() - 1, step)
    }
}

impl<B> Service<Request<B>> for Script
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (index, step) = self.next(head);
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            let (delay, outcome) = match step {
                Step::Answer(answer) => (Duration::ZERO, Ok(answer)),
                Step::After(delay, answer) => (delay, Ok(answer)),
                Step::Early(answer) => return Ok(answer),
                Step::Fail(fault) => return Err(fault),
                Step::Hang => std::future::pending().await,
            };
            let Ok(body) = body.collect().await else {
                return Err(Fault::Strange);
            };
            let trailers = body.trailers().cloned();
            {
                let mut state = state.lock().unwrap();
                state.seen[index].trailers = trailers;
                state.seen[index].body = Some(body.to_bytes());
            }
            if !delay.is_zero() {
                sleep(delay).await;
            }
            outcome
        })
    }
}

pub(crate) fn answer(status: u16) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("answer {status}"))));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

pub(crate) fn retry_after(status: u16, value: &str) -> Answer {
    let mut answer = answer(status);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, value.parse().unwrap());
    answer
}

pub(crate) fn get() -> Request<Full<Bytes>> {
    Request::get("http://destination.test/things/1")
        .body(Full::default())
        .unwrap()
}

pub(crate) fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://destination.test/things")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// One call through a layer around the script.
pub(crate) async fn call<L, B, RB, E>(
    layer: &L,
    script: &Script,
    request: Request<B>,
) -> Result<Response<RB>, E>
where
    L: Layer<Script>,
    L::Service: Service<Request<B>, Response = Response<RB>, Error = E>,
{
    layer.layer(script.clone()).oneshot(request).await
}

impl Script {
    /// How long each further attempt was waited for, where the attempts themselves take no time.
    pub(crate) fn waits(&self) -> Vec<Duration> {
        let seen = self.seen();
        let pairs = seen.windows(2);
        pairs.map(|pair| pair[1].at - pair[0].at).collect()
    }
}

/// Delays that are not left to chance.
pub(crate) fn steady() -> RetryConfig {
    RetryConfig::default().with_backoff(Backoff::default().with_jitter(Jitter::None))
}

/// The layer for gRPC around services that take any body.
pub(crate) fn grpc() -> RetryLayer {
    RetryLayer::grpc().with_wrapped_body()
}

pub(crate) fn request(method: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri("http://destination.test/things/1")
        .body(Full::default())
        .unwrap()
}

/// A gRPC call.
pub(crate) fn rpc() -> Request<Full<Bytes>> {
    Request::post("http://destination.test/things.Things/Make")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
        .unwrap()
}

pub(crate) fn marked<B>(mut request: Request<B>) -> Request<B> {
    request.extensions_mut().insert(IdempotentRequest);
    request
}

/// gRPC's answer without a message, its code in the head.
pub(crate) fn trailers_only(code: u32) -> Answer {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("grpc-status", code)
        .body(Full::default())
        .unwrap()
}

/// Adds a field to the head of an answer.
pub(crate) fn with_field(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().append(name, value.parse().unwrap());
    answer
}

pub(crate) fn stopped_by<B>(response: &Response<B>) -> Option<StoppedBy> {
    RetryOutcome::of(response.extensions()).map(|outcome| outcome.stopped_by())
}

pub(crate) fn millis(millis: impl IntoIterator<Item = u64>) -> Vec<Duration> {
    millis.into_iter().map(Duration::from_millis).collect()
}

/// A body that does not say how long it is.
pub(crate) struct Unsized(pub(crate) Full<Bytes>);

impl Body for Unsized {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// A part of a body.
#[derive(Clone)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    Pause(Duration),
    Fail,
    /// Nothing comes any more, not even an end.
    Stall,
}

impl Piece {
    pub(crate) fn text(text: &'static str) -> Self {
        Self::Data(Bytes::from_static(text.as_bytes()))
    }
}

/// The body of a request, or of a response, that plays its pieces.
pub(crate) struct Flow {
    pieces: VecDeque<Piece>,
    declared: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    watch: FlowWatch,
    _alive: Arc<()>,
}

/// What a test sees of a body that it gave away.
#[derive(Clone)]
pub(crate) struct FlowWatch {
    alive: Weak<()>,
    yielded: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl FlowWatch {
    pub(crate) fn is_dropped(&self) -> bool {
        self.alive.strong_count() == 0
    }

    /// How many frames were read of it.
    pub(crate) fn yielded(&self) -> usize {
        self.yielded.load(Ordering::SeqCst)
    }

    /// Whether somebody read it to its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Flow {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let alive = Arc::new(());
        Self {
            pieces: pieces.into_iter().collect(),
            declared: None,
            pause: None,
            watch: FlowWatch {
                alive: Arc::downgrade(&alive),
                yielded: Arc::default(),
                ended: Arc::default(),
            },
            _alive: alive,
        }
    }

    /// Declares that it has so many bytes.
    pub(crate) fn declaring(self, bytes: u64) -> Self {
        Self {
            declared: Some(bytes),
            ..self
        }
    }

    pub(crate) fn watch(&self) -> FlowWatch {
        self.watch.clone()
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if matches!(self.pieces.front(), Some(Piece::Stall)) {
                return Poll::Pending;
            }
            let frame = match self.pieces.pop_front() {
                Some(Piece::Pause(pause)) => {
                    self.pause = Some(Box::pin(sleep(pause)));
                    continue;
                }
                Some(Piece::Data(data)) => {
                    let rest = self.declared.map(|bytes| bytes - data.len() as u64);
                    self.declared = rest;
                    Frame::data(data)
                }
                Some(Piece::Trailers(trailers)) => Frame::trailers(trailers),
                Some(Piece::Fail) => return Poll::Ready(Some(Err("the flow broke".into()))),
                Some(Piece::Stall) => unreachable!("it stays in front"),
                None => {
                    self.watch.ended.store(true, Ordering::SeqCst);
                    return Poll::Ready(None);
                }
            };
            self.watch.yielded.fetch_add(1, Ordering::SeqCst);
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.declared {
            Some(bytes) => SizeHint::with_exact(bytes),
            None => SizeHint::new(),
        }
    }
}

/// Three attempts, with a wait of so many milliseconds between them, whatever chance says.
pub(crate) fn waiting(millis: u64) -> RetryConfig {
    let delay = Duration::from_millis(millis);
    RetryConfig::default().with_backoff(Backoff::constant(delay).with_jitter(Jitter::None))
}

/// How many retries a budget would pay for at this moment.
pub(crate) fn affordable(budget: &Budget) -> usize {
    let now = Instant::now().into_std();
    let taken: Vec<_> = std::iter::from_fn(|| budget.withdraw(now)).collect();
    let retries = taken.len();
    for withdrawal in taken {
        budget.give_back(withdrawal);
    }
    retries
}

/// Becomes ready once, and then fails at it. Its answer is that of an overloaded server.
#[derive(Clone, Default)]
pub(crate) struct ReadyOnce {
    pub(crate) called: Arc<AtomicBool>,
}

impl<B> Service<Request<B>> for ReadyOnce {
    type Response = Answer;
    type Error = Fault;
    type Future = Ready<Result<Answer, Fault>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self.called.load(Ordering::Relaxed) {
            false => Poll::Ready(Ok(())),
            true => Poll::Ready(Err(Fault::Strange)),
        }
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(!self.called.swap(true, Ordering::Relaxed));
        ready(Ok(answer(503)))
    }
}

/// A layer whose budget has no token left when an attempt has ended.
pub(crate) fn without_a_token() -> RetryLayer {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let drained = Arc::clone(&budget);
    RetryLayer::http()
        .with_budget(budget)
        .with_classifier(move |attempted| {
            while drained.withdraw(Instant::now().into_std()).is_some() {}
            attempted.verdict()
        })
}

/// A PUT of more than the layer keeps, which does not say so beforehand.
pub(crate) fn too_large() -> Request<Unsized> {
    let body = Bytes::from(vec![b'x'; RetryConfig::DEFAULT_REPLAY_LIMIT + 1]);
    request("PUT").map(|_| Unsized(Full::new(body)))
}
