//! A service that plays a script, bodies that do, and what the breaker counted.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use metrics::LocalRecorderGuard;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use steadfast_circuit_breaker::{
    BreakerConfig, Cause, CircuitBreaker, CircuitBreakerLayer, Failure, Guarded, OverHttp,
    Rejected, ResponseBody, ResponseFuture, SafetyClass, State, Verdict,
};
use steadfast_http::{BoxError, Deadline, LocalRejection, problem::Code};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service, ServiceExt};

pub(crate) type Answer = Response<Vec<Piece>>;

/// What the service does with one request.
#[derive(Clone)]
pub(crate) enum Step {
    Answer(Answer),
    After(Duration, Answer),
    Fail(Fault),
    /// Never answers.
    Hang,
    PanicInCall,
    PanicInPoll,
}

/// An error of the service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Refused,
    Reset,
    TimedOut,
    /// Nobody knows this error.
    Strange,
    /// Another layer made it up.
    Local(Code),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static REFUSED: LazyLock<io::Error> =
            LazyLock::new(|| io::ErrorKind::ConnectionRefused.into());
        static RESET: LazyLock<io::Error> = LazyLock::new(|| io::ErrorKind::ConnectionReset.into());
        static TIMED_OUT: LazyLock<io::Error> = LazyLock::new(|| io::ErrorKind::TimedOut.into());
        static OPEN: LocalRejection = LocalRejection::new(Code::CircuitOpen);
        static SLOW: LocalRejection = LocalRejection::new(Code::AttemptTimeout);
        match self {
            Self::Refused => Some(&*REFUSED),
            Self::Reset => Some(&*RESET),
            Self::TimedOut => Some(&*TIMED_OUT),
            Self::Strange => None,
            Self::Local(Code::AttemptTimeout) => Some(&SLOW),
            Self::Local(_) => Some(&OPEN),
        }
    }
}

/// Plays its steps, the last one for ever.
#[derive(Clone)]
pub(crate) struct Script {
    steps: Arc<Mutex<VecDeque<Step>>>,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    calls: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// One call that is under way.
struct Busy(Arc<Load>);

impl Busy {
    fn new(load: &Arc<Load>) -> Self {
        load.calls.fetch_add(1, Ordering::SeqCst);
        let under_way = load.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        load.most.fetch_max(under_way, Ordering::SeqCst);
        Self(Arc::clone(load))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Arc::new(Mutex::new(steps.into_iter().collect())),
            load: Arc::default(),
        }
    }

    /// From now on it plays this one.
    pub(crate) fn play(&self, step: Step) {
        *self.steps.lock().unwrap() = [step].into();
    }

    pub(crate) fn calls(&self) -> usize {
        self.load.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.load.most.load(Ordering::SeqCst)
    }

    fn next(&self) -> Step {
        let mut steps = self.steps.lock().unwrap();
        if steps.len() > 1 {
            steps.pop_front().unwrap()
        } else {
            steps.front().expect("a script has a step").clone()
        }
    }
}

impl<B> Service<Request<B>> for Script {
    type Response = Response<Flow>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Flow>, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let step = self.next();
        let busy = Busy::new(&self.load);
        assert!(!matches!(step, Step::PanicInCall), "the script says so");
        Box::pin(async move {
            let _busy = busy;
            match step {
                Step::Answer(answer) => Ok(answer.map(Flow::new)),
                Step::After(delay, answer) => {
                    sleep(delay).await;
                    Ok(answer.map(Flow::new))
                }
                Step::Fail(fault) => Err(fault),
                Step::Hang => std::future::pending().await,
                Step::PanicInCall | Step::PanicInPoll => panic!("the script says so"),
            }
        })
    }
}

/// A part of a body.
#[derive(Clone)]
pub(crate) enum Piece {
    Text(&'static str),
    Trailers(HeaderMap),
    Pause(Duration),
    /// The error of a connection that broke.
    Fail,
    /// An error which another layer made up.
    Refuse,
    Panic,
    /// Nothing comes any more, not even an end.
    Stall,
    /// The end, which is not known before it is asked for.
    Quiet,
}

/// A body that plays its pieces.
pub(crate) struct Flow {
    pieces: VecDeque<Piece>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    fn new(pieces: Vec<Piece>) -> Self {
        Self {
            pieces: pieces.into(),
            pause: None,
        }
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
                Some(Piece::Text(text)) => Frame::data(Bytes::from_static(text.as_bytes())),
                Some(Piece::Trailers(trailers)) => Frame::trailers(trailers),
                Some(Piece::Fail) => return Poll::Ready(Some(Err(Fault::Reset.into()))),
                Some(Piece::Refuse) => {
                    return Poll::Ready(Some(Err(Fault::Local(Code::CircuitOpen).into())));
                }
                Some(Piece::Panic) => panic!("the body says so"),
                Some(Piece::Stall) => unreachable!("it stays in front"),
                Some(Piece::Quiet) | None => return Poll::Ready(None),
            };
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }
}

