//! A client that nobody here wrote: Python's grpcio, which is gRPC's own C core.

use std::{
    collections::BTreeSet,
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use prost::Message;
use serde_json::{Value, json};
use steadfast::{idempotency::Promise, store::MemoryStore};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    client::{connect, create, keyed, order},
    config,
    fleeting::{self, DATE},
    memory,
    shop::{CREATE, Charges, Receipt, Shop, serve},
};
use crate::support::{layer, until_done, within};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compose/grpc/foreign.py");

/// Where `cargo xtask test` puts an interpreter with grpcio if the machine has none.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python3");

/// Names an interpreter; no other is tried then.
const NAMED: &str = "STEADFAST_TEST_PYTHON";

/// An interpreter that has grpcio.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        if let Some(named) = env::var_os(NAMED).map(PathBuf::from) {
            assert!(
                has_grpc(&named),
                "{NAMED} is {}, which cannot `import grpc`: install grpcio for it, or name another",
                named.display()
            );
            return named;
        }
        let known = [OWN, "python3", "/usr/bin/python3"].map(PathBuf::from);
        known.into_iter().find(has_grpc).unwrap_or_else(|| {
            panic!(
                "there is no Python with grpcio: run `cargo xtask test`, which makes one, or name yours in {NAMED}"
            )
        })
    })
}

