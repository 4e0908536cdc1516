//! What the log tells, and in which form.

use std::{io::Write, net::TcpStream};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    program::{Program, eventually},
    provider::Provider,
};

const FREE_PORTS: [(&str, &str); 2] = [
    ("PAYMENTS_LISTEN", "127.0.0.1:0"),
    ("PAYMENTS_PROVIDER_LISTEN", "127.0.0.1:0"),
];

/// Each line as JSON, which each must be.
fn lines(program: &Program) -> Vec<Value> {
    let logs = program.logs();
    let parsed = logs.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for member in ["timestamp", "level", "target", "message"] {
            assert!(value[member].is_string(), "no {member} in {line}");
        }
        value
    });
    parsed.collect()
}

/// The lines of one request.
fn of_request(program: &Program, id: &str) -> Vec<Value> {
    let mut lines = lines(program);
    lines.retain(|line| line["request_id"] == id);
    lines
}

fn with_message<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["message"] == message);
    found.unwrap_or_else(|| panic!("no {message:?} in {lines:?}"))
}

#[tokio::test]
async fn a_request_can_be_followed_by_its_id() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--log-format", "json"]).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    provider.faults(&json!({"mode": "down", "count": 1})).await;
    let charge = client.post().header("idempotency-key", "k");
    let charge = charge.header("x-request-id", "proxy-1");

    let first = client.send(charge.json(&of_amount(5))).await.unwrap();
    let again = client.charge("k", &of_amount(5)).await;

    assert_eq!(first.header("x-request-id"), Some("proxy-1"));
    let executed = of_request(&program, "proxy-1");
    for line in &executed {
        assert_eq!(
            (&line["method"], &line["route"]),
            (&json!("POST"), &json!("/v1/charges"))
        );
    }
    assert_eq!(
        with_message(&executed, "retrying")["retry"],
        "card-provider"
    );
    let charged = with_message(&executed, "charged");
    assert_eq!(charged["charge"], first.json()["id"]);
    assert_eq!(charged["idempotency.execution"], 1);
    let outcome = with_message(&executed, "idempotency");
    assert_eq!(outcome["idempotency.outcome"], "executed");
    let key = outcome["idempotency.key"].as_str().unwrap();
    assert_eq!(key.len(), 8, "{key}");
    let answered = with_message(&executed, "answered");
    assert_eq!(
        (&answered["status"], &answered["replayed"]),
        (&json!(201), &json!(false))
    );
    assert!(answered["took_us"].is_u64(), "{answered}");

    let id = again.header("x-request-id").unwrap();
    assert_ne!(id, "proxy-1");
    let replayed = of_request(&program, id);
    let outcome = with_message(&replayed, "idempotency");
    assert_eq!(outcome["idempotency.outcome"], "replayed");
    assert_eq!(outcome["idempotency.key"], key, "the operation is the same");
    assert_eq!(with_message(&replayed, "answered")["replayed"], true);
}

#[tokio::test]
async fn the_charge_of_a_client_that_left_can_be_followed_too() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--log-format", "json"]).await;
    let provider = Provider::new(program.provider_url());
    let slow = json!({"mode": "slow", "latency_ms": 1000, "count": 1});
    provider.faults(&slow).await;

    let address = program.api().strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "POST /v1/charges HTTP/1.1\r\nhost: payments\r\nauthorization: Bearer sk_test\r\nidempotency-key: k\r\n\
         x-request-id: gone-1\r\ncontent-length: 32\r\n\r\n{{\"amount\": 5, \"currency\": \"usd\"}}"
    )
    .unwrap();
    provider.called(1).await;
    drop(connection);

    let messages = eventually("the outcome of the charge", async || {
        let lines = of_request(&program, "gone-1");
        let messages: Vec<String> = lines
            .iter()
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect();
        messages
            .contains(&"idempotency".to_owned())
            .then_some(messages)
    })
    .await;
    assert_eq!(messages, ["the client has left", "charged", "idempotency"]);
}