pub(crate) fn answer(status: u16) -> Answer {
    answer_of(status, [Piece::Text("answer")])
}

pub(crate) fn answer_of(status: u16, pieces: impl Into<Vec<Piece>>) -> Answer {
    let mut answer = Response::new(pieces.into());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

pub(crate) fn ok() -> Step {
    Step::Answer(answer(200))
}

pub(crate) fn broken() -> Step {
    Step::Answer(answer(503))
}

pub(crate) fn with_field(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().append(name, value.parse().unwrap());
    answer
}

/// As another layer answers.
pub(crate) fn local(status: u16, code: Code) -> Answer {
    let mut answer = answer(status);
    answer.extensions_mut().insert(LocalRejection::new(code));
    answer
}

/// A gRPC response whose code is in its trailers.
pub(crate) fn streamed(pieces: impl Into<Vec<Piece>>) -> Answer {
    with_field(answer_of(200, pieces), "content-type", "application/grpc")
}

/// gRPC's answer without a message, its code in the head.
pub(crate) fn trailers_only(code: u32) -> Answer {
    with_field(streamed([]), "grpc-status", &code.to_string())
}

pub(crate) fn trailers(code: u32) -> Piece {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    Piece::Trailers(trailers)
}

pub(crate) type Get = Request<Full<Bytes>>;

pub(crate) fn get() -> Get {
    Request::get("http://destination.test/things/1")
        .body(Full::default())
        .unwrap()
}

/// A gRPC call.
pub(crate) fn rpc() -> Get {
    Request::post("http://destination.test/things.Things/Make")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
        .unwrap()
}

/// A request whose caller waits for so long.
pub(crate) fn within(mut request: Get, time: Duration) -> Get {
    let deadline = Deadline::at(Instant::now() + time);
    request.extensions_mut().insert(deadline);
    request
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The default numbers, but for chance.
pub(crate) fn steady() -> BreakerConfig {
    BreakerConfig::default().with_open_jitter(0.0)
}

/// Opens with the first failure.
pub(crate) fn brittle() -> BreakerConfig {
    steady().with_consecutive_failures(1)
}

pub(crate) const NAME: &str = "destination";

pub(crate) fn breaker(config: BreakerConfig) -> CircuitBreaker {
    CircuitBreaker::with_config(NAME, config).unwrap()
}

pub(crate) fn failure() -> Verdict {
    Failure::new(SafetyClass::Transient, Cause::Fault).into()
}

pub(crate) fn throttled() -> Verdict {
    Failure::new(SafetyClass::Transient, Cause::Throttled).into()
}

pub(crate) fn record(breaker: &CircuitBreaker, verdict: Verdict) {
    breaker.admit(None).unwrap().record(verdict);
}

/// The run of failures that the breaker has counted.
pub(crate) fn run(breaker: &CircuitBreaker) -> u32 {
    breaker.snapshot().consecutive_failures()
}

pub(crate) type Reply = Response<ResponseBody<Flow>>;
pub(crate) type Call = ResponseFuture<Script, OverHttp, Get>;

/// A breaker, its layer, and a script beneath.
pub(crate) struct Site {
    pub(crate) breaker: CircuitBreaker,
    pub(crate) layer: CircuitBreakerLayer,
    pub(crate) script: Script,
}

impl Site {
    pub(crate) fn http(config: BreakerConfig, steps: impl IntoIterator<Item = Step>) -> Self {
        Self::of(config, steps, CircuitBreakerLayer::http)
    }

    pub(crate) fn grpc(config: BreakerConfig, steps: impl IntoIterator<Item = Step>) -> Self {
        Self::of(config, steps, CircuitBreakerLayer::grpc)
    }

    pub(crate) fn of(
        config: BreakerConfig,
        steps: impl IntoIterator<Item = Step>,
        layer: impl FnOnce(CircuitBreaker) -> CircuitBreakerLayer,
    ) -> Self {
        let breaker = breaker(config);
        Self {
            layer: layer(breaker.clone()),
            breaker,
            script: Script::new(steps),
        }
    }

    pub(crate) fn service(&self) -> Guarded<Script> {
        self.layer.layer(self.script.clone())
    }

    pub(crate) async fn send(&self, request: Get) -> Result<Reply, Fault> {
        // A call that hangs fails its test, and not the whole binary.
        let call = self.service().oneshot(request);
        let answered = tokio::time::timeout(secs(1_000_000), call).await;
        answered.expect("the call ends")
    }

    pub(crate) async fn get(&self) -> Reply {
        self.send(get()).await.unwrap()
    }

    pub(crate) async fn status(&self) -> u16 {
        self.get().await.status().as_u16()
    }

    /// A call that nobody has polled yet.
    pub(crate) fn start(&self, request: Get) -> Pin<Box<Call>> {
        let mut service = self.service();
        let ready = Service::<Get>::poll_ready(&mut service, &mut no_context());
        assert!(matches!(ready, Poll::Ready(Ok(()))));
        Box::pin(service.call(request))
    }

    /// A call that was polled, and waits for the script.
    pub(crate) fn pending(&self, request: Get) -> Pin<Box<Call>> {
        let mut call = self.start(request);
        assert!(poll(&mut call).is_pending(), "the script hangs");
        call
    }

    /// Opens by failures, and lets the open time pass.
    pub(crate) async fn recover(&self) {
        self.trip();
        tokio::time::advance(self.breaker.snapshot().open_left()).await;
    }

    /// Opens by failures, whatever becomes of it.
    pub(crate) fn trip_once(&self) {
        for _ in 0..5 {
            record(&self.breaker, failure());
        }
    }

    /// Opens by failures.
    pub(crate) fn trip(&self) {
        while self.breaker.state() != State::Open {
            record(&self.breaker, failure());
        }
    }
}

pub(crate) fn no_context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut no_context())
}

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

