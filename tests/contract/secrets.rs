//! Keys, bodies and principals are the client's. Nothing that people or logs read repeats them.

use std::{cell::RefCell, fmt::Debug, io, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use steadfast::{
    http::{body::CapturedBody, problem::Problem},
    idempotency::{
        IdempotencyConfig, IdempotencyLayer, Operation, Outcome,
        scope::{self, Principal, Scope},
    },
    store::{Incident, MemoryStore},
};
use steadfast_testkit::faults::{FOREVER, FaultyStore, Method};
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
    let config = || IdempotencyConfig::default().with_completion_wait(std::time::Duration::ZERO);
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
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(ANSWER)))
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
    // For every test of this process: a subscriber of one thread would miss what another thread has seen first. What a thread
    // logs stays with it.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(Logs)
        .init();

    for layer in layers() {
        every_way_to_end(&layer).await;
        // An answer that the store does not take is tried again and again.
        layer
            .handle()
            .drain(std::time::Duration::from_secs(3_600))
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
            Ok::<_, std::convert::Infallible>(answer)
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
