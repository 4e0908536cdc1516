//! curl, Python's requests and Node's fetch pay at `payments serve`, each trying again in its own way.

use std::{path::Path, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::{
    clients::Make,
    program::{Program, eventually},
    provider::Provider,
};

/// A payments API with its provider.
struct Stage {
    api: Program,
    provider: Provider,
    _folder: TempDir,
}

impl Stage {
    /// One that leaves it to its clients to try again.
    async fn set(faults: &Value, arguments: &[&str]) -> Self {
        let folder = tempdir().unwrap();
        let all = [
            &["--store", "memory:", "--provider-attempts", "1"],
            arguments,
        ]
        .concat();
        let api = Program::serve(folder.path(), &all).await;
        let provider = Provider::new(api.provider_url());
        provider.faults(faults).await;
        Self {
            api,
            provider,
            _folder: folder,
        }
    }

    /// How many requests the API has answered.
    fn requests(&self) -> usize {
        requests(&self.api)
    }
}

fn requests(api: &Program) -> usize {
    let logs = api.logs();
    let answers = logs.lines().filter(|line| line.contains(": answered "));
    answers.filter(|line| line.contains("/v1/charges")).count()
}

const BODY: &str = r#"{"amount": 4200, "currency": "eur", "order": "42"}"#;

/// The circuit is a matter of its own.
const NO_CIRCUIT: [&str; 2] = ["--breaker-failures", "1000"];

/// Each kind of client by itself, all of them at once.
async fn with_each(test: impl AsyncFn(Make)) {
    join_all(Make::ALL.map(|make| test(make))).await;
}

#[tokio::test]
async fn a_provider_that_is_down_for_a_while_charges_once_when_it_is_back() {
    with_each(async |make| {
        let stage = Stage::set(&json!({"mode": "down", "count": 2}), &NO_CIRCUIT).await;

        let paid = make.charge(stage.api.api(), "k", BODY, 5).await;
        let again = make.charge(stage.api.api(), "k", BODY, 5).await;

        assert_eq!(
            (paid.status, paid.replayed),
            (201, Some(false)),
            "{make:?}: {paid:?}"
        );
        // Twice it was told to come back in a second.
        assert!(paid.took >= Duration::from_secs(2), "{make:?}: {paid:?}");
        assert_eq!(
            (again.status, again.replayed),
            (201, Some(true)),
            "{make:?}: {again:?}"
        );
        assert_eq!(again.body, paid.body, "{make:?}");
        assert_eq!(stage.requests(), 3 + 1, "{make:?}");
        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 3), "{make:?}");
        assert_eq!(paid.json()["provider_id"], ledger.charges[0].id, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn a_charge_whose_answer_was_lost_is_found_by_the_next_attempt() {
    with_each(async |make| {
        let faults = json!({"mode": "lose_response", "count": 2});
        let stage = Stage::set(&faults, &NO_CIRCUIT).await;

        let paid = make.charge(stage.api.api(), "k", BODY, 5).await;

        assert_eq!(paid.status, 201, "{make:?}: {paid:?}");
        assert_eq!(stage.requests(), 3, "{make:?}");
        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 3), "{make:?}");
        assert_eq!(paid.json()["provider_id"], ledger.charges[0].id, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn who_gives_up_is_refused_clearly_and_pays_once_later() {
    with_each(async |make| {
        let stage = Stage::set(&json!({"mode": "down"}), &NO_CIRCUIT).await;

        let refused = make.charge(stage.api.api(), "k", BODY, 1).await;

        assert_eq!(refused.status, 503, "{make:?}: {refused:?}");
        let problem = refused.json();
        assert_eq!(problem["code"], "provider-unavailable", "{make:?}");
        assert_eq!(problem["retryable"], true, "{make:?}");
        assert_eq!(stage.requests(), 2, "{make:?}");
        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (0, 2), "{make:?}");

        stage.provider.faults(&json!({"mode": "ok"})).await;
        let paid = make.charge(stage.api.api(), "k", BODY, 1).await;
        assert_eq!(
            (paid.status, paid.replayed),
            (201, Some(false)),
            "{make:?}: {paid:?}"
        );
        assert_eq!(stage.provider.ledger().await.charges.len(), 1, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn an_open_circuit_is_waited_out_since_it_tells_how_long_it_lasts() {
    with_each(async |make| {
        let faults = json!({"mode": "down", "count": 1});
        let circuit = ["--breaker-failures", "1", "--breaker-open", "5s"];
        let stage = Stage::set(&faults, &circuit).await;

        let paid = make.charge(stage.api.api(), "k", BODY, 5).await;

        assert_eq!(
            (paid.status, paid.replayed),
            (201, Some(false)),
            "{make:?}: {paid:?}"
        );
        assert!(paid.took >= Duration::from_secs(5), "{make:?}: {paid:?}");
        // One that fails and opens it, one that is told how long, and the probe.
        assert_eq!(stage.requests(), 3, "{make:?}: {}", stage.api.logs());
        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 2), "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn clients_of_three_makes_with_one_key_are_one_charge() {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let provider = Provider::new(program.provider_url());
    // What connects to it waits until it leads on.
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gate.local_addr().unwrap());
    let arguments = ["--store", "memory:", "--provider-attempts", "1"];
    let arguments = [&arguments[..], &["--provider-timeout", "50s"]].concat();
    let arguments = [&arguments[..], &["--provider-url", &url]].concat();
    let api = Program::serve(folder.path(), &arguments).await;

    let charges = Make::ALL.map(|make| make.charge(api.api(), "k", BODY, 9));
    let (answers, ()) = tokio::join!(join_all(charges), async {
        eventually("a duplicate that is told to come back", async || {
            api.logs().contains("answered status=409").then_some(())
        })
        .await;
        lead_on(gate, program.provider_url());
    });

    for answer in &answers {
        assert_eq!(answer.status, 201, "{answers:?}");
        assert_eq!(answer.body, answers[0].body);
    }
    let executed = answers
        .iter()
        .filter(|answer| answer.replayed == Some(false));
    assert_eq!(executed.count(), 1, "{answers:?}");
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 1));
}

/// Carries what connects to the server of the URL.
fn lead_on(gate: TcpListener, url: &str) {
    let server = url.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = gate.accept().await.unwrap();
            let mut far = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_repeated_but_by_a_curl_that_repeats_all_errors() {
    with_each(async |make| {
        let stage = Stage::set(&json!({"mode": "ok"}), &NO_CIRCUIT).await;
        let paid = make.charge(stage.api.api(), "k", BODY, 1).await;
        assert_eq!(paid.status, 201, "{make:?}: {paid:?}");
        let other = r#"{"amount": 4300, "currency": "eur", "order": "42"}"#;
        let too_long = "k".repeat(300);
        let refusals = [
            ("k", other, 422, "key-reused"),
            (&too_long, BODY, 400, "malformed-key"),
        ];

        let mut requests = stage.requests();
        for (key, body, status, code) in refusals {
            let refused = make.charge(stage.api.api(), key, body, 1).await;

            assert_eq!(refused.status, status, "{make:?}: {refused:?}");
            let problem = refused.json();
            assert_eq!(problem["code"], code, "{make:?}: {refused:?}");
            assert_eq!(problem["retryable"], false, "{make:?}: {refused:?}");
            // It has a flag for all errors, which the others here need, and none for some of them.
            requests += if make == Make::Curl { 2 } else { 1 };
            assert_eq!(stage.requests(), requests, "{make:?} {code}");
        }

        let ledger = stage.provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 1), "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn a_crowd_of_all_makes_at_a_flaky_provider_is_one_charge_for_each_key() {
    let faults = json!({"mode": "flaky", "rate": 0.5});
    let stage = Stage::set(&faults, &NO_CIRCUIT).await;
    let body = |amount: usize| json!({"amount": amount, "currency": "usd"}).to_string();

    let orders = (1..=9).map(|amount| (amount, Make::ALL[amount % 3]));
    let answers = join_all(orders.map(async |(amount, make)| {
        let key = format!("k-{amount}");
        // Each is refused at most four times, and then the provider has had enough of it.
        let mut answer = make.charge(stage.api.api(), &key, &body(amount), 3).await;
        if answer.status != 201 {
            assert_eq!(answer.status, 503, "{answer:?}");
            stage.provider.faults(&json!({"mode": "ok"})).await;
            answer = make.charge(stage.api.api(), &key, &body(amount), 3).await;
        }
        (amount, answer)
    }))
    .await;

    let mut charged: Vec<_> = stage.provider.ledger().await.charges;
    charged.sort_by_key(|charge| charge.amount);
    assert_eq!(charged.len(), 9);
    for ((amount, answer), charge) in answers.into_iter().zip(charged) {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(usize::try_from(charge.amount).unwrap(), amount);
        assert_eq!(answer.json()["provider_id"], charge.id);
    }
}

#[tokio::test]
async fn an_api_that_is_killed_in_mid_charge_and_started_again_has_charged_once() {
    with_each(async |make| {
        let folder = tempdir().unwrap();
        let program = Program::provider(folder.path()).await;
        let provider = Provider::new(program.provider_url());
        let faults = json!({"mode": "slow", "latency_ms": 60_000, "count": 1});
        provider.faults(&faults).await;
        // Bound, though it does not listen: nobody else takes the port while the API is away.
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap().to_string();
        let start = || start(folder.path(), &address, program.provider_url());
        let killed = start().await;
        let api = killed.api().to_owned();

        let (paid, next) = tokio::join!(make.charge(&api, "k", BODY, 9), async {
            provider.called(1).await;
            killed.kill();
            start().await
        });

        assert_eq!(
            (paid.status, paid.replayed),
            (201, Some(false)),
            "{make:?}: {paid:?}"
        );
        assert!(requests(&next) >= 1);
        let ledger = provider.ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 2), "{make:?}");
        assert_eq!(paid.json()["provider_id"], ledger.charges[0].id, "{make:?}");
    })
    .await;
}

async fn start(folder: &Path, address: &str, provider: &str) -> Program {
    let arguments = [
        "serve",
        "--listen",
        address,
        "--provider-url",
        provider,
        "--provider-timeout",
        "90s",
        "--provider-attempts",
        "1",
        "--lease",
        "1s",
    ];
    Program::run(folder, &arguments, &[]).await
}
