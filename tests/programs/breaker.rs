//! The circuit breaker around the provider: it opens, refuses, probes and closes, and every key that was refused can still pay.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse, routing::post};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    client::{Answer, Client, of_amount},
    in_process::{charge, problem, send, serve_provider, stage_of},
    program::{Program, eventually},
    provider::Provider,
};

/// An API, and a provider in another process.
struct Stage {
    program: Program,
    client: Client,
    provider: Provider,
    provider_program: Program,
    // Last, so that the programs have ended before their folder goes.
    folder: TempDir,
}

/// A call of the API is a call of the provider, and two failures open the circuit.
const SMALL: [&str; 4] = ["--provider-attempts", "1", "--breaker-failures", "2"];

async fn stage(arguments: &[&str]) -> Stage {
    let folder = tempdir().unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let url = provider_program.provider_url();
    let program = serve(folder.path(), url, arguments).await;
    Stage {
        client: Client::new(program.api()),
        provider: Provider::new(url),
        program,
        provider_program,
        folder,
    }
}

async fn serve(folder: &Path, provider: &str, arguments: &[&str]) -> Program {
    let arguments = [&["--provider-url", provider], arguments].concat();
    Program::serve(folder, &arguments).await
}

impl Stage {
    /// What the health check says of the breaker.
    async fn breaker(&self) -> String {
        let health = self.client.send(self.client.bare("GET", "/healthz")).await;
        let health = health.unwrap();
        assert_eq!(health.status, 200);
        let body = health.json();
        assert_eq!(body["status"], "ok", "{body}");
        body["breaker"].as_str().unwrap().to_owned()
    }

    /// Fails calls, each with a key of its own, until so many have been made.
    async fn fail(&self, calls: u64) {
        for number in 0..calls {
            let key = format!("failed-{number}");
            let answer = self.client.charge(&key, &of_amount(1)).await;
            assert_eq!(answer.problem(), (503, "provider-unavailable".into()));
        }
        assert_eq!(self.provider.ledger().await.calls, calls);
    }
}

/// Where the codes of all refusals are explained.
const LIST: &str = "https://docs.rs/steadfast/latest/steadfast/problems/";

/// Asserts that the circuit refused, and returns the seconds after which the client may come back.
fn refused(answer: &Answer) -> u64 {
    assert_eq!(answer.problem(), (503, "circuit-open".into()), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["retryable"], true);
    assert_eq!(problem["type"], format!("{LIST}#circuit-open"));
    assert_eq!(
        answer.replayed(),
        Some(false),
        "an unknown outcome is not an answer"
    );
    answer.header("retry-after").unwrap().parse().unwrap()
}

/// With the defaults, over real processes: two charges of three attempts each make five failures and open it.
#[tokio::test]
async fn five_failures_in_a_row_open_it_and_nobody_calls_while_it_is_open() {
    let stage = stage(&[]).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    assert_eq!(stage.breaker().await, "closed");

    let first = stage.client.charge("a", &of_amount(1)).await;
    assert_eq!(first.problem(), (503, "provider-unavailable".into()));
    assert_eq!(first.header("retry-after"), Some("1"));
    assert_eq!(stage.breaker().await, "closed");
    let second = stage.client.charge("b", &of_amount(2)).await;

    assert_eq!(stage.breaker().await, "open");
    assert_eq!(stage.provider.ledger().await.calls, 5);
    assert!((29..=33).contains(&refused(&second)), "{second:?}");
    let mut crowd = JoinSet::new();
    for number in 0..20 {
        let client = stage.client.clone();
        crowd.spawn(async move { client.charge(&format!("k-{number}"), &of_amount(3)).await });
    }
    for answer in crowd.join_all().await {
        assert!((1..=33).contains(&refused(&answer)), "{answer:?}");
    }
    assert_eq!(stage.provider.ledger().await.calls, 5);

    // The provider is back, and is left alone all the same.
    stage.provider.faults(&json!({"mode": "ok"})).await;
    refused(&stage.client.charge("a", &of_amount(1)).await);
    assert_eq!(stage.provider.ledger().await.calls, 5);
    let log = stage.program.logs();
    let opened: Vec<_> = log
        .lines()
        .filter(|line| line.contains("circuit opened"))
        .collect();
    assert_eq!(opened.len(), 1, "{log}");
    for piece in [r#"breaker="card-provider""#, r#"to="open""#, "failures=5"] {
        assert!(opened[0].contains(piece), "{piece}: {opened:?}");
    }
}

