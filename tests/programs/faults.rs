//! The provider fails, answers late or not at all; clients leave, and come in crowds.

use std::{io::Write, net::TcpStream, time::Duration};

use serde_json::json;
use tempfile::{TempDir, tempdir};
use tokio::task::JoinSet;

use crate::{
    client::{Client, of_amount},
    program::{Program, eventually},
    provider::Provider,
};

struct Stage {
    program: Program,
    client: Client,
    provider: Provider,
    // Last, so that the program has ended before its folder goes.
    _folder: TempDir,
}

async fn stage(arguments: &[&str]) -> Stage {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), arguments).await;
    Stage {
        client: Client::new(program.api()),
        provider: Provider::new(program.provider_url()),
        program,
        _folder: folder,
    }
}

#[tokio::test]
async fn while_the_provider_is_down_a_charge_can_be_tried_again_with_its_key() {
    // More failures than these nine: each request is to call the provider.
    let stage = stage(&["--breaker-failures", "10"]).await;
    stage.provider.faults(&json!({"mode": "down"})).await;
    let request = of_amount(100);

    for _ in 0..3 {
        let down = stage.client.charge("k", &request).await;
        assert_eq!(down.problem(), (503, "provider-unavailable".into()));
        assert!(down.header("retry-after").is_some());
        assert_eq!(down.json()["retryable"], true);
        assert_eq!(
            down.replayed(),
            Some(false),
            "an unknown outcome is not an answer"
        );
    }
    stage.provider.faults(&json!({"mode": "ok"})).await;
    let up = stage.client.charge("k", &request).await;
    let again = stage.client.charge("k", &request).await;

    assert_eq!((up.status, up.replayed()), (201, Some(false)));
    assert_eq!((again.status, again.replayed()), (201, Some(true)));
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 3 * 3 + 1));
}

#[tokio::test]
async fn a_fault_that_passes_is_no_clients_business() {
    let stage = stage(&[]).await;
    stage
        .provider
        .faults(&json!({"mode": "down", "count": 2}))
        .await;

    let healed = stage.client.charge("k", &of_amount(100)).await;

    assert_eq!((healed.status, healed.replayed()), (201, Some(false)));
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 3));
    let log = stage.program.logs();
    for attempt in ["attempt=2", "attempt=3"] {
        let lines = log.lines().filter(|line| line.contains("retrying"));
        let shown = lines.filter(|line| line.contains(attempt)).count();
        assert_eq!(shown, 1, "{attempt}: {log}");
    }
}

#[tokio::test]
async fn one_attempt_is_one_call_of_the_provider() {
    let stage = stage(&["--provider-attempts", "1"]).await;
    stage
        .provider
        .faults(&json!({"mode": "down", "count": 1}))
        .await;

    let down = stage.client.charge("k", &of_amount(100)).await;

    assert_eq!(down.problem(), (503, "provider-unavailable".into()));
    assert_eq!(stage.provider.ledger().await.calls, 1);
}

#[tokio::test]
async fn a_provider_that_is_gone_is_a_provider_that_is_down() {
    let folder = tempdir().unwrap();
    let provider = Program::provider(folder.path()).await;
    let url = provider.provider_url().to_owned();
    let program = Program::serve(folder.path(), &["--provider-url", &url]).await;
    let client = Client::new(program.api());
    assert_eq!(program.provider_url(), url);
    assert_eq!(client.charge("before", &of_amount(1)).await.status, 201);

    provider.kill();

    let answer = client.charge("after", &of_amount(1)).await;
    assert_eq!(answer.problem(), (503, "provider-unavailable".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        client.charge("before", &of_amount(1)).await.replayed(),
        Some(true)
    );
}

#[tokio::test]
async fn a_lost_response_is_not_a_second_charge() {
    let stage = stage(&[]).await;
    stage
        .provider
        .faults(&json!({"mode": "lose_response", "count": 3}))
        .await;

    let lost = stage.client.charge("k", &of_amount(100)).await;
    let charged_once = stage.provider.ledger().await.charges;
    let found = stage.client.charge("k", &of_amount(100)).await;

    assert_eq!(lost.problem(), (503, "provider-unavailable".into()));
    assert_eq!(
        charged_once.len(),
        1,
        "the fault charges before it loses the answer"
    );
    assert_eq!(found.status, 201);
    assert_eq!(found.json()["provider_id"], charged_once[0].id);
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges, ledger.calls), (charged_once, 4));
}

#[tokio::test]
async fn a_provider_slower_than_the_limit_has_charged_once() {
    let stage = stage(&["--provider-timeout", "300ms"]).await;
    let slow = json!({"mode": "slow", "latency_ms": 30_000, "count": 3});
    stage.provider.faults(&slow).await;

    let late = stage.client.charge("k", &of_amount(100)).await;
    let found = stage.client.charge("k", &of_amount(100)).await;

    assert_eq!(late.problem(), (503, "provider-unavailable".into()));
    assert_eq!((found.status, found.replayed()), (201, Some(false)));
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 4));
}

