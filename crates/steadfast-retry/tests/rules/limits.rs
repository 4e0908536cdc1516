//! What limits a call: its deadline, the time of each attempt, and what is told beneath of them. retry R4, R6, R7, R8, R11 and R12.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};
use steadfast_http::{
    Deadline, LocalRejection,
    grpc::{self, Code as GrpcCode},
    problem::Code,
};
use steadfast_retry::{
    Budget, Custom, Elapsed, Policy, RetryConfig, RetryLayer, RetryOutcome, StoppedBy,
};
use tokio::time::{Instant, Sleep, advance, sleep, sleep_until, timeout};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer};

use crate::support::{
    Answer, Beneath, Fault, Script, Step, affordable, answer, call, get, grpc as grpc_layer,
    marked, millis, post, request, rpc, stopped_by, trailers_only, waiting,
};

fn layer(config: RetryConfig) -> RetryLayer {
    RetryLayer::http().with_config(config).unwrap()
}

fn grpc_with(config: RetryConfig) -> RetryLayer {
    grpc_layer().with_config(config).unwrap()
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a layer says where there is no result.
#[track_caller]
fn assert_refused<B>(response: &Response<B>, code: Code, attempts: u32, stopped_by: StoppedBy) {
    let rejection = response.extensions().get::<LocalRejection>().unwrap();
    assert_eq!(rejection.code(), code);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), attempts);
    assert_eq!(outcome.stopped_by(), stopped_by);
    match grpc::status(response.headers()) {
        Some(status) => assert_eq!(status, GrpcCode::DeadlineExceeded),
        None => assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT),
    }
}

/// Ready for the first attempt at once, and for further ones from a moment on.
#[derive(Clone)]
struct ReadyFrom<S> {
    inner: S,
    calls: Arc<AtomicUsize>,
    moment: Arc<Mutex<Pin<Box<Sleep>>>>,
}