#[tokio::test]
async fn what_made_an_error_is_in_its_line() {
    let folder = tempdir().unwrap();
    let provider = Program::provider(folder.path()).await;
    let url = provider.provider_url().to_owned();
    let arguments = ["--provider-url", &url, "--log-format", "json"];
    let program = Program::serve(folder.path(), &arguments).await;
    provider.kill();

    Client::new(program.api()).charge("k", &of_amount(1)).await;

    let lines = lines(&program);
    let failed = with_message(&lines, "no answer from the provider");
    assert_eq!(failed["error"], "the provider gave no answer");
    let sources = failed["error.sources"].as_array().unwrap();
    let refused = sources.last().unwrap().as_str().unwrap();
    assert!(refused.contains("refused"), "{sources:?}");
}

/// A field that is a number here and a text there is one that a store of logs refuses.
#[tokio::test]
async fn a_time_is_a_number_wherever_it_stands() {
    let folder = tempdir().unwrap();
    let arguments = ["--log-format", "json", "--breaker-failures", "1"];
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    provider.faults(&json!({"mode": "down"})).await;

    client.charge("a", &of_amount(1)).await;
    client.charge("b", &of_amount(1)).await;

    let lines = lines(&program);
    with_message(&lines, "the provider is left alone");
    let times = lines.iter().filter_map(|line| line.get("took_us"));
    assert!(times.clone().count() > 2, "{lines:?}");
    for time in times {
        assert!(time.is_u64(), "{time}");
    }
}

#[tokio::test]
async fn the_text_tells_the_same() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &[]).await;
    let client = Client::new(program.api());

    let first = client.charge("k", &of_amount(5)).await;

    let id = first.header("x-request-id").unwrap();
    let logs = program.logs();
    let span = format!("request{{method=\"POST\" route=\"/v1/charges\" request_id=\"{id}\"}}");
    let lines: Vec<&str> = logs.lines().filter(|line| line.contains(&span)).collect();
    for piece in [
        "idempotency.outcome=\"executed\"",
        "charged charge=\"ch_",
        "answered status=201 replayed=false took_us=",
    ] {
        let found = lines.iter().filter(|line| line.contains(piece)).count();
        assert_eq!(found, 1, "{piece}: {logs}");
    }
}

#[tokio::test]
async fn the_environment_names_the_format_and_rust_log_the_levels() {
    let folder = tempdir().unwrap();
    let variables = |more: &[(&'static str, &'static str)]| [&FREE_PORTS, more].concat();
    let json = ("PAYMENTS_LOG_FORMAT", "json");
    let quiet = variables(&[json, ("RUST_LOG", "warn")]);
    let misread = variables(&[json, ("RUST_LOG", "payments=loud")]);

    let quiet = Program::run(folder.path(), &["serve"], &quiet).await;
    let misread = Program::run(folder.path(), &["serve"], &misread).await;
    for program in [&quiet, &misread] {
        let client = Client::new(program.api());
        assert_eq!(client.charge("k", &of_amount(1)).await.status, 201);
    }

    assert_eq!(lines(&quiet), [Value::Null; 0]);
    let misread = lines(&misread);
    let warning = with_message(&misread, "RUST_LOG is not understood; the default is used");
    assert_eq!(warning["level"], "WARN");
    with_message(&misread, "answered");
}

/// Scrapers and load balancers ask every few seconds.
#[tokio::test]
async fn machines_that_ask_all_the_time_are_not_worth_a_line() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--log-format", "json"]).await;
    let client = Client::new(program.api());

    for path in ["/healthz", "/metrics", "/nothing"] {
        client.send(client.bare("GET", path)).await.unwrap();
    }

    let lines = lines(&program);
    let routes: Vec<&Value> = lines.iter().map(|line| &line["route"]).collect();
    assert_eq!(routes, ["unmatched"]);
}