#[tokio::test]
async fn after_the_open_time_probes_close_it_and_every_refused_key_is_charged_once() {
    let successes = [
        &SMALL[..],
        &["--breaker-open", "3s", "--breaker-successes", "2"],
    ]
    .concat();
    let stage = stage(&successes).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    stage.fail(2).await;
    let keys: Vec<String> = (0..8).map(|number| format!("refused-{number}")).collect();
    for (key, amount) in keys.iter().zip(100..) {
        refused(&stage.client.charge(key, &of_amount(amount)).await);
    }
    assert_eq!(stage.provider.ledger().await.calls, 2);
    stage.provider.faults(&json!({"mode": "ok"})).await;

    let mut states = Vec::new();
    for (key, amount) in keys.iter().zip(100..) {
        let answer = stage
            .client
            .charge_until_answered(key, &of_amount(amount))
            .await;
        assert_eq!((answer.status, answer.replayed()), (201, Some(false)));
        states.push(stage.breaker().await);
    }

    assert_eq!(states[0], "half_open");
    assert!(
        states[1..].iter().all(|state| state == "closed"),
        "{states:?}"
    );
    let ledger = stage.provider.ledger().await;
    let amounts: Vec<_> = ledger.charges.iter().map(|charge| charge.amount).collect();
    assert_eq!(amounts, (100..108).collect::<Vec<_>>());
    assert_eq!(ledger.calls, 2 + 8);
    for (key, amount) in keys.iter().zip(100..) {
        let again = stage.client.charge(key, &of_amount(amount)).await;
        assert_eq!((again.status, again.replayed()), (201, Some(true)), "{key}");
    }
    assert_eq!(stage.provider.ledger().await.calls, 2 + 8);
}

