//! Keys, bodies and principals are the client's. Nothing that people or logs read repeats them.

use std::{
    cell::RefCell,
    convert::Infallible,
    fmt::Debug,
    io,
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use steadfast::{
    circuit_breaker::{BreakerConfig, BreakerRegistry, CircuitBreakerLayer, Rejected, When},
    client_metrics::ClientMetricsLayer,
    core::verdict::{Cause, Failure, SafetyClass, Verdict},
    http::{
        body::{CapturedBody, ReplayBody},
        problem::Problem,
    },
    idempotency::{
        IdempotencyConfig, IdempotencyLayer, Operation, Outcome,
        scope::{self, Principal, Scope},
    },
    retry::{
        Backoff, Budget, IdempotencyKeyLayer, Jitter, Policy, RetryConfig, RetryLayer,
        RetryOutcome, StoppedBy,
    },
    store::{Incident, MemoryStore},
};
use steadfast_testkit::faults::{FOREVER, FaultyStore, Method};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

use crate::support::{Count, marker};

const KEY: &str = "key-of-the-client-8c1f";
const TOKEN: &str = "sk_live_token-51bd";
const BODY: &str = "card=4242424242424242";
const ANSWER: &str = "secret-of-the-answer";
const COOKIE: &str = "session-cookie-77aa";

fn request() -> Request<Full<Bytes>> {
    Request::post("/charges")
        .header("idempotency-key", KEY)
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::COOKIE, COOKIE)
        .body(Full::from(BODY))
        .unwrap()
}

/// Fails if the text repeats anything of the client's. Numbers may stand for bytes: a derived `Debug` of a byte string counts.
fn assert_quiet(what: &str, text: &str) {
    let bytes = format!("{:?}", KEY.as_bytes());
    let bytes = bytes.trim_matches(['[', ']']);
    for secret in [KEY, TOKEN, BODY, "4242424242424242", ANSWER, COOKIE, bytes] {
        assert!(!text.contains(secret), "{what} repeats {secret}: {text}");
    }
}

fn assert_debug_is_quiet(what: &str, value: &impl Debug) {
    assert_quiet(what, &format!("{value:?}"));
    assert_quiet(what, &format!("{value:#?}"));
}

type Store = FaultyStore<MemoryStore>;

fn layers() -> Vec<IdempotencyLayer<Store>> {
    let store = || FaultyStore::new(MemoryStore::default());
    let config = || IdempotencyConfig::default().with_completion_wait(Duration::ZERO);
    vec![
        IdempotencyLayer::at_most_once(store(), scope::bearer_token())
            .unwrap()
            .with_config(config())
            .unwrap(),
        IdempotencyLayer::at_least_once(store(), scope::bearer_token())
            .unwrap()
            .with_config(config())
            .unwrap()
            .with_fingerprint(|_, body| body.to_vec()),
    ]
}

#[tokio::test(start_paused = true)]
async fn debug_output_repeats_nothing_of_the_client() {
    for layer in layers() {
        let gate = layer
            .handle()
            .store()
            .faults()
            .on(Method::Begin)
            .hold_before(1);
        let service = layer.layer(service_fn(async |request: Request<CapturedBody<_>>| {
            assert_debug_is_quiet("captured body", request.body());
            let operation = request.extensions().get::<Operation>().unwrap();
            assert_debug_is_quiet("operation", operation);
            assert_eq!(longest_hexadecimal(&format!("{operation:?}")), 8);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(ANSWER)))
        }));

        let mut call = Box::pin(service.clone().call(request()));
        assert_debug_is_quiet("future", &call);
        tokio::select! {
            biased;
            _ = &mut call => panic!("the gate let it through"),
            () = gate.reached() => {}
        }
        assert_debug_is_quiet("future under way", &call);
        gate.open();
        let answer = call.await.unwrap();
        assert_debug_is_quiet("answer", answer.body());
        let replay = service.clone().oneshot(request()).await.unwrap();
        assert_eq!(marker(replay.headers()), Some("true"));
        assert_debug_is_quiet("replay", replay.body());

        assert_debug_is_quiet("layer", &layer);
        assert_debug_is_quiet("service", &layer.layer("a service"));
        assert_debug_is_quiet("handle", &layer.handle());
        assert_debug_is_quiet("store", layer.handle().store());
    }
}