impl<S> ReadyFrom<S> {
    fn new(moment: Instant, inner: S) -> Self {
        Self {
            inner,
            calls: Arc::default(),
            moment: Arc::new(Mutex::new(Box::pin(sleep_until(moment)))),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl<S: Service<R>, R> Service<R> for ReadyFrom<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.calls() > 0 {
            std::task::ready!(self.moment.lock().unwrap().as_mut().poll(cx));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.call(request)
    }
}

/// Configurations whose calls may start attempts until so long after their start.
fn last_starts() -> [(RetryConfig, Duration); 3] {
    [
        (waiting(1_000).with_deadline(secs(3)), secs(3)),
        (waiting(1_000), RetryConfig::DEFAULT_PATIENCE),
        (
            waiting(1_000).with_attempt_timeout(secs(29)),
            RetryConfig::DEFAULT_PATIENCE,
        ),
    ]
}

/// A call that waits for its second attempt, from 2 s before the last moment at which that may start. The first takes what comes before,
/// as a budget forgets in 10 s what was taken from it.
struct Waiting {
    service: ReadyFrom<Script>,
    budget: Arc<Budget>,
    layer: RetryLayer,
}

impl Waiting {
    fn new(config: RetryConfig, last_start: Duration, ready: Duration) -> Self {
        let script = Script::new([
            Step::After(last_start - secs(2), answer(503)),
            Step::Answer(answer(200)),
        ]);
        let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
        Self {
            service: ReadyFrom::new(Instant::now() + ready, script),
            layer: layer(config).with_budget(Arc::clone(&budget)),
            budget,
        }
    }

    /// The clock leaps by 2 s, past every timer on its way, after `until` from the start of the call.
    async fn leap_after(&self, until: Duration) -> Answer {
        let service = self.layer.layer(self.service.clone());
        let mut call = Box::pin(service.oneshot(get()));
        timeout(until, &mut call).await.unwrap_err();
        assert_eq!(affordable(&self.budget), 9, "a retry was taken");
        advance(secs(2)).await;
        plain(call.await.unwrap())
    }

    #[track_caller]
    fn assert_refused(&self, response: &Answer) {
        assert_refused(response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
        assert_eq!(self.service.calls(), 1, "it was called again");
        assert_eq!(affordable(&self.budget), 10, "what was not used is back");
    }
}

/// The head, which is all that these tests look at.
fn plain<B>(response: Response<B>) -> Answer {
    response.map(|_| Full::default())
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_at_the_last_moment_is_not_called_again() {
    for (config, last_start) in last_starts() {
        let waiting = Waiting::new(config, last_start, last_start);
        let started = Instant::now();

        let service = waiting.layer.layer(waiting.service.clone());
        let response = service.oneshot(get()).await.unwrap();

        assert_eq!(started.elapsed(), last_start);
        waiting.assert_refused(&plain(response));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_just_in_time_is_called_again() {
    for (config, last_start) in last_starts() {
        let waiting = Waiting::new(config, last_start, last_start - ms(1));

        let service = waiting.layer.layer(waiting.service.clone());
        let response = service.oneshot(get()).await.unwrap();

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(waiting.service.calls(), 2);
        assert_eq!(affordable(&waiting.budget), 9, "it was used");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_ready_in_time_and_is_seen_to_be_too_late_is_not_called_again() {
    for (config, last_start) in last_starts() {
        let waiting = Waiting::new(config, last_start, last_start - ms(100));

        let response = waiting.leap_after(last_start - ms(500)).await;

        waiting.assert_refused(&response);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_sleep_that_overslept_the_service_is_not_called_again() {
    for (config, last_start) in last_starts() {
        let waiting = Waiting::new(config, last_start, Duration::ZERO);

        let response = waiting.leap_after(last_start - ms(1_500)).await;

        waiting.assert_refused(&response);
    }
}

/// Says that every request may be sent again, and that every outcome is a time limit's.
#[derive(Clone, Default)]
struct Patient {
    asked: Arc<AtomicUsize>,
}

impl<Res, E> Policy<String, Res, E> for Patient {
    fn copy(&self, request: &String) -> Option<String> {
        Some(request.clone())
    }

    fn is_idempotent(&self, _: &String) -> bool {
        true
    }

    fn verdict(&self, _: Result<&Res, &E>) -> Verdict {
        self.asked.fetch_add(1, Ordering::SeqCst);
        ELAPSED.into()
    }
}

const ELAPSED: Failure = Failure::new(SafetyClass::Transient, Cause::Elapsed);

fn generic(config: RetryConfig) -> (RetryLayer<Custom<Patient>>, Patient) {
    let policy = Patient::default();
    let layer = RetryLayer::new(policy.clone());
    (layer.with_config(config).unwrap(), policy)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_http_is_not_called_again_after_the_last_moment_either() {
    for (config, last_start) in last_starts() {
        let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
        let layer = generic(config).0.with_budget(Arc::clone(&budget));
        let fails = Fails::after(last_start - secs(2), TooSlow);
        let inner = ReadyFrom::new(Instant::now() + last_start, fails);

        let service = layer.layer(inner.clone());
        let error = service.oneshot("a word".to_owned()).await.unwrap_err();

        let elapsed: &Elapsed = error.downcast_ref().unwrap();
        assert!(elapsed.is_deadline());
        assert_eq!(elapsed.attempts(), 1);
        assert_eq!(elapsed.stopped_by(), StoppedBy::Deadline);
        assert_eq!(inner.calls(), 1);
        assert_eq!(affordable(&budget), 10, "what was not used is back");
    }
}

/// What a layer beneath fails with when it was told of a limit.
#[derive(Clone, Debug, PartialEq)]
struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too slow")
    }
}

impl Error for TooSlow {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static TIMED_OUT: LazyLock<io::Error> = LazyLock::new(|| io::ErrorKind::TimedOut.into());
        Some(&*TIMED_OUT)
    }
}

/// Fails with this error each time, after a while.
#[derive(Clone)]
struct Fails<E> {
    after: Duration,
    error: E,
    calls: Arc<AtomicUsize>,
}

impl<E> Fails<E> {
    fn after(after: Duration, error: E) -> Self {
        Self {
            after,
            error,
            calls: Arc::default(),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl<R, E: Clone + Send + 'static> Service<R> for Fails<E> {
    type Response = Answer;
    type Error = E;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, E>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (after, error) = (self.after, self.error.clone());
        Box::pin(async move {
            sleep(after).await;
            Err(error)
        })
    }
}

/// One attempt, as long as its caller waits.
fn one_attempt() -> RetryConfig {
    RetryConfig::default().with_max_attempts(1)
}

#[tokio::test(start_paused = true)]
async fn a_layer_beneath_that_obeys_the_limit_of_an_attempt_does_not_end_the_call() {
    let outer = waiting(10).with_attempt_timeout(ms(50));
    for request in [get(), marked(post("an order"))] {
        let script = Script::new([Step::Hang]);
        let inner = layer(one_attempt()).layer(script.clone());

        let service = layer(outer.clone()).layer(inner);
        let response = service.oneshot(request).await.unwrap();

        assert_eq!(script.waits(), millis([60, 60]));
        assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
    }
}

/// The classifier has the last word on responses of others; this one is the word of a layer, on the limit that it was told of.
#[tokio::test(start_paused = true)]
async fn a_layer_beneath_that_obeys_the_limit_is_cut_whatever_a_classifier_says() {
    let script = Script::new([Step::Hang]);
    let inner = layer(one_attempt()).layer(script.clone());
    let outer = layer(waiting(10).with_attempt_timeout(ms(50)));

    let outer = outer.with_classifier(|attempted| match attempted.response() {
        Some(_) => Verdict::Success,
        None => attempted.verdict(),
    });
    let response = outer.layer(inner).oneshot(get()).await.unwrap();

    assert_eq!(script.calls(), 3);
    assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
}

#[test]
fn a_call_with_a_limit_can_be_made_before_there_is_a_runtime() {
    let script = Script::new([Step::Answer(answer(200))]);
    let config = RetryConfig::default().with_attempt_timeout(ms(50));

    let call = layer(config).layer(script).call(get());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let response = runtime.unwrap().block_on(call).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_layer_beneath_that_obeys_the_limit_of_an_attempt_does_not_end_the_call() {
    let script = Script::new([Step::Hang]);
    let inner = grpc_with(one_attempt()).layer(script.clone());
    let outer = grpc_with(waiting(10).with_attempt_timeout(ms(50)));

    let response = outer.layer(inner).oneshot(marked(rpc())).await.unwrap();

    assert_eq!(script.waits(), millis([60, 60]));
    assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
}

#[tokio::test(start_paused = true)]
async fn after_a_layer_beneath_that_obeyed_the_limit_another_attempt_may_succeed() {
    let script = Script::new([Step::Hang, Step::Answer(answer(200))]);
    let inner = layer(one_attempt()).layer(script.clone());
    let outer = layer(waiting(10).with_attempt_timeout(ms(50)));

    let response = outer.layer(inner).oneshot(get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_layer_beneath_that_obeys_the_deadline_of_the_call_leaves_the_answer_to_its_own_layer() {
    let outer = waiting(10).with_deadline(ms(50));

    let script = Script::new([Step::Hang]);
    let inner = layer(one_attempt()).layer(script.clone());
    let service = layer(outer.clone()).layer(inner);
    let response = service.oneshot(get()).await.unwrap();
    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
    assert_eq!(script.calls(), 1);

    let script = Script::new([Step::Hang]);
    let inner = grpc_with(one_attempt()).layer(script.clone());
    let service = grpc_with(outer).layer(inner);
    let response = service.oneshot(marked(rpc())).await.unwrap();
    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_beneath_with_a_shorter_deadline_of_its_own_ends_the_call() {
    let script = Script::new([Step::Hang]);
    let inner = layer(one_attempt().with_deadline(ms(20))).layer(script.clone());
    let outer = layer(waiting(10).with_attempt_timeout(ms(50)));

    let response = outer.layer(inner).oneshot(get()).await.unwrap();

    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Ignored);
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_reports_the_limit_of_an_attempt_is_taken_for_the_limit() {
    let config = waiting(10).with_attempt_timeout(ms(50));
    for after in [48, 49] {
        let fails = Fails::after(ms(after), TooSlow);
        let service = layer(config.clone()).layer(fails.clone());
        let response = service.oneshot(get()).await.unwrap();
        assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
        assert_eq!(fails.calls(), 3);

        let fails = Fails::after(ms(after), TooSlow);
        let service = layer(config.clone()).layer(fails.clone());
        let response = service.oneshot(post("an order")).await.unwrap();
        assert_refused(&response, Code::AttemptTimeout, 1, StoppedBy::NotIdempotent);

        let fails = Fails::after(ms(after), TooSlow);
        let service = grpc_with(config.clone()).layer(fails.clone());
        let response = service.oneshot(marked(rpc())).await.unwrap();
        assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
        assert_eq!(fails.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_reports_the_deadline_of_the_call_is_taken_for_the_deadline() {
    let config = waiting(10).with_deadline(ms(50));
    let fails = Fails::after(ms(49), TooSlow);

    let service = layer(config).layer(fails.clone());
    let response = service.oneshot(get()).await.unwrap();

    assert_refused(&response, Code::DeadlinePassed, 1, StoppedBy::Deadline);
    assert_eq!(fails.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_reports_another_limit_is_handed_out_untouched() {
    for config in [
        waiting(10).with_attempt_timeout(ms(50)),
        waiting(10)
            .with_deadline(ms(250))
            .with_attempt_timeout(ms(50)),
    ] {
        let fails = Fails::after(ms(47), TooSlow);
        let service = layer(config.clone()).layer(fails.clone());
        let error = service.oneshot(get()).await.unwrap_err();
        assert_eq!(error, TooSlow);
        assert_eq!(fails.calls(), 3);

        let service = grpc_with(config).layer(Fails::after(ms(47), TooSlow));
        let error = service.oneshot(marked(rpc())).await.unwrap_err();
        assert_eq!(error, TooSlow);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_comes_with_the_limit_and_does_not_report_it_is_handed_out_untouched() {
    let config = waiting(10).with_attempt_timeout(ms(50));
    let fails = Fails::after(ms(49), Fault::Reset);

    let service = layer(config).layer(fails.clone());
    let error = service.oneshot(get()).await.unwrap_err();

    assert_eq!(error, Fault::Reset);
    assert_eq!(fails.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_processed_is_no_cut_though_it_comes_with_the_limit() {
    const UNCONNECTED: Failure = Failure::new(SafetyClass::NotProcessed, Cause::Elapsed);

    let config = waiting(10).with_attempt_timeout(ms(50));
    let fails = Fails::after(ms(49), TooSlow);

    let layer = layer(config).with_classifier(|_| UNCONNECTED.into());
    let error = layer.layer(fails.clone()).oneshot(post("an order")).await;

    assert_eq!(error.unwrap_err(), TooSlow);
    assert_eq!(fails.calls(), 3, "a POST was sent again");
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_service_that_is_not_http_is_never_replaced() {
    for config in [
        waiting(10).with_attempt_timeout(ms(50)),
        waiting(10).with_deadline(ms(50)),
    ] {
        let fails = Fails::after(ms(49), TooSlow);

        let service = generic(config).0.layer(fails);
        let error = service.oneshot("a word".to_owned()).await.unwrap_err();

        assert_eq!(error.downcast_ref(), Some(&TooSlow));
    }
}

/// With limits and without.
fn limited_or_not() -> [RetryConfig; 4] {
    [
        waiting(10),
        waiting(10).with_attempt_timeout(secs(1)),
        waiting(10).with_deadline(secs(5)),
        waiting(10)
            .with_attempt_timeout(secs(1))
            .with_deadline(secs(5)),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_classifier_is_asked_once_for_each_attempt() {
    for config in limited_or_not() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let layer = layer(config).with_classifier(move |attempted| {
            counted.fetch_add(1, Ordering::SeqCst);
            attempted.verdict()
        });
        let script = Script::new([
            Step::Answer(answer(503)),
            Step::Fail(Fault::Reset),
            Step::Answer(answer(200)),
        ]);

        call(&layer, &script, get()).await.unwrap();

        assert_eq!(script.calls(), 3);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_classifier_is_asked_once_for_an_error_that_reports_the_limit() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let config = waiting(10).with_attempt_timeout(ms(50));
    let layer = layer(config).with_classifier(move |attempted| {
        counted.fetch_add(1, Ordering::SeqCst);
        attempted.verdict()
    });

    let service = layer.layer(Fails::after(ms(49), TooSlow));
    let response = service.oneshot(get()).await.unwrap();

    assert_refused(&response, Code::AttemptTimeout, 3, StoppedBy::Attempts);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_is_not_asked_for_an_attempt_that_was_cut() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let config = waiting(10).with_attempt_timeout(secs(1));
    let layer = layer(config).with_classifier(move |attempted| {
        counted.fetch_add(1, Ordering::SeqCst);
        attempted.verdict()
    });
    let script = Script::new([Step::Hang, Step::Answer(answer(200))]);

    call(&layer, &script, get()).await.unwrap();

    assert_eq!(script.calls(), 2);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_asked_for_one_verdict_on_each_attempt() {
    for config in limited_or_not() {
        let (layer, policy) = generic(config);
        let fails = Fails::after(ms(20), TooSlow);

        let service = layer.layer(fails.clone());
        service.oneshot("a word".to_owned()).await.unwrap_err();

        assert_eq!(fails.calls(), 3);
        assert_eq!(policy.asked.load(Ordering::SeqCst), 3);
    }
}

/// Whether gRPC's throttle still permits retries after one attempt that was cut. It starts with 2 tokens, and permits none with 1.
async fn permits_after_a_cut(config: RetryConfig, request: Request<Full<Bytes>>) -> bool {
    let budget = Arc::new(Budget::grpc_throttle(2, 0.001).unwrap());
    let layer = grpc_with(config).with_budget(Arc::clone(&budget));
    let script = Script::new([Step::Hang]);
    let response = call(&layer, &script, request).await.unwrap();
    assert_eq!(script.calls(), 1);
    assert!(response.extensions().get::<LocalRejection>().is_some());
    budget.has_token(Instant::now().into_std())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_callers_deadline_cut_takes_no_token_of_grpcs_throttle() {
    let with_header = || {
        let mut request = rpc();
        let timeout = grpc::timeout_value(ms(500));
        request.headers_mut().insert(grpc::TIMEOUT, timeout);
        request
    };
    let with_extension = || {
        let mut request = rpc();
        let deadline = Deadline::at(Instant::now() + ms(500));
        request.extensions_mut().insert(deadline);
        request
    };
    for config in [waiting(10), waiting(10).with_attempt_timeout(secs(1))] {
        assert!(permits_after_a_cut(config.clone(), with_header()).await);
        assert!(permits_after_a_cut(config.clone(), with_extension()).await);
        // No attempt follows though it might.
        assert!(permits_after_a_cut(config, marked(with_header())).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_own_time_cut_takes_a_token_of_grpcs_throttle() {
    let config = waiting(10).with_attempt_timeout(secs(1));

    assert!(!permits_after_a_cut(config.clone(), rpc()).await);
    assert!(!permits_after_a_cut(config.with_deadline(secs(5)), rpc()).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_for_a_request_that_is_not_sent_is_free_for_others() {
    let script = Script::new([Step::Answer(answer(200))]);
    let limit = ConcurrencyLimitLayer::new(1);
    let mut service = layer(waiting(10)).layer(limit.layer(script.clone()));
    let other = service.clone();
    let mut late = get();
    late.extensions_mut().insert(Deadline::at(Instant::now()));

    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await;
    let refused = ready.unwrap().call(late);

    let sent = timeout(ms(1), other.oneshot(get())).await;
    let sent = sent.expect("the permit is free").unwrap();
    assert_eq!(sent.status(), StatusCode::OK);
    assert_refused(
        &refused.await.unwrap(),
        Code::DeadlinePassed,
        0,
        StoppedBy::Deadline,
    );
    // The service itself goes on too.
    let again = service.oneshot(get()).await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(script.calls(), 2);
}

/// How many requests passed that could not be retried, by the reason.
fn passed(run: impl AsyncFnOnce()) -> Vec<(String, u64)> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(run());
    });
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let mut passed: Vec<_> = metrics
        .filter_map(|(key, _, _, value)| {
            let key = key.key();
            let is_passed = key.name() == "steadfast_retry_passed_total";
            let because = key.labels().find(|label| label.key() == "because");
            match value {
                DebugValue::Counter(count) if is_passed && count > 0 => {
                    Some((because.unwrap().value().to_owned(), count))
                }
                DebugValue::Counter(_) | DebugValue::Gauge(_) | DebugValue::Histogram(_) => None,
            }
        })
        .collect();
    passed.sort();
    passed
}

#[test]
fn requests_that_could_not_be_retried_from_the_start_are_counted_where_they_have_a_limit() {
    let configs = [
        waiting(10).with_attempt_timeout(secs(1)),
        waiting(10).with_deadline(secs(1)),
    ];
    for config in configs {
        let counted = passed(async || {
            let budget = Budget::ratio(0.0, 1).unwrap();
            while budget.withdraw(Instant::now().into_std()).is_some() {}
            let layer = layer(config).with_budget(budget);
            let script = Script::new([Step::Answer(answer(503))]);
            let large = Bytes::from(vec![b'x'; RetryConfig::DEFAULT_REPLAY_LIMIT + 1]);
            for _ in 0..2 {
                let large = request("PUT").map(|_| Full::new(large.clone()));
                let response = call(&layer, &script, large).await.unwrap();
                assert_eq!(stopped_by(&response), Some(StoppedBy::Body));
            }
            let response = call(&layer, &script, get()).await.unwrap();
            assert_eq!(stopped_by(&response), Some(StoppedBy::Budget));
            assert_eq!(script.calls(), 3);
        });

        assert_eq!(counted, [("body".to_owned(), 2), ("budget".to_owned(), 1)]);
    }
}

#[test]
fn a_request_that_may_be_retried_is_not_counted_as_passed_on() {
    for config in limited_or_not() {
        let counted = passed(async || {
            let script = Script::new([Step::Answer(answer(503))]);
            call(&layer(config), &script, get()).await.unwrap();
            assert_eq!(script.calls(), 3);
        });

        assert_eq!(counted, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_followed_before_the_clock_moves() {
    // Between two ticks of the timer, where a sleep of no time would last.
    advance(Duration::from_micros(1_300)).await;
    for config in limited_or_not() {
        for request in [get(), post("an order")] {
            let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(answer(200))]);
            let started = Instant::now();

            let layer = layer(config.clone()).with_error_view::<Beneath>();
            call(&layer, &script, request).await.unwrap();

            assert_eq!(script.waits(), [Duration::ZERO]);
            assert_eq!(started.elapsed(), Duration::ZERO);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_of_its_own_limit() {
    let config = waiting(10).with_attempt_timeout(secs(2));
    let with_deadline = config.clone().with_deadline(secs(3));
    for (config, expected) in [
        (config, &[2_000, 4_010, 6_020][..]),
        (with_deadline, &[2_000, 3_000]),
    ] {
        let started = Instant::now();
        let script = Script::new([Step::Hang]);
        call(&layer(config.clone()), &script, get()).await.unwrap();
        assert_eq!(limits(&script, started), millis(expected.to_vec()));

        let started = Instant::now();
        let script = Script::new([Step::Hang]);
        let layer = grpc_with(config.clone());
        call(&layer, &script, marked(rpc())).await.unwrap();
        assert_eq!(limits(&script, started), millis(expected.to_vec()));
        for seen in script.seen() {
            let told = grpc::timeout(&seen.head.headers).unwrap();
            let limit = Deadline::of(&seen.head.extensions).unwrap();
            assert_eq!(told, limit.moment() - (started + seen.at));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_request_is_replaced_by_the_limit_of_each_attempt() {
    let started = Instant::now();
    let script = Script::new([Step::Hang]);
    let mut request = get();
    let own = Deadline::at(started + secs(5));
    request.extensions_mut().insert(own);
    let config = waiting(10).with_attempt_timeout(secs(2));

    call(&layer(config), &script, request).await.unwrap();

    assert_eq!(limits(&script, started), millis([2_000, 4_010, 5_000]));
}

/// Until when each attempt was told that it may take.
fn limits(script: &Script, started: Instant) -> Vec<Duration> {
    let seen = script.seen();
    let limits = seen.iter().map(|seen| {
        let limit = Deadline::of(&seen.head.extensions).expect("it was told");
        limit.moment() - started
    });
    limits.collect()
}

#[tokio::test(start_paused = true)]
async fn a_time_that_the_layer_chose_is_told_as_a_limit_and_the_callers_is_not() {
    let attempts = || waiting(10).with_attempt_timeout(secs(2));
    let total = || waiting(10).with_deadline(secs(3));
    let (two, three, none) = (Some(secs(2)), Some(secs(3)), None);
    for (config, callers, expected) in [
        (attempts(), None, vec![two, two, two]),
        (attempts(), Some(secs(5)), vec![two, two, none]),
        (attempts().with_deadline(secs(3)), None, vec![two, three]),
        (total(), None, vec![three]),
        (total(), Some(secs(1)), vec![none]),
    ] {
        let script = Script::new([Step::Hang]);
        let mut request = get();
        if let Some(time) = callers {
            let deadline = Deadline::at(Instant::now() + time);
            request.extensions_mut().insert(deadline);
        }
        call(&layer(config), &script, request).await.unwrap();
        assert_eq!(told_limits(&script), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn beneath_another_layer_that_limits_the_limit_is_told_on_with_its_length() {
    let script = Script::new([Step::Hang]);
    let mut request = get();
    let outer = Deadline::at(Instant::now() + secs(1)).with_limit(secs(2));
    request.extensions_mut().insert(outer);

    call(&layer(waiting(10)), &script, request).await.unwrap();

    assert_eq!(told_limits(&script), [Some(secs(2))]);
}

fn told_limits(script: &Script) -> Vec<Option<Duration>> {
    let seen = script.seen();
    let told = seen.iter().map(|seen| {
        let told = Deadline::of(&seen.head.extensions).expect("it was told");
        told.limit()
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_heals_is_told_of_a_shorter_time_at_each_attempt() {
    let script = Script::new([
        Step::After(secs(1), trailers_only(14)),
        Step::After(secs(1), trailers_only(14)),
        Step::Answer(trailers_only(0)),
    ]);

    let layer = grpc_with(waiting(10).with_deadline(secs(5)));
    call(&layer, &script, marked(rpc())).await.unwrap();

    let told = script.seen().into_iter();
    let told = told.map(|seen| grpc::timeout(&seen.head.headers).unwrap());
    assert_eq!(told.collect::<Vec<_>>(), millis([5_000, 3_990, 2_980]));
}