/// Who comes when it was told to is not refused again.
#[tokio::test]
async fn the_time_that_a_refusal_tells_is_enough() {
    let stage = stage(&[&SMALL[..], &["--breaker-open", "2s"]].concat()).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    stage.fail(2).await;
    let begun = Instant::now();
    let pause = refused(&stage.client.charge("k", &of_amount(1)).await);
    stage.provider.faults(&json!({"mode": "ok"})).await;

    assert!((1..=3).contains(&pause), "{pause}");
    sleep(Duration::from_secs(pause)).await;
    let answer = stage.client.charge("k", &of_amount(1)).await;

    assert_eq!(answer.status, 201, "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_probe_that_fails_opens_it_again() {
    let stage = stage(&[&SMALL[..], &["--breaker-open", "300ms"]].concat()).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    stage.fail(2).await;

    let probe = eventually("the end of the open time", async || {
        let answer = stage.client.charge("k", &of_amount(1)).await;
        (answer.problem().1 == "provider-unavailable").then_some(answer)
    })
    .await;

    assert_eq!(probe.status, 503);
    assert_eq!(stage.breaker().await, "open");
    assert_eq!(
        stage.provider.ledger().await.calls,
        3,
        "one probe, and no more"
    );
    let log = stage.program.logs();
    assert_eq!(log.matches("circuit opened").count(), 2, "{log}");
}

#[tokio::test]
async fn one_probe_is_under_way_at_a_time() {
    let stage = stage(
        &[
            &SMALL[..],
            &["--breaker-open", "200ms", "--provider-timeout", "60s"],
        ]
        .concat(),
    )
    .await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    stage.fail(2).await;
    let slow = json!({"mode": "slow", "latency_ms": 3000, "count": 1});
    stage.provider.faults(&slow).await;
    let client = stage.client.clone();
    let probe =
        tokio::spawn(async move { client.charge_until_answered("probe", &of_amount(1)).await });
    stage.provider.called(3).await;

    assert_eq!(stage.breaker().await, "half_open");
    for number in 0..5 {
        let answer = stage
            .client
            .charge(&format!("k-{number}"), &of_amount(2))
            .await;
        assert_eq!(refused(&answer), 1);
    }

    assert_eq!(stage.provider.ledger().await.calls, 3);
    assert_eq!(probe.await.unwrap().status, 201);
    assert_eq!(stage.breaker().await, "half_open");
}

/// The retry layer drops an attempt at the end of its time: the breaker never sees an answer, and counts it all the same.
#[tokio::test]
async fn a_provider_that_is_too_slow_opens_it() {
    let stage = stage(&["--provider-timeout", "200ms"]).await;
    let slow = json!({"mode": "slow", "latency_ms": 60_000});
    stage.provider.faults(&slow).await;

    let first = stage.client.charge("a", &of_amount(1)).await;
    assert_eq!(first.problem(), (503, "provider-unavailable".into()));
    assert_eq!(stage.breaker().await, "closed");
    let second = stage.client.charge("b", &of_amount(2)).await;

    refused(&second);
    assert_eq!(stage.breaker().await, "open");
    refused(&stage.client.charge("c", &of_amount(3)).await);
    let ledger = stage.provider.ledger().await;
    assert_eq!(ledger.calls, 5);
    let amounts: Vec<_> = ledger.charges.iter().map(|charge| charge.amount).collect();
    assert_eq!(amounts, [1, 2], "it charges before it is slow");
}

#[tokio::test]
async fn answers_that_are_lost_and_a_provider_that_is_gone_open_it() {
    let lossy = stage(&SMALL).await;
    lossy
        .provider
        .faults(&json!({"mode": "lose_response"}))
        .await;
    lossy.fail(2).await;
    assert_eq!(lossy.breaker().await, "open");

    let Stage {
        client,
        provider_program,
        program: _program,
        folder: _folder,
        ..
    } = stage(&SMALL).await;
    provider_program.kill();
    for key in ["a", "b"] {
        let answer = client.charge(key, &of_amount(1)).await;
        assert_eq!(answer.problem(), (503, "provider-unavailable".into()));
    }
    refused(&client.charge("c", &of_amount(1)).await);
}

/// A lost answer has charged; the refusals that follow do not change that, and the key finds the charge.
#[tokio::test]
async fn a_charge_whose_answer_was_lost_is_found_when_the_circuit_closes() {
    let stage = stage(&[&SMALL[..], &["--breaker-open", "2s"]].concat()).await;
    let lost = json!({"mode": "lose_response", "count": 2});
    stage.provider.faults(&lost).await;
    stage.fail(2).await;
    refused(&stage.client.charge("failed-0", &of_amount(1)).await);
    let charged = stage.provider.ledger().await.charges;
    assert_eq!(charged.len(), 2);

    let found = stage
        .client
        .charge_until_answered("failed-0", &of_amount(1))
        .await;

    assert_eq!(found.json()["provider_id"], charged[0].id);
    assert_eq!(stage.provider.ledger().await.charges, charged);
}

/// What was charged before is answered from the store, and what is read needs no provider.
#[tokio::test]
async fn an_open_circuit_is_in_nobodys_way_who_needs_no_provider() {
    let stage = stage(&SMALL).await;
    let before = stage.client.charge("before", &of_amount(7)).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    for key in ["a", "b"] {
        stage.client.charge(key, &of_amount(1)).await;
    }
    assert_eq!(stage.breaker().await, "open");

    let again = stage.client.charge("before", &of_amount(7)).await;
    let other = stage.client.charge("before", &of_amount(8)).await;
    let wrong = stage.client.charge("wrong", &of_amount(0)).await;
    let list = stage.client.get("/v1/charges").await;

    assert_eq!((again.status, again.replayed()), (201, Some(true)));
    assert_eq!(again.body, before.body);
    assert_eq!(other.problem(), (422, "key-reused".into()));
    assert_eq!(wrong.problem(), (422, "invalid-field".into()));
    assert_eq!(list.json()["data"], json!([before.json()]));
}

/// The state is the process's own: a new one begins closed, and finds out for itself.
#[tokio::test]
async fn a_kill_resets_it() {
    let stage = stage(&SMALL).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    stage.fail(2).await;
    refused(&stage.client.charge("k", &of_amount(5)).await);
    assert_eq!(stage.breaker().await, "open");

    stage.program.kill();
    let url = stage.provider_program.provider_url();
    let program = serve(stage.folder.path(), url, &SMALL).await;
    stage.client.follow(program.api());
    let health = stage.client.bare("GET", "/healthz");
    let health: Value = stage.client.send(health).await.unwrap().json();
    assert_eq!(health["breaker"], "closed");
    stage.provider.faults(&json!({"mode": "ok"})).await;
    let answer = stage.client.charge("k", &of_amount(5)).await;

    assert_eq!((answer.status, answer.replayed()), (201, Some(false)));
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 2 + 1));
}