pub(crate) fn poll_body<B: Body + Unpin>(body: &mut B) -> Polled<B> {
    Pin::new(body).poll_frame(&mut no_context())
}

/// The rejection in a response, if the layer made it up.
pub(crate) fn rejected<B>(response: &Response<B>) -> Option<&Rejected> {
    response.extensions().get()
}

pub(crate) fn retry_after<B>(response: &Response<B>) -> u64 {
    let value = &response.headers()[header::RETRY_AFTER];
    value.to_str().unwrap().parse().unwrap()
}

/// What the breakers of this thread tell their metrics from here on.
pub(crate) struct Recorded {
    snapshotter: Snapshotter,
    counters: RefCell<BTreeMap<String, u64>>,
    _guard: LocalRecorderGuard<'static>,
}

impl Recorded {
    pub(crate) fn new() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        Self {
            snapshotter: recorder.snapshotter(),
            counters: RefCell::default(),
            _guard: metrics::set_default_local_recorder(recorder),
        }
    }

    /// The counters, without those that are zero; and the gauges, which read as zero once they were looked at.
    fn read(&self) -> (BTreeMap<String, u64>, BTreeMap<String, f64>) {
        let mut counters = self.counters.borrow_mut();
        let mut gauges = BTreeMap::new();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let mut labels = Vec::new();
            for label in key.labels() {
                match label.key() {
                    "breaker" => assert_eq!(label.value(), NAME),
                    name => labels.push(format!("{name}={}", label.value())),
                }
            }
            let name = key.name().strip_prefix("steadfast_circuit_breaker_");
            let key = format!("{}{{{}}}", name.unwrap(), labels.join(","));
            match value {
                DebugValue::Counter(0) => {}
                DebugValue::Counter(count) => *counters.entry(key).or_default() += count,
                DebugValue::Gauge(value) => {
                    gauges.insert(key, value.0);
                }
                DebugValue::Histogram(_) => panic!("{key} is a histogram"),
            }
        }
        (counters.clone(), gauges)
    }

    pub(crate) fn gauges(&self) -> BTreeMap<String, f64> {
        self.read().1
    }

    /// The counters that have this name.
    pub(crate) fn counters(&self, name: &str) -> BTreeMap<String, u64> {
        let mut counters = self.read().0;
        counters.retain(|key, _| key.split('{').next() == Some(name));
        counters
    }

    pub(crate) fn counter(&self, key: &str) -> u64 {
        self.read().0.get(key).copied().unwrap_or_default()
    }

    /// How many calls had this outcome.
    pub(crate) fn outcome(&self, outcome: &str) -> u64 {
        self.counter(&format!("calls_total{{outcome={outcome}}}"))
    }

    /// Calls by outcome, those that there were.
    pub(crate) fn outcomes(&self) -> Vec<(String, u64)> {
        let word = |key: String| {
            let word = key.strip_prefix("calls_total{outcome=").unwrap();
            word.strip_suffix('}').unwrap().to_owned()
        };
        let calls = self.counters("calls_total").into_iter();
        calls.map(|(key, count)| (word(key), count)).collect()
    }

    pub(crate) fn stale(&self) -> u64 {
        self.counter("stale_results_total{}")
    }
}

/// The outcomes of so many calls.
pub(crate) fn outcomes<const N: usize>(outcomes: [(&str, u64); N]) -> Vec<(String, u64)> {
    let outcomes = outcomes.into_iter();
    outcomes
        .map(|(word, count)| (word.to_owned(), count))
        .collect()
}

/// Whether anybody still holds it.
pub(crate) fn is_gone<T>(weak: &Weak<T>) -> bool {
    weak.strong_count() == 0
}