#[tokio::test]
async fn each_attempt_has_the_time_of_one() {
    let stage = stage(&["--provider-timeout", "300ms"]).await;
    let slow = json!({"mode": "slow", "latency_ms": 30_000, "count": 2});
    stage.provider.faults(&slow).await;

    let healed = stage.client.charge("k", &of_amount(100)).await;

    assert_eq!((healed.status, healed.replayed()), (201, Some(false)));
    let ledger = stage.provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 3));
}

#[tokio::test]
async fn a_flaky_provider_makes_one_charge_for_each_key() {
    // Five failures in a row come: the circuit opens now and then, but not for the time of a test.
    let stage = stage(&["--breaker-open", "20ms"]).await;
    stage
        .provider
        .faults(&json!({"mode": "flaky", "rate": 0.6}))
        .await;

    for amount in 1..=10 {
        let key = format!("k-{amount}");
        let answer = stage
            .client
            .charge_until_answered(&key, &of_amount(amount))
            .await;
        assert_eq!(answer.status, 201);
    }

    let ledger = stage.provider.ledger().await;
    let amounts: Vec<_> = ledger.charges.iter().map(|charge| charge.amount).collect();
    assert_eq!(amounts, (1..=10).collect::<Vec<_>>());
    assert!(ledger.calls > 10, "no call was refused");
}

#[tokio::test]
async fn a_duplicate_of_a_running_charge_is_told_to_come_back() {
    let stage = stage(&["--provider-timeout", "60s"]).await;
    let slow = json!({"mode": "slow", "latency_ms": 6000, "count": 1});
    stage.provider.faults(&slow).await;
    let client = stage.client.clone();
    let first = tokio::spawn(async move { client.charge("k", &of_amount(100)).await });
    stage.provider.called(1).await;

    let duplicate = stage.client.charge("k", &of_amount(100)).await;
    let other = stage.client.charge("k", &of_amount(101)).await;

    assert_eq!(duplicate.problem(), (409, "in-progress".into()));
    assert!(duplicate.header("retry-after").is_some());
    assert_eq!(other.problem(), (422, "key-reused".into()));
    let first = first.await.unwrap();
    let again = stage.client.charge("k", &of_amount(100)).await;
    assert_eq!(first.status, 201);
    assert_eq!(again.body, first.body);
    assert_eq!(stage.provider.ledger().await.calls, 1);
}

#[tokio::test]
async fn a_crowd_with_one_key_is_one_charge() {
    for store in ["memory:", "sqlite:crowd.db"] {
        let stage = stage(&["--store", store]).await;
        stage
            .provider
            .faults(&json!({"mode": "slow", "latency_ms": 200}))
            .await;

        let mut crowd = JoinSet::new();
        for _ in 0..50 {
            let client = stage.client.clone();
            crowd.spawn(async move { client.charge_until_answered("k", &of_amount(100)).await });
        }
        let answers = crowd.join_all().await;

        assert!(answers.iter().all(|answer| answer.status == 201));
        assert!(answers.iter().all(|answer| answer.body == answers[0].body));
        let executed = answers
            .iter()
            .filter(|answer| answer.replayed() == Some(false));
        assert_eq!(executed.count(), 1);
        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 1));
    }
}

