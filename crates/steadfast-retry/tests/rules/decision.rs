//! retry R2.

use std::{
    convert::Infallible,
    future::{Future, ready},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use steadfast_http::{
    BoxError, Deadline, LocalRejection, grpc,
    problem::{Code, Problem, ProblemBase},
};
use steadfast_retry::{RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    Answer, Beneath, Fault, ReadyOnce, Script, Step, answer, call, get, grpc, marked, post,
    retry_after, rpc, steady, stopped_by, too_large, trailers_only, without_a_token,
};

#[tokio::test(start_paused = true)]
async fn whatever_stops_the_retrying_the_last_response_is_returned_untouched() {
    let http = RetryLayer::http;
    let cases = [
        (StoppedBy::Ignored, 1, http(), boxed(get()), rejection()),
        (StoppedBy::Permanent, 1, http(), boxed(get()), template(501)),
        (
            StoppedBy::NotIdempotent,
            1,
            http(),
            boxed(post("1999")),
            template(503),
        ),
        (StoppedBy::Attempts, 3, http(), boxed(get()), template(503)),
        (
            StoppedBy::Body,
            1,
            http(),
            boxed(too_large()),
            template(503),
        ),
        (
            StoppedBy::Hint,
            1,
            http(),
            boxed(get()),
            template_to_retry_after(61),
        ),
        (
            StoppedBy::Deadline,
            1,
            http(),
            boxed(get()),
            template_to_retry_after(31),
        ),
        (
            StoppedBy::Budget,
            1,
            without_a_token(),
            boxed(get()),
            template(503),
        ),
    ];
    for (reason, attempts, layer, request, template) in cases {
        let service = Rich::new([template]);

        let response = layer.layer(service.clone()).oneshot(request).await.unwrap();

        assert_eq!(service.attempts(), attempts, "{reason:?}");
        assert_untouched(response, &service, (attempts, reason)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_after_failures_is_returned_untouched() {
    let service = Rich::new([template(503), template(502), template(201)]);

    let response = RetryLayer::http()
        .layer(service.clone())
        .oneshot(get())
        .await;

    assert_untouched(response.unwrap(), &service, (3, StoppedBy::Success)).await;
}

async fn assert_untouched<B>(
    response: Response<B>,
    service: &Rich,
    (attempts, reason): (u32, StoppedBy),
) where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let sent = service.response(attempts);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(
        (outcome.attempts(), outcome.stopped_by()),
        (attempts, reason)
    );
    assert_eq!(response.extensions().get(), Some(&attempts));
    assert_eq!(response.status(), sent.status());
    assert_eq!(response.version(), sent.version());
    assert_eq!(response.headers(), sent.headers());
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], attempts.to_string());
    assert_eq!(body.to_bytes(), format!("body of attempt {attempts}"));
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_succeeds_is_returned_as_if_there_were_no_layer() {
    let service = Rich::new([template(200)]);

    let response = RetryLayer::http()
        .layer(service.clone())
        .oneshot(get())
        .await
        .unwrap();

    assert_eq!(RetryOutcome::of(response.extensions()), None);
    let sent = service.response(1);
    assert_eq!(response.extensions().len(), sent.extensions().len());
    assert_eq!(response.headers(), sent.headers());
}

#[tokio::test(start_paused = true)]
async fn the_body_of_the_returned_response_is_left_to_the_caller() {
    let wanted = Arc::new(AtomicU32::new(0));
    let handed = Arc::clone(&wanted);
    let service = service_fn(move |_: Request<_>| {
        let mut response = Response::new(Watched(Arc::clone(&handed)));
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        ready(Ok::<_, Infallible>(response))
    });

    let response = RetryLayer::http()
        .layer(service)
        .oneshot(get())
        .await
        .unwrap();

    assert_eq!(wanted.load(Ordering::Relaxed), 0);
    response.into_body().collect().await.unwrap();
    assert_eq!(wanted.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_last_attempt_is_returned_itself() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let service = service_fn(move |_: Request<_>| {
        let attempt = counted.fetch_add(1, Ordering::Relaxed) + 1;
        let error = io::Error::new(io::ErrorKind::ConnectionReset, format!("attempt {attempt}"));
        ready(Err::<Answer, _>(error))
    });

    let error = RetryLayer::http()
        .layer(service)
        .oneshot(get())
        .await
        .unwrap_err();

    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(error.to_string(), "attempt 3");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_must_not_be_met_twice_is_returned_at_once() {
    for (request, fault) in [(get(), Fault::Strange), (post("1999"), Fault::Reset)] {
        let script = Script::new([Step::Fail(fault.clone()), Step::Answer(answer(200))]);

        let error = call(&RetryLayer::http(), &script, request)
            .await
            .unwrap_err();

        assert_eq!(error, fault);
        assert_eq!(script.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_decision_falls_before_the_wait() {
    let started = Instant::now();
    for answer in [retry_after(503, "31"), retry_after(503, "61"), answer(501)] {
        let script = Script::new([Step::Answer(answer)]);

        call(&RetryLayer::http(), &script, get()).await.unwrap();

        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn that_another_attempt_would_fail_alike_comes_before_that_it_would_not_be_safe() {
    let script = Script::new([Step::Answer(answer(501))]);

    let response = call(&RetryLayer::http(), &script, post("1999"))
        .await
        .unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Permanent));
}

#[tokio::test(start_paused = true)]
async fn that_it_would_not_be_safe_comes_before_that_no_attempts_are_left() {
    let config = RetryConfig::default().with_max_attempts(2);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let layer = layer.with_error_view::<Beneath>();
    let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(answer(503))]);

    let response = call(&layer, &script, post("1999")).await.unwrap();

    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 2);
    assert_eq!(outcome.stopped_by(), StoppedBy::NotIdempotent);
}

#[tokio::test(start_paused = true)]
async fn that_no_attempts_are_left_comes_before_that_the_body_cannot_be_sent_again() {
    let config = RetryConfig::default().with_max_attempts(2);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let script = Script::new([Step::Early(answer(503)), Step::Answer(answer(503))]);

    let response = call(&layer, &script, too_large()).await.unwrap();

    assert_eq!(script.calls(), 2);
    assert_eq!(stopped_by(&response), Some(StoppedBy::Attempts));
}

#[tokio::test(start_paused = true)]
async fn that_the_body_cannot_be_sent_again_comes_before_the_hint() {
    let script = Script::new([Step::Answer(retry_after(503, "61"))]);

    let response = call(&RetryLayer::http(), &script, too_large())
        .await
        .unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Body));
}

#[tokio::test(start_paused = true)]
async fn the_hint_comes_before_the_deadline() {
    let layer = RetryLayer::http()
        .with_config(steady().with_deadline(Duration::from_millis(20)))
        .unwrap();
    let script = Script::new([Step::Answer(retry_after(503, "61"))]);

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Hint));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_comes_before_the_budget() {
    let script = Script::new([Step::Answer(retry_after(503, "31"))]);

    let response = call(&without_a_token(), &script, get()).await.unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Deadline));
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_leaves_less_than_the_least_time_of_an_attempt_is_not_begun() {
    for (deadline, attempts) in [(50, 1), (51, 2)] {
        let layer = RetryLayer::http()
            .with_config(steady().with_deadline(Duration::from_millis(deadline)))
            .unwrap();
        let script = Script::new([Step::Answer(answer(503))]);

        let response = call(&layer, &script, get()).await.unwrap();

        let outcome = RetryOutcome::of(response.extensions()).unwrap();
        assert_eq!(outcome.attempts(), attempts, "{deadline} ms");
        assert_eq!(outcome.stopped_by(), StoppedBy::Deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_cut_is_answered_with_504_and_the_reason() {
    let config = RetryConfig::default()
        .with_attempt_timeout(Duration::from_secs(1))
        .with_problem_base(ProblemBase::new("https://errors.test/"));
    let layer = RetryLayer::http().with_config(config).unwrap();
    for (request, attempts, reason) in [
        (get(), 3, StoppedBy::Attempts),
        (post("1999"), 1, StoppedBy::NotIdempotent),
    ] {
        let script = Script::new([Step::Hang]);

        let response = call(&layer, &script, request).await.unwrap();

        assert_eq!(script.calls(), attempts as usize);
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_refusal(&response, Code::AttemptTimeout, (attempts, reason));
        // The same request may be sent again where it would have been.
        let retryable = reason == StoppedBy::Attempts;
        let problem: &Problem = response.extensions().get().unwrap();
        assert_eq!(problem.retryable(), retryable);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            body.contains(r#""type":"https://errors.test/#attempt-timeout""#),
            "{body}"
        );
        assert!(body.contains(&format!("attempts: {attempts}")), "{body}");
        assert!(
            body.contains(&format!(r#""retryable":{retryable}"#)),
            "{body}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cut_by_its_deadline_is_answered_with_504_and_the_reason() {
    let config = RetryConfig::default().with_deadline(Duration::from_secs(1));
    let layer = RetryLayer::http().with_config(config).unwrap();
    let script = Script::new([Step::Answer(answer(503)), Step::Hang]);

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_refusal(&response, Code::DeadlinePassed, (2, StoppedBy::Deadline));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains(r#""code":"deadline-passed""#), "{body}");
    assert!(body.contains(r#""status":504"#), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_deadline_has_passed_is_refused_without_an_attempt() {
    let script = Script::new([Step::Answer(answer(200))]);
    let mut request = get();
    request
        .extensions_mut()
        .insert(Deadline::at(Instant::now()));

    let response = call(&RetryLayer::http(), &script, request).await.unwrap();

    assert_eq!(script.calls(), 0);
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_refusal(&response, Code::DeadlinePassed, (0, StoppedBy::Deadline));
}

fn assert_refusal<B>(response: &Response<B>, code: Code, (attempts, reason): (u32, StoppedBy)) {
    let extensions = response.extensions();
    assert_eq!(extensions.get(), Some(&LocalRejection::new(code)));
    assert_eq!(extensions.get::<Problem>().unwrap().code(), code);
    let outcome = RetryOutcome::of(extensions).unwrap();
    assert_eq!(
        (outcome.attempts(), outcome.stopped_by()),
        (attempts, reason)
    );
}

#[tokio::test(start_paused = true)]
async fn grpc_is_refused_with_deadline_exceeded_in_the_head() {
    let second = Duration::from_secs(1);
    for (config, code, attempts, reason) in [
        (
            RetryConfig::default().with_attempt_timeout(second),
            Code::AttemptTimeout,
            3,
            StoppedBy::Attempts,
        ),
        (
            RetryConfig::default().with_deadline(second),
            Code::DeadlinePassed,
            1,
            StoppedBy::Deadline,
        ),
    ] {
        let layer = grpc().with_config(config).unwrap();
        let script = Script::new([Step::Hang]);

        let response = call(&layer, &script, marked(rpc())).await.unwrap();

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
        assert_eq!(
            grpc::status(response.headers()),
            Some(grpc::Code::DeadlineExceeded)
        );
        assert!(response.headers().contains_key(grpc::MESSAGE));
        assert_refusal(&response, code, (attempts, reason));
        let body = response.into_body().collect().await.unwrap();
        assert!(body.trailers().is_none());
        assert!(body.to_bytes().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_of_a_grpc_server_is_returned_untouched() {
    let service = Rich::new([trailers_only(14).map(|_| ())]);

    let response = grpc()
        .layer(service.clone())
        .oneshot(marked(rpc()))
        .await
        .unwrap();

    assert_untouched(response, &service, (3, StoppedBy::Attempts)).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_users_own_replaces_that_of_the_layer() {
    let config = RetryConfig::default().with_attempt_timeout(Duration::from_secs(1));
    let layer = RetryLayer::http()
        .with_config(config)
        .unwrap()
        .with_refusal(|refusal| {
            let problem: &Problem = refusal.extensions().get().unwrap();
            let attempts = RetryOutcome::of(refusal.extensions()).unwrap().attempts();
            let mut own = Response::new(Bytes::from(format!(
                "{} after {attempts}",
                problem.code().as_str()
            )));
            *own.status_mut() = StatusCode::IM_A_TEAPOT;
            own
        });
    let script = Script::new([Step::Hang]);

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "attempt-timeout after 3");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_at_becoming_ready_again_hands_out_its_own_error() {
    let service = ReadyOnce::default();
    let called = Arc::clone(&service.called);

    let error = RetryLayer::http()
        .layer(service)
        .oneshot(get())
        .await
        .unwrap_err();

    assert!(called.load(Ordering::Relaxed));
    assert_eq!(error, Fault::Strange);
}

/// Answers with responses that have everything a response can have, each after the whole body of its request.
#[derive(Clone)]
struct Rich {
    templates: Arc<[Response<()>]>,
    attempts: Arc<AtomicU32>,
}

impl Rich {
    fn new(templates: impl IntoIterator<Item = Response<()>>) -> Self {
        Self {
            templates: templates.into_iter().collect(),
            attempts: Arc::default(),
        }
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn response(&self, attempt: u32) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let index = (attempt as usize).min(self.templates.len()) - 1;
        let sum = (HeaderName::from_static("x-sum"), attempt.into());
        let trailers = HeaderMap::from_iter([sum]);
        let body = Full::new(Bytes::from(format!("body of attempt {attempt}")))
            .with_trailers(ready(Some(Ok(trailers))))
            .boxed_unsync();
        let mut response = self.templates[index].clone().map(|()| body);
        *response.version_mut() = Version::HTTP_2;
        let headers = response.headers_mut();
        headers.insert("x-attempt", attempt.into());
        headers.append("x-twice", HeaderValue::from_static("a"));
        headers.append("x-twice", HeaderValue::from_static("b"));
        response.extensions_mut().insert(attempt);
        response
    }
}

impl<B> Service<Request<B>> for Rich
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, Infallible>>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let response = self.response(attempt);
        Box::pin(async move {
            match request.into_body().collect().await {
                Ok(_) => Ok(response),
                Err(_) => Err(Fault::Strange),
            }
        })
    }
}

/// A body of one frame, which counts how often somebody wants it.
struct Watched(Arc<AtomicU32>);

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(None)
    }
}

fn boxed<B>(request: Request<B>) -> Request<UnsyncBoxBody<Bytes, Infallible>>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    request.map(BodyExt::boxed_unsync)
}

fn template(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

fn template_to_retry_after(seconds: u16) -> Response<()> {
    let mut response = template(503);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, seconds.into());
    response
}

fn rejection() -> Response<()> {
    let mut response = template(503);
    let rejection = LocalRejection::new(Code::CircuitOpen);
    response.extensions_mut().insert(rejection);
    response
}