fn has_grpc(python: &PathBuf) -> bool {
    std::process::Command::new(python)
        .args(["-c", "import grpc"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A running client.
struct Foreign {
    calls: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Foreign {
    /// One that tries calls again as `retries` says, in the words of gRPC's service config.
    fn start(address: SocketAddr, retries: &Value) -> Self {
        let config = json!({ "methodConfig": [{ "name": [{}], "retryPolicy": retries }] });
        let mut child = Command::new(python())
            .args([SCRIPT, &address.to_string(), &config.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            calls: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        }
    }

    async fn create(&mut self, key: Option<&str>, wish: &str) -> Value {
        let message: String = order(wish)
            .encode_to_vec()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let metadata: Vec<_> = key
            .map(|key| ["idempotency-key", key])
            .into_iter()
            .collect();
        let call =
            json!({ "method": CREATE, "message": message, "metadata": metadata, "timeout": 30 });
        let line = format!("{call}\n");
        self.calls.write_all(line.as_bytes()).await.unwrap();
        let answer = within(self.answers.next_line()).await.unwrap();
        serde_json::from_str(&answer.expect("the client ended")).unwrap()
    }
}

fn no_retries() -> Value {
    json!({ "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["DATA_LOSS"] })
}

fn value<'a>(answer: &'a Value, part: &str, name: &str) -> Option<&'a str> {
    let pairs = answer[part].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair[0] == name)?;
    pair[1].as_str()
}

fn receipt(answer: &Value) -> Receipt {
    let hex = answer["message"].as_str().unwrap();
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    Receipt::decode(&*bytes).unwrap()
}

/// What gRPC's C core keeps to itself.
const HIDDEN: [&str; 4] = [
    "endpoint-load-metrics-bin",
    "grpc-server-stats-bin",
    "grpc-tags-bin",
    "grpc-trace-bin",
];

/// Takes out what may tell two answers apart: the marker, and what is never stored, of which it says what was there in which part.
fn take_difference(answer: &mut Value) -> (Option<String>, BTreeSet<(String, String)>) {
    let (mut marker, mut fleeting) = (None, BTreeSet::new());
    for part in ["initial", "trailing"] {
        let pairs = answer[part].as_array_mut().unwrap();
        pairs.retain(|pair| {
            let (name, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            if name == "idempotent-replayed" {
                marker = Some(value.to_owned());
            } else if fleeting::names().contains(name) {
                fleeting.insert((part.to_owned(), name.to_owned()));
            } else {
                return true;
            }
            false
        });
    }
    (marker, fleeting)
}

#[tokio::test]
async fn it_tells_a_replay_from_the_first_answer_by_the_marker_and_what_is_never_stored() {
    // Trailers-Only is all trailing to Python.
    let message = ("", "OK", &["initial", "trailing"][..]);
    let failure = ("fail 9", "FAILED_PRECONDITION", &["trailing"][..]);
    let pair = |part: &str, name: &str| (part.to_owned(), name.to_owned());
    for promise in crate::support::PROMISES {
        let shop = Shop::open();
        let address = serve(Charges::fleeting(shop.clone()), memory(promise)).await;
        let mut foreign = Foreign::start(address, &no_retries());

        for (run, (wish, code, parts)) in (1..).zip([message, failure]) {
            let mut first = foreign.create(Some(code), wish).await;
            let mut again = foreign.create(Some(code), wish).await;

            let (marker, lost) = take_difference(&mut first);
            assert_eq!(marker.as_deref(), Some("false"), "{first}");
            let told = fleeting::names();
            let told = told.iter().filter(|name| !HIDDEN.contains(name));
            let told = told.flat_map(|name| parts.iter().map(|part| pair(part, name)));
            assert_eq!(lost, told.collect());
            let (marker, added) = take_difference(&mut again);
            assert_eq!(marker.as_deref(), Some("true"), "{again}");
            assert_eq!(added, [pair(parts[0], DATE)].into());

            assert_eq!(first["code"], code);
            assert_eq!(first, again);
            assert_eq!(shop.runs(), run);
        }
    }
}

#[tokio::test]
async fn it_reads_messages_details_and_metadata() {
    let shop = Shop::open();
    let address = serve(Charges::new(shop), memory(Promise::AtMostOnce)).await;
    let mut foreign = Foreign::start(address, &no_retries());

    for _ in 0..2 {
        let charge = foreign.create(Some("a"), "").await;
        assert_eq!(receipt(&charge).amount, 42);
        assert_eq!(value(&charge, "initial", "x-raw-bin"), Some("00ff"));
        let failure = foreign.create(Some("b"), "fail 9").await;
        assert_eq!(failure["details"], "50 % caf\u{e9} is closed");
        assert_eq!(value(&failure, "trailing", "x-hint"), Some("ask again"));
        let details = value(&failure, "trailing", "grpc-status-details-bin");
        assert_eq!(details, Some("080564657461696c73"));
    }
    let refused = foreign.create(None, "").await;
    assert_eq!(refused["code"], "INVALID_ARGUMENT");
    assert_eq!(
        refused["error_info"],
        json!({ "reason": "MISSING_KEY", "domain": "steadfast", "metadata": { "retryable": "false" } })
    );
    assert!(
        refused["details"]
            .as_str()
            .unwrap()
            .contains("Idempotency-Key")
    );
}

#[tokio::test]
async fn its_retries_heed_the_pushback_until_the_answer_is_there() {
    let shop = Shop::shut();
    let config = config()
        .with_wait(Duration::ZERO)
        .with_retry_after(Duration::from_millis(150));
    let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
    let address = serve(Charges::new(shop.clone()), layer).await;
    let channel = connect(address).await;
    let first = tokio::spawn(async move { create(&channel, keyed("k", "")).await });
    shop.until_started(1).await;
    let retries = json!({ "maxAttempts": 5, "initialBackoff": "60s", "maxBackoff": "60s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"] });
    let mut foreign = Foreign::start(address, &retries);

    let before = shop.calls();
    let (answer, ()) = tokio::join!(foreign.create(Some("k"), ""), async {
        shop.until_called(before + 2).await;
        shop.open_door();
    });

    // Its own backoff would have let its deadline of 30 s pass.
    assert_eq!(answer["code"], "OK", "{answer}");
    assert_eq!(
        value(&answer, "initial", "idempotent-replayed"),
        Some("true")
    );
    assert_eq!(receipt(&answer).run, 1);
    first.await.unwrap().unwrap();
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn it_does_not_try_again_what_may_not_be_tried_again() {
    let shop = Shop::open();
    let layer = memory(Promise::AtMostOnce);
    let handle = layer.handle();
    let address = serve(Charges::new(shop.clone()), layer).await;
    let retries = json!({ "maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["FAILED_PRECONDITION"] });
    let mut foreign = Foreign::start(address, &retries);
    assert_eq!(
        foreign.create(Some("k"), "fail 13").await["code"],
        "INTERNAL"
    );
    until_done(&handle).await;
    let before = shop.calls();

    let lost = foreign.create(Some("k"), "fail 13").await;

    assert_eq!(lost["code"], "FAILED_PRECONDITION", "{lost}");
    assert_eq!(lost["error_info"]["reason"], "OUTCOME_UNKNOWN");
    assert_eq!(shop.calls(), before + 1);
    assert_eq!(shop.runs(), 1);
}