#[test]
fn a_principal_is_not_shown() {
    let parts = request().into_parts().0;
    let by_token = scope::bearer_token();
    let by_extension = scope::from_extension(|account: &String| account.as_str());

    assert_debug_is_quiet("principal", &by_token.principal(&parts).unwrap());
    assert_debug_is_quiet("principal", &Principal::named(TOKEN));
    assert_debug_is_quiet("scope", &by_token);
    assert_debug_is_quiet("scope", &by_extension);
    assert_debug_is_quiet("refusal", &by_extension.principal(&parts).unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn refusals_and_logs_repeat_nothing_of_the_client() {
    listen();

    for layer in layers() {
        every_way_to_end(&layer).await;
        // An answer that the store does not take is tried again and again.
        layer
            .handle()
            .drain(Duration::from_secs(3_600))
            .await
            .unwrap();
        for incident in layer.handle().list_indeterminate(10).await.unwrap() {
            assert_debug_is_quiet("incident", &incident);
            assert_debug_is_quiet("incident", &Incident::from(&incident));
        }
    }

    let logs = Logs::of_this_thread();
    assert_quiet("a log", &logs);
    for ending in [
        "executed",
        "replayed",
        "conflict",
        "malformed_key",
        "missing_key",
        "unauthorized",
        "store_unavailable",
        "released",
        "abandoned",
        "panicked",
        "unstored",
    ] {
        assert!(logs.contains(ending), "nothing {ending} was logged");
    }
    assert_eq!(longest_hexadecimal(&logs), 8);
}

/// Asks for each kind of end under the same key, as far as one key can have them.
async fn every_way_to_end(layer: &IdempotencyLayer<Store>) {
    let store = layer.handle().store().clone();
    let nth = Arc::new(Count::default());
    let service = layer.layer(service_fn(move |_| {
        let nth = nth.add();
        async move {
            let mut answer = Response::new(Full::<Bytes>::from(ANSWER));
            match nth {
                1 => _ = answer.extensions_mut().insert(Outcome::Release),
                3 => *answer.status_mut() = StatusCode::BAD_GATEWAY,
                4 => panic!("deliberate"),
                _ => {}
            }
            Ok::<_, Infallible>(answer)
        }
    }));
    let send = async |request: Request<Full<Bytes>>| {
        let answer = tokio::spawn(service.clone().oneshot(request)).await;
        let Ok(Ok(answer)) = answer else {
            return;
        };
        if let Some(problem) = answer.extensions().get::<Problem>() {
            assert_debug_is_quiet("problem", problem);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_quiet("refusal", std::str::from_utf8(&body).unwrap());
        }
    };
    let keyed = |key: &str| {
        let mut request = request();
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().unwrap());
        request
    };

    send(request()).await; // released
    send(request()).await; // executed
    send(request()).await; // replayed
    send(request().map(|_| Full::from(format!("{BODY}&more")))).await; // another request
    send(keyed(&format!("{KEY}-3"))).await; // 502
    send(keyed(&format!("{KEY}-4"))).await; // panic
    send(keyed(&format!("{KEY} malformed"))).await;
    send(keyed(&format!("\"{KEY}"))).await;
    let mut two = request();
    two.headers_mut()
        .append("idempotency-key", KEY.parse().unwrap());
    send(two).await;
    let mut none = request();
    none.headers_mut().remove("idempotency-key");
    send(none).await;
    let mut anonymous = request();
    anonymous
        .headers_mut()
        .insert(header::AUTHORIZATION, TOKEN.parse().unwrap());
    send(anonymous).await;

    let _ = store.faults().on(Method::Begin).fail_unsent(1);
    send(keyed(&format!("{KEY}-5"))).await;
    let _ = store.faults().on(Method::Complete).lose_request(FOREVER);
    send(keyed(&format!("{KEY}-6"))).await;
}

/// The layers of a client, around each other: the outer one names the operation by `KEY` where nobody else has.
fn client(config: RetryConfig) -> (IdempotencyKeyLayer, RetryLayer) {
    let keys = IdempotencyKeyLayer::new().with_source(|_| Some(HeaderValue::from_static(KEY)));
    let retries = RetryLayer::http().with_config(config).unwrap();
    (keys, retries)
}

fn at_once() -> RetryConfig {
    RetryConfig::default().with_backoff(Backoff::constant(Duration::ZERO).with_jitter(Jitter::None))
}

fn without_key() -> Request<Full<Bytes>> {
    let mut request = request();
    request.headers_mut().remove("idempotency-key");
    request
}

/// Fails at the first attempt.
fn answers(nth: &Count) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(ANSWER));
    if nth.add() == 1 {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let cookie = HeaderValue::from_static(COOKIE);
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    answer
}