#[tokio::test]
async fn the_environment_sets_its_numbers_and_flags_go_before() {
    let folder = tempdir().unwrap();
    let environment = [
        ("PAYMENTS_LISTEN", "127.0.0.1:0"),
        ("PAYMENTS_PROVIDER_LISTEN", "127.0.0.1:0"),
        ("PAYMENTS_STORE", "memory:"),
        ("PAYMENTS_PROVIDER_ATTEMPTS", "1"),
        ("PAYMENTS_BREAKER_FAILURES", "3"),
        ("PAYMENTS_BREAKER_OPEN", "10m"),
        ("PAYMENTS_BREAKER_SUCCESSES", "1"),
    ];
    let arguments = ["serve", "--breaker-open", "100ms"];
    let program = Program::run(folder.path(), &arguments, &environment).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let breaker = async || {
        let health = client.send(client.bare("GET", "/healthz")).await.unwrap();
        health.json()["breaker"].as_str().unwrap().to_owned()
    };
    provider.faults(&json!({"mode": "down", "count": 3})).await;

    for number in 1..=3 {
        assert_eq!(breaker().await, "closed", "before failure {number}");
        client.charge("k", &of_amount(1)).await;
    }
    assert_eq!(breaker().await, "open");

    let answer = client.charge_until_answered("k", &of_amount(1)).await;
    assert_eq!(answer.status, 201);
    assert_eq!(breaker().await, "closed", "one success is enough");
    assert_eq!(provider.ledger().await.calls, 3 + 1);
}

/// A provider that refuses calls is at work: what it says is not what it is.
#[tokio::test]
async fn refusals_of_a_provider_in_good_health_do_not_open_it() {
    for status in [400, 401, 404, 409, 422] {
        let status = StatusCode::from_u16(status).unwrap();
        let (calls, mut called) = mpsc::unbounded_channel();
        let calls = Arc::new(calls);
        let routes = Router::new().route(
            "/charges",
            post(async move || {
                calls.send(()).unwrap();
                status.into_response()
            }),
        );
        let provider = serve_provider(routes).await;
        let (app, _) = stage_of(&provider).await;

        for _ in 0..10 {
            let answer = send(&app.router, charge()).await;
            assert_ne!(problem(&answer).1, "circuit-open", "{status}");
        }

        let mut all = 0;
        while called.try_recv().is_ok() {
            all += 1;
        }
        assert_eq!(all, 10, "{status}");
    }
}
