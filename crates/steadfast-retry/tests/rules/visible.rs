//! retry R11.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Once, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;
use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use steadfast_http::LocalRejection;
use steadfast_http::problem::Code;
use steadfast_retry::{Budget, RetryConfig, RetryLayer, StoppedBy};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{layer, prelude::*, registry::LookupSpan};

use crate::support::{
    Beneath, Fault, ReadyOnce, Script, Step, Unsized, answer, call, get, grpc, marked, post,
    request, retry_after, rpc, steady, stopped_by, too_large, trailers_only, without_a_token,
};

type Fields = BTreeMap<&'static str, String>;

/// One log line, and the span around it.
#[derive(Debug)]
struct Line {
    level: Level,
    target: String,
    fields: Fields,
    span: Option<(&'static str, Fields)>,
}

thread_local! {
    /// What was logged by this test: each has a thread of its own.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines of each thread. One for all tests, as tracing remembers for all threads which lines nobody wants.
struct Listener;

impl<S: Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Listener {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: layer::Context<'_, S>,
    ) {
        let mut fields = Values::default();
        attributes.record(&mut fields);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: layer::Context<'_, S>) {
        let mut fields = Values::default();
        event.record(&mut fields);
        let span = context.event_span(event).map(|span| {
            let fields = span.extensions().get::<Values>().unwrap().0.clone();
            (span.name(), fields)
        });
        let line = Line {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            fields: fields.0,
            span,
        };
        LINES.with_borrow_mut(|lines| lines.push(line));
    }
}

#[derive(Default)]
struct Values(Fields);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

/// From here on, this thread's lines are kept.
fn listen() {
    static LISTENER: Once = Once::new();
    LISTENER.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Listener);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    LINES.take();
}

/// What the layer has logged since.
fn logged() -> Vec<Line> {
    let mut lines = LINES.take();
    lines.retain(|line| line.target.starts_with("steadfast_retry"));
    lines
}

/// Of the line's fields, those that are named.
fn told<'a, const N: usize>(line: &'a Line, names: [&'static str; N]) -> [&'a str; N] {
    names.map(|name| line.fields.get(name).map_or("", |value| &**value))
}