#[tokio::test(start_paused = true)]
async fn debug_output_of_a_client_repeats_nothing_of_its_requests() {
    let limited = at_once().with_deadline(Duration::from_secs(60));
    for (config, attempts) in [
        (at_once(), 2),
        (limited, 2),
        (at_once().with_max_attempts(1), 1),
    ] {
        let (keys, retries) = client(config);
        let nth = Arc::new(Count::default());
        let counted = Arc::clone(&nth);
        let within = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
            let nth = Arc::clone(&counted);
            async move {
                assert_eq!(request.headers()["idempotency-key"], KEY);
                let mut body = request.into_body();
                assert_debug_is_quiet("body", &body);
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), BODY);
                assert_debug_is_quiet("body that was read", &body);
                sleep(Duration::from_millis(1)).await;
                Ok::<_, Infallible>(answers(&nth))
            }
        });
        let mut service = keys.layer(retries.layer(within));

        let mut call = Box::pin(service.ready().await.unwrap().call(without_key()));
        assert_debug_is_quiet("future", &call);
        let answer = loop {
            match timeout(Duration::from_micros(100), &mut call).await {
                Ok(answer) => break answer.unwrap(),
                Err(_) => assert_debug_is_quiet("future under way", &call),
            }
        };
        assert_eq!(nth.get(), attempts);
        assert_debug_is_quiet("answer", answer.body());
        assert_debug_is_quiet("outcome", &RetryOutcome::of(answer.extensions()));

        assert_debug_is_quiet("layer of keys", &keys);
        assert_debug_is_quiet("layer of retries", &retries);
        assert_debug_is_quiet("service", &keys.layer(retries.layer("a service")));
    }
}

#[tokio::test(start_paused = true)]
async fn debug_output_of_a_policys_layer_repeats_no_request() {
    struct Cards(&'static str);

    impl Policy<String, String, Infallible> for Cards {
        fn copy(&self, request: &String) -> Option<String> {
            Some(request.clone())
        }

        fn verdict(&self, _: Result<&String, &Infallible>) -> Verdict {
            assert_eq!(self.0, TOKEN);
            Failure::new(SafetyClass::NotProcessed, Cause::Fault).into()
        }
    }

    let layer = RetryLayer::new(Cards(TOKEN))
        .with_config(at_once())
        .unwrap();
    let within = service_fn(async |card: String| {
        assert_eq!(card, BODY);
        sleep(Duration::from_millis(1)).await;
        Ok::<_, Infallible>(ANSWER.to_owned())
    });

    let mut call = Box::pin(layer.layer(within).call(BODY.to_owned()));
    assert_debug_is_quiet("future", &call);
    while timeout(Duration::from_micros(100), &mut call)
        .await
        .is_err()
    {
        assert_debug_is_quiet("future under way", &call);
    }
    assert_debug_is_quiet("layer", &layer);
    assert_debug_is_quiet("service", &layer.layer("a service"));
}

#[tokio::test(start_paused = true)]
async fn refusals_and_logs_of_a_client_repeat_nothing_of_its_requests() {
    listen();
    let short = Duration::from_millis(5);

    for config in [
        at_once(),
        at_once().with_max_attempts(1),
        at_once().with_max_attempts(2),
        at_once().with_replay_limit(3),
        at_once().with_attempt_timeout(short),
        at_once().with_deadline(short),
    ] {
        let (keys, retries) = client(config);
        for retries in [retries.clone().without_budget(), broke(retries)] {
            for pause in [Duration::ZERO, short * 2] {
                every_attempt_fails(&keys, &retries, pause).await;
            }
        }
    }

    let logs = Logs::of_this_thread();
    assert_quiet("a log", &logs);
    for stopped_by in [
        StoppedBy::Success,
        StoppedBy::Permanent,
        StoppedBy::NotIdempotent,
        StoppedBy::Attempts,
        StoppedBy::Deadline,
        StoppedBy::Budget,
    ] {
        let word = format!("stopped_by={:?}", stopped_by.as_str());
        assert!(logs.contains(&word), "nothing with {word} was logged");
    }
    assert!(logs.contains("retrying"));
    assert!(logs.contains("attempt{http.request.resend_count=1}"));
}

#[tokio::test(start_paused = true)]
async fn a_breakers_debug_output_rejections_and_logs_repeat_nothing_of_requests() {
    listen();
    for when in [When::Head, When::End] {
        let registry = BreakerRegistry::per_destination(BreakerConfig::default()).unwrap();
        let layer = CircuitBreakerLayer::http(registry.clone()).with_outcome_at(when);
        let service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
            sleep(Duration::from_millis(1)).await;
            let mut answer = Response::new(Full::<Bytes>::from(ANSWER));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            Ok::<_, Infallible>(answer)
        }));
        // The secrets of a URI are in its user, its path and its query.
        let request = || {
            let mut request = request();
            let uri = format!("http://user:{TOKEN}@bank.test/{KEY}?cookie={COOKIE}");
            *request.uri_mut() = uri.parse().unwrap();
            request
        };

        for n in 0..6 {
            let mut call = Box::pin(service.clone().call(request()));
            assert_debug_is_quiet("future", &call);
            let answer = loop {
                match timeout(Duration::from_micros(100), &mut call).await {
                    Ok(answer) => break answer.unwrap(),
                    Err(_) => assert_debug_is_quiet("future under way", &call),
                }
            };
            assert_debug_is_quiet("body", answer.body());
            let rejected = answer.extensions().get::<Rejected>();
            assert_eq!(rejected.is_some(), n == 5);
            assert_debug_is_quiet("rejection", &rejected);
            if let Some(rejected) = rejected {
                assert_quiet("rejection", &rejected.to_string());
                assert_debug_is_quiet("headers", answer.headers());
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                assert_quiet("refusal", std::str::from_utf8(&body).unwrap());
            }
        }

        assert_debug_is_quiet("layer", &layer);
        assert_debug_is_quiet("service", &layer.layer("a service"));
        assert_debug_is_quiet("registry", &registry);
        for (key, breaker) in registry.breakers() {
            assert_debug_is_quiet("key", &key);
            assert_quiet("key", &key.to_string());
            assert_debug_is_quiet("breaker", &breaker);
            assert_quiet("name", breaker.name());
        }
    }

    let logs = Logs::of_this_thread();
    assert_quiet("a log", &logs);
    assert!(logs.contains("bank.test"), "nothing was logged");
}