#[tokio::test]
async fn a_charge_goes_on_when_its_client_hangs_up() {
    let stage = stage(&["--provider-timeout", "60s"]).await;
    let slow = json!({"mode": "slow", "latency_ms": 1500, "count": 1});
    stage.provider.faults(&slow).await;
    let body = of_amount(100).to_string();

    let address = stage.program.api().strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "POST /v1/charges HTTP/1.1\r\nhost: payments\r\nauthorization: Bearer sk_test\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stage.provider.called(1).await;
    drop(connection);

    eventually("the charge of the client that left", async || {
        let list = stage.client.get("/v1/charges").await.json();
        (list["data"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let retry = stage
        .client
        .charge_until_answered("k", &of_amount(100))
        .await;
    assert_eq!((retry.status, retry.replayed()), (201, Some(true)));
    assert_eq!(stage.provider.ledger().await.calls, 1);
}

#[tokio::test]
async fn a_key_that_only_the_provider_remembers_cannot_pay_for_something_else() {
    let folder = tempdir().unwrap();
    let provider = Program::provider(folder.path()).await;
    let arguments = [
        "--store",
        "memory:",
        "--provider-url",
        provider.provider_url(),
    ];
    let forgetful = Program::serve(folder.path(), &arguments).await;
    Client::new(forgetful.api())
        .charge("k", &of_amount(100))
        .await;
    forgetful.kill();

    let restarted = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(restarted.api());
    let other = client.charge("k", &of_amount(101)).await;

    assert_eq!(other.problem(), (422, "key-reused".into()));
    let ledger = Provider::new(provider.provider_url()).ledger().await;
    assert_eq!(ledger.charges.len(), 1);
    assert_eq!(ledger.charges[0].amount, 100);
}

#[tokio::test]
async fn the_provider_keeps_its_own_promises() {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let provider = Provider::new(program.provider_url());

    let (status, first) = provider.charge(Some("k"), &of_amount(5)).await.unwrap();
    let (_, again) = provider.charge(Some("k"), &of_amount(5)).await.unwrap();
    let (refused, _) = provider.charge(Some("k"), &of_amount(6)).await.unwrap();
    let (_, keyless) = provider.charge(None, &of_amount(7)).await.unwrap();
    assert_eq!((status, refused), (201, 422));
    assert_eq!(first["key"], "k");
    assert_eq!(first["amount"], 5);
    assert_eq!(again, first);
    assert_eq!(keyless["key"], json!(null));

    let in_force = provider
        .faults(&json!({"mode": "down", "count": 1, "dedupe": false}))
        .await;
    assert_eq!(
        in_force,
        json!({"mode": "down", "latency_ms": 0, "rate": 0.0, "count": 1, "dedupe": false})
    );
    let (down, _) = provider.charge(Some("k"), &of_amount(5)).await.unwrap();
    let (_, second) = provider.charge(Some("k"), &of_amount(5)).await.unwrap();
    assert_eq!(down, 503);
    assert_ne!(
        second["id"], first["id"],
        "without deduplication a known key charges again"
    );

    provider
        .faults(&json!({"mode": "lose_response", "count": 1}))
        .await;
    let lost = provider.charge(Some("l"), &of_amount(8)).await;
    assert!(lost.is_err(), "{lost:?}");
    let ledger = provider.ledger().await;
    assert_eq!(ledger.calls, 7);
    let amounts: Vec<_> = ledger.charges.iter().map(|charge| charge.amount).collect();
    assert_eq!(amounts, [5, 7, 5, 8]);
    assert_eq!(ledger.charges[3].key.as_deref(), Some("l"));

    provider
        .faults(&json!({"mode": "slow", "latency_ms": 200}))
        .await;
    let (begun, slow) = (tokio::time::Instant::now(), of_amount(9));
    let (one, two) = tokio::join!(
        provider.charge(Some("s"), &slow),
        provider.charge(Some("s"), &slow),
    );
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(
        one.unwrap(),
        two.unwrap(),
        "two calls at once are one charge"
    );
}

/// A provider that is down reads nothing, and says nothing of when it is back.
#[tokio::test]
async fn a_fault_of_the_provider_acts_before_anything_is_looked_at() {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let provider = Provider::new(program.provider_url());
    let state = provider.faults(&json!({"mode": "down"})).await;
    assert_eq!(
        state,
        json!({"mode": "down", "latency_ms": 0, "rate": 0.0, "count": 0, "dedupe": true})
    );
    let charges = Client::new(program.provider_url());
    let post = |body: &'static str| charges.send(charges.bare("POST", "/charges").body(body));

    for body in ["", "{", r#"{"amount": 5, "currency": "usd"}"#] {
        let down = post(body).await.unwrap();
        assert_eq!(down.status, 503, "{body}");
        assert_eq!(down.header("retry-after"), None, "{body}");
    }
    provider.faults(&json!({})).await;
    let up = post("{").await.unwrap();

    assert_eq!(up.status, 400, "an empty object switches the fault off");
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges, ledger.calls), (vec![], 4));
}

#[tokio::test]
async fn a_slow_provider_has_charged_before_it_answers_and_without_its_caller() {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let provider = Provider::new(program.provider_url());
    let slow = json!({"mode": "slow", "latency_ms": 60_000});
    provider.faults(&slow).await;

    let address = program.provider_url().strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(address).unwrap();
    write!(
        caller,
        "POST /charges HTTP/1.1\r\nhost: provider\r\nidempotency-key: k\r\ncontent-length: 32\r\n\r\n\
         {{\"amount\": 5, \"currency\": \"usd\"}}"
    )
    .unwrap();
    provider.called(1).await;
    drop(caller);

    let charges = provider.ledger().await.charges;
    assert_eq!(charges.len(), 1);
    provider.faults(&json!({})).await;
    let (status, found) = provider.charge(Some("k"), &of_amount(5)).await.unwrap();
    assert_eq!((status, &found["id"]), (201, &json!(charges[0].id)));
    assert_eq!(found["at"], charges[0].at);
}