/// Calls that make use of each reason to stop, but for readiness.
fn calls() -> Vec<(StoppedBy, RetryLayer, Request<Unsized>, Step)> {
    let http = || RetryLayer::http().with_name("provider");
    let unsized_ = |request: Request<Full<Bytes>>| request.map(Unsized);
    let mut rejection = answer(503);
    rejection
        .extensions_mut()
        .insert(LocalRejection::new(Code::CircuitOpen));
    vec![
        (
            StoppedBy::Ignored,
            http(),
            unsized_(get()),
            Step::Answer(rejection),
        ),
        (
            StoppedBy::Permanent,
            http(),
            unsized_(get()),
            Step::Answer(answer(501)),
        ),
        (
            StoppedBy::NotIdempotent,
            http(),
            unsized_(post("1999")),
            Step::Answer(answer(503)),
        ),
        (
            StoppedBy::Attempts,
            http(),
            unsized_(get()),
            Step::Answer(answer(503)),
        ),
        (
            StoppedBy::Body,
            http(),
            too_large(),
            Step::Answer(answer(503)),
        ),
        (
            StoppedBy::Hint,
            http(),
            unsized_(get()),
            Step::Answer(retry_after(503, "61")),
        ),
        (
            StoppedBy::Deadline,
            http(),
            unsized_(get()),
            Step::Answer(retry_after(503, "31")),
        ),
        (
            StoppedBy::Budget,
            without_a_token().with_name("provider"),
            unsized_(get()),
            Step::Answer(answer(503)),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_is_told_how_many_attempts_came_before() {
    let script = Script::new([Step::Answer(trailers_only(14))]);

    call(&grpc(), &script, marked(rpc())).await.unwrap();

    assert_eq!(
        header_of_each(&script, "grpc-previous-rpc-attempts"),
        ["", "1", "2"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_http_server_is_told_nothing_unless_a_header_was_agreed_on() {
    let script = Script::new([Step::Answer(answer(503))]);

    call(&RetryLayer::http(), &script, get()).await.unwrap();

    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    for seen in seen {
        assert_eq!(seen.head.headers, *get().headers());
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_server_is_told_by_the_header_that_was_agreed_on() {
    let header = HeaderName::from_static("x-attempts-before");
    let config = RetryConfig::default().with_attempt_header(header);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let script = Script::new([Step::Answer(answer(503))]);

    call(&layer, &script, get()).await.unwrap();

    assert_eq!(header_of_each(&script, "x-attempts-before"), ["", "1", "2"]);
    for seen in script.seen() {
        assert!(!seen.head.headers.contains_key("grpc-previous-rpc-attempts"));
    }
}

fn header_of_each(script: &Script, name: &str) -> Vec<String> {
    let value = |seen: crate::support::Seen| {
        let mut values = seen.head.headers.get_all(name).iter();
        let value = values.next().map_or("", |value| value.to_str().unwrap());
        assert!(values.next().is_none(), "once");
        value.to_owned()
    };
    script.seen().into_iter().map(value).collect()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_span_that_counts_from_the_second_on() {
    listen();
    let limited = RetryConfig::default().with_attempt_timeout(Duration::from_secs(1));
    let limited = RetryLayer::http().with_config(limited).unwrap();
    for layer in [RetryLayer::http(), limited] {
        let service = service_fn(|_: Request<_>| {
            tracing::info!(target: "steadfast_retry::called", "called");
            async {
                tokio::task::yield_now().await;
                tracing::info!(target: "steadfast_retry::polled", "polled");
                Ok::<_, Fault>(answer(503))
            }
        });

        layer.layer(service).oneshot(get()).await.unwrap();

        let lines = logged();
        for target in ["steadfast_retry::called", "steadfast_retry::polled"] {
            let lines = lines.iter().filter(|line| line.target == target);
            let counts = lines.map(|line| {
                let (name, fields) = line.span.as_ref().unwrap();
                assert_eq!(*name, "attempt");
                fields
                    .get("http.request.resend_count")
                    .map(|count| &**count)
            });
            assert_eq!(counts.collect::<Vec<_>>(), [None, Some("1"), Some("2")]);
        }
    }
}

/// Logs when it is dropped.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        tracing::info!(target: "steadfast_retry::dropped", "dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_or_left_is_dropped_in_its_span() {
    listen();
    let limit = Duration::from_secs(1);
    let config = RetryConfig::default().with_attempt_timeout(limit);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let service = service_fn(|_: Request<_>| async {
        let _farewell = Farewell;
        std::future::pending::<Result<Response<Full<Bytes>>, Fault>>().await
    });

    for (patience, dropped) in [(limit / 2, 1), (limit * 60, 3)] {
        let call = layer.layer(service).oneshot(get());
        let _either = tokio::time::timeout(patience, call).await;

        let lines = logged();
        let lines = lines
            .iter()
            .filter(|line| line.target == "steadfast_retry::dropped");
        let spans = lines.map(|line| line.span.as_ref().map(|(name, _)| *name));
        assert_eq!(spans.collect::<Vec<_>>(), vec![Some("attempt"); dropped]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_retry_is_logged_once_with_its_number_reason_and_delay() {
    listen();
    let config = steady()
        .with_max_attempts(8)
        .with_attempt_timeout(Duration::from_secs(1));
    let layer = RetryLayer::http()
        .with_name("provider")
        .with_config(config)
        .unwrap()
        .with_error_view::<Beneath>();
    let script = Script::new([
        Step::Fail(Fault::Refused),
        Step::Answer(answer(503)),
        Step::Answer(answer(429)),
        Step::Answer(retry_after(409, "3")),
        Step::Hang,
        Step::Fail(Fault::Reset),
        Step::Answer(answer(425)),
        Step::Answer(answer(200)),
    ]);

    call(&layer, &script, marked(get())).await.unwrap();

    let lines = logged();
    let retries = lines
        .iter()
        .filter(|line| line.fields["message"] == "retrying");
    let told: Vec<_> = retries
        .map(|line| {
            assert_eq!(line.level, Level::INFO);
            told(line, ["retry", "attempt", "reason", "delay"])
        })
        .collect();
    assert_eq!(
        told,
        [
            ["provider", "2", "not_processed", "0ns"],
            ["provider", "3", "fault", "100ms"],
            ["provider", "4", "throttled", "4s"],
            ["provider", "5", "in_progress", "3s"],
            ["provider", "6", "elapsed", "800ms"],
            ["provider", "7", "fault", "1.6s"],
            ["provider", "8", "not_processed", "3.2s"],
        ]
    );
    // Beside them there is but the end of the call.
    assert_eq!(lines.len(), told.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn delays_are_logged_in_whole_microseconds() {
    listen();
    let layer = RetryLayer::http().with_sampler(|| u64::MAX / 3);
    let script = Script::new([Step::Answer(answer(503)), Step::Answer(answer(200))]);

    call(&layer, &script, get()).await.unwrap();

    assert_eq!(told(&logged()[0], ["delay"]), ["16.666ms"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_might_have_been_retried_is_a_warning_and_the_others_are_not() {
    listen();
    for (reason, layer, request, step) in calls() {
        let script = Script::new([step]);

        let response = call(&layer, &script, request).await.unwrap();

        assert_eq!(stopped_by(&response), Some(reason));
        let lines = logged();
        let (end, retries) = lines.split_last().unwrap();
        assert_eq!(retries.len(), script.calls() - 1, "{reason:?}");
        let attempts = script.calls().to_string();
        let expected = ["provider", &*attempts, reason.as_str()];
        assert_eq!(told(end, ["retry", "attempts", "stopped_by"]), expected);
        let is_meant = matches!(
            reason,
            StoppedBy::Ignored | StoppedBy::Permanent | StoppedBy::NotIdempotent
        );
        let (level, message) = match is_meant {
            true => (Level::DEBUG, "done"),
            false => (Level::WARN, "not retried"),
        };
        assert_eq!(end.level, level, "{reason:?}");
        assert_eq!(end.fields["message"], message, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_become_ready_is_a_warning() {
    listen();

    let service = RetryLayer::http().layer(ReadyOnce::default());
    service.oneshot(get()).await.unwrap_err();

    let lines = logged();
    let end = lines.last().unwrap();
    assert_eq!(end.level, Level::WARN);
    assert_eq!(
        told(end, ["retry", "attempts", "stopped_by"]),
        ["default", "1", "unready"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_succeeds_is_not_logged() {
    listen();
    let script = Script::new([Step::Answer(answer(200))]);

    call(&RetryLayer::http(), &script, get()).await.unwrap();

    assert!(logged().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_success_after_failures_is_logged_for_those_who_look_closely() {
    listen();
    let script = Script::new([Step::Answer(answer(503)), Step::Answer(answer(200))]);

    call(&RetryLayer::http(), &script, get()).await.unwrap();

    let lines = logged();
    let [retry, end] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(retry.fields["message"], "retrying");
    assert_eq!(end.level, Level::DEBUG);
    assert_eq!(told(end, ["attempts", "stopped_by"]), ["2", "success"]);
}

/// What calls leave in the metrics, as `name{label=value}`; counters that stand at zero left out.
fn measured(run: impl AsyncFnOnce()) -> BTreeMap<String, Vec<f64>> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run());
    });
    metrics_of(&snapshotter)
}

fn metrics_of(snapshotter: &Snapshotter) -> BTreeMap<String, Vec<f64>> {
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    metrics
        .filter_map(|(key, unit, _, value)| {
            let key = key.key();
            let values = match value {
                DebugValue::Counter(0) => return None,
                DebugValue::Counter(count) => {
                    assert_eq!(unit, Some(Unit::Count));
                    vec![count as f64]
                }
                DebugValue::Gauge(value) => vec![value.into_inner()],
                DebugValue::Histogram(values) if values.is_empty() => return None,
                DebugValue::Histogram(values) => {
                    assert_eq!(unit, Some(Unit::Seconds));
                    values.into_iter().map(|value| value.into_inner()).collect()
                }
            };
            let mut labels: Vec<_> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            labels.sort();
            Some((format!("{}{{{}}}", key.name(), labels.join(",")), values))
        })
        .collect()
}

fn expected<const N: usize>(metrics: [(&str, &[f64]); N]) -> BTreeMap<String, Vec<f64>> {
    let metrics = metrics.into_iter();
    metrics
        .map(|(name, values)| (format!("steadfast_retry_{name}"), values.to_vec()))
        .collect()
}

#[test]
fn each_retry_is_counted_by_reason_and_its_delay_recorded() {
    let measured = measured(async || {
        let config = steady()
            .with_max_attempts(8)
            .with_attempt_timeout(Duration::from_secs(1));
        let layer = RetryLayer::http()
            .with_name("provider")
            .with_config(config)
            .unwrap()
            .with_error_view::<Beneath>();
        let script = Script::new([
            Step::Fail(Fault::Refused),
            Step::Answer(answer(503)),
            Step::Answer(answer(429)),
            Step::Answer(retry_after(409, "3")),
            Step::Hang,
            Step::Fail(Fault::Reset),
            Step::Answer(answer(200)),
        ]);
        call(&layer, &script, marked(get())).await.unwrap();
    });

    assert_eq!(
        measured,
        expected([
            ("calls_total{layer=provider,stopped_by=success}", &[1.0]),
            (
                "delay_seconds{layer=provider}",
                &[0.0, 0.1, 4.0, 3.0, 0.8, 1.6]
            ),
            ("retries_total{layer=provider,reason=elapsed}", &[1.0]),
            ("retries_total{layer=provider,reason=fault}", &[2.0]),
            ("retries_total{layer=provider,reason=in_progress}", &[1.0]),
            ("retries_total{layer=provider,reason=not_processed}", &[1.0]),
            ("retries_total{layer=provider,reason=throttled}", &[1.0]),
        ])
    );
}

#[test]
fn each_call_is_counted_by_what_stopped_it() {
    for (reason, _, _, _) in with_runtime(calls) {
        let measured = measured(async || {
            let call_of_reason = calls().into_iter().find(|(found, ..)| *found == reason);
            let (_, layer, request, step) = call_of_reason.unwrap();
            let script = Script::new([step]);
            call(&layer, &script, request).await.unwrap();
        });

        let name = format!(
            "calls_total{{layer=provider,stopped_by={}}}",
            reason.as_str()
        );
        let measured = measured
            .into_iter()
            .filter(|(name, _)| name.contains("_calls_"));
        assert_eq!(
            measured.collect::<BTreeMap<_, _>>(),
            expected([(&name, &[1.0])])
        );
    }
}

#[test]
fn calls_that_succeed_at_once_or_fail_at_readiness_or_are_never_sent_are_counted_too() {
    let measured = measured(async || {
        let layer = RetryLayer::http();
        let script = Script::new([Step::Answer(answer(200))]);
        for _ in 0..3 {
            call(&layer, &script, get()).await.unwrap();
        }
        let unready = layer.layer(ReadyOnce::default());
        unready.oneshot(get()).await.unwrap_err();
        let mut late = get();
        let passed = steadfast_http::Deadline::at(Instant::now());
        late.extensions_mut().insert(passed);
        call(&layer, &script, late).await.unwrap();
    });

    let calls = measured
        .into_iter()
        .filter(|(name, _)| name.contains("_calls_"));
    assert_eq!(
        calls.collect::<BTreeMap<_, _>>(),
        expected([
            ("calls_total{layer=default,stopped_by=deadline}", &[1.0]),
            ("calls_total{layer=default,stopped_by=success}", &[3.0]),
            ("calls_total{layer=default,stopped_by=unready}", &[1.0]),
        ])
    );
}

#[test]
fn requests_that_could_not_be_retried_from_the_start_are_counted_by_the_reason() {
    let measured = measured(async || {
        let budget = Budget::ratio(0.0, 1).unwrap();
        while budget.withdraw(Instant::now().into_std()).is_some() {}
        let layer = RetryLayer::http().with_name("provider").with_budget(budget);
        let script = Script::new([Step::Answer(answer(503))]);
        let large = Bytes::from(vec![b'x'; RetryConfig::DEFAULT_REPLAY_LIMIT + 1]);
        for _ in 0..2 {
            let large = request("PUT").map(|_| Full::new(large.clone()));
            call(&layer, &script, large).await.unwrap();
        }
        call(&layer, &script, get()).await.unwrap();
        assert_eq!(script.calls(), 3);
    });

    assert_eq!(
        measured,
        expected([
            ("calls_total{layer=provider,stopped_by=body}", &[2.0]),
            ("calls_total{layer=provider,stopped_by=budget}", &[1.0]),
            ("passed_total{because=body,layer=provider}", &[2.0]),
            ("passed_total{because=budget,layer=provider}", &[1.0]),
        ])
    );
}

fn with_runtime<T>(make: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async { make() })
}