#[tokio::test(start_paused = true)]
async fn debug_output_of_client_metrics_repeats_nothing_of_requests() {
    let layer = ClientMetricsLayer::new();
    let mut service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, Infallible>(Response::new(()))
    }));
    let mut request = request();
    let uri = format!("http://user:{TOKEN}@bank.test/{KEY}?cookie={COOKIE}");
    *request.uri_mut() = uri.parse().unwrap();

    let mut call = Box::pin(service.call(request));
    assert_debug_is_quiet("future", &call);
    assert!(timeout(Duration::from_millis(1), &mut call).await.is_err());
    assert_debug_is_quiet("future under way", &call);
    call.await.unwrap();

    assert_debug_is_quiet("layer", &layer);
    assert_debug_is_quiet("service", &layer.layer("a service"));
}

/// Whose budget has nothing left when an attempt has ended.
fn broke(layer: RetryLayer) -> RetryLayer {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let drained = Arc::clone(&budget);
    layer.with_budget(budget).with_classifier(move |attempted| {
        while drained.withdraw(Instant::now().into_std()).is_some() {}
        attempted.verdict()
    })
}

/// With each kind of failure, and each kind of request.
async fn every_attempt_fails(keys: &IdempotencyKeyLayer, retries: &RetryLayer, pause: Duration) {
    for status in [200, 425, 429, 501, 503] {
        let service = || {
            let nth = Arc::new(Count::default());
            retries.layer(service_fn(
                move |request: Request<ReplayBody<Full<Bytes>>>| {
                    let nth = Arc::clone(&nth);
                    async move {
                        let _ = request.into_body().collect().await;
                        sleep(pause).await;
                        let mut answer = answers(&nth);
                        if nth.get() > 1 {
                            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                        }
                        Ok::<_, Infallible>(answer)
                    }
                },
            ))
        };
        for request in [request(), without_key()] {
            let bare = service().oneshot(request.clone()).await.unwrap();
            let named = keys.layer(service()).oneshot(request).await.unwrap();
            for answer in [bare, named] {
                if let Some(problem) = answer.extensions().get::<Problem>() {
                    assert_debug_is_quiet("problem", problem);
                    let (_, body) = answer.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    assert_quiet("refusal", std::str::from_utf8(&body).unwrap());
                }
            }
        }
    }
}

/// From now on every thread of this process logs, to a log of its own: a subscriber of one thread would miss what another thread has
/// seen first.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(Logs)
            .init();
    });
}

/// The longest run of hexadecimal digits that could be a part of a digest: with a letter and a digit in it.
fn longest_hexadecimal(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .filter(|run| run.contains(|c: char| c.is_ascii_digit()))
        .filter(|run| run.contains(|c: char| c.is_ascii_alphabetic()))
        .map(str::len)
        .max()
        .unwrap_or(0)
}

struct Logs;

thread_local! {
    static LOGS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Logs {
    fn of_this_thread() -> String {
        LOGS.with_borrow(|logs| String::from_utf8(logs.clone()).unwrap())
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGS.with_borrow_mut(|logs| logs.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
