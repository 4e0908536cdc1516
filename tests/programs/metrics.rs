//! What `GET /metrics` tells, held against what happened.

use std::{collections::BTreeSet, io::Write, net::TcpStream};

use serde_json::json;
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    program::{Program, eventually},
    provider::Provider,
    scrape::{Scrape, Series},
};

const REQUESTS: &str = "http_server_requests_total";

#[tokio::test]
async fn a_scraper_needs_no_key_and_finds_something_before_the_first_charge() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &[]).await;
    let client = Client::new(program.api());

    let scrape = eventually("the first pass of the reaper", async || {
        let scrape = Scrape::of(&client).await;
        let reaped = scrape.find("steadfast_idempotency_reaped_total", &[]);
        (reaped.count() > 0).then_some(scrape)
    })
    .await;

    assert_eq!(scrape.sum("steadfast_idempotency_reaped_total", &[]), 0.0);
    let surplus: Vec<&Series> = scrape.find("payments_surplus_charges_total", &[]).collect();
    assert_eq!(surplus.len(), 1, "an alert could not see it grow");
    assert_eq!(surplus[0].value, 0.0);
    let charges = scrape.find(REQUESTS, &[("route", "/v1/charges")]);
    assert_eq!(charges.count(), 0);
}

/// The numbers of every layer are those of the provider's ledger and of the clients' answers.
#[tokio::test]
async fn the_metrics_agree_with_the_ledger_and_with_the_clients() {
    let folder = tempdir().unwrap();
    let arguments = ["--store", "memory:", "--breaker-open", "10m"];
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let charge = async |key: &str, amount| client.charge(key, &of_amount(amount)).await;
    let refused = json!({"amount": 5, "currency": "dollars"});
    let down = |count| json!({"mode": "down", "count": count});

    // One call of the provider, then one that needs three, then two that exhaust their attempts: five failures in a row.
    let executed = charge("a", 1).await;
    let replayed = charge("a", 1).await;
    let conflict = charge("a", 2).await;
    provider.faults(&down(2)).await;
    let healed = charge("b", 2).await;
    let invalid = client.charge("c", &refused).await;
    let keyless = client.post().json(&of_amount(1));
    let keyless = client.send(keyless).await.unwrap();
    provider.faults(&down(0)).await;
    let failed = charge("d", 3).await;
    let opening = charge("e", 4).await;
    let rejected = charge("f", 5).await;

    let told = [
        &executed, &replayed, &conflict, &healed, &invalid, &keyless, &failed, &opening, &rejected,
    ]
    .map(|answer| answer.status);
    assert_eq!(told, [201, 201, 422, 201, 422, 400, 503, 503, 503]);
    let calls = provider.ledger().await.calls;
    assert_eq!(calls, 1 + 3 + 3 + 2);

    let scrape = Scrape::of(&client).await;
    let sum = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels);
    for (outcome, number) in [
        ("executed", 3.0),
        ("replayed", 1.0),
        ("conflict", 1.0),
        ("missing_key", 1.0),
        ("abandoned", 3.0),
    ] {
        let labels = [("namespace", "payments"), ("outcome", outcome)];
        let counted = sum("steadfast_idempotency_requests_total", &labels);
        assert_eq!(counted, number, "{outcome}");
    }
    assert_eq!(sum("steadfast_idempotency_requests_total", &[]), 9.0);
    // All but the one without a key asked the store, or another request of this process.
    assert_eq!(sum("steadfast_idempotency_claim_seconds_count", &[]), 8.0);

    let layer = ("layer", "card-provider");
    assert_eq!(sum("steadfast_retry_calls_total", &[layer]), 5.0);
    for (stopped_by, number) in [("success", 2.0), ("attempts", 1.0), ("ignored", 2.0)] {
        let labels = [layer, ("stopped_by", stopped_by)];
        let counted = sum("steadfast_retry_calls_total", &labels);
        assert_eq!(counted, number, "{stopped_by}");
    }
    let faults = [layer, ("reason", "fault")];
    let retries = sum("steadfast_retry_retries_total", &faults);
    assert_eq!(
        sum("steadfast_retry_delay_seconds_count", &[layer]),
        retries
    );

    let breaker = ("breaker", "card-provider");
    let passed = sum("steadfast_circuit_breaker_calls_total", &[breaker]);
    assert_eq!(passed, calls as f64);
    let rejections = sum("steadfast_circuit_breaker_rejections_total", &[breaker]);
    // Each call of the retry layer that was no attempt at the provider; one of its retries was rejected too.
    assert_eq!(passed + rejections, 5.0 + retries);
    for (state, is_in) in [("closed", 0.0), ("open", 1.0), ("half_open", 0.0)] {
        let labels = [breaker, ("state", state)];
        assert_eq!(
            sum("steadfast_circuit_breaker_state", &labels),
            is_in,
            "{state}"
        );
    }
    let opened = [
        breaker,
        ("from", "closed"),
        ("to", "open"),
        ("reason", "consecutive_failures"),
    ];
    assert_eq!(
        sum("steadfast_circuit_breaker_transitions_total", &opened),
        1.0
    );

    for (status, number) in [("201", 3.0), ("400", 1.0), ("422", 2.0), ("503", 3.0)] {
        let labels = [
            ("method", "POST"),
            ("route", "/v1/charges"),
            ("status", status),
        ];
        assert_eq!(sum(REQUESTS, &labels), number, "{status}");
    }
    let answered = [("method", "POST"), ("route", "/v1/charges")];
    assert_eq!(
        sum("http_server_request_duration_seconds_count", &answered),
        9.0
    );
}

#[tokio::test]
async fn every_duration_is_a_histogram_whose_buckets_tell_apart_what_is_measured() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &[]).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    provider.faults(&json!({"mode": "down", "count": 1})).await;
    let slow = json!({"mode": "slow", "latency_ms": 300, "count": 1});
    client.charge("a", &of_amount(1)).await;
    provider.faults(&slow).await;
    client.charge("b", &of_amount(2)).await;

    let scrape = Scrape::of(&client).await;

    let summaries = scrape.types.iter().filter(|(_, kind)| *kind == "summary");
    assert_eq!(summaries.collect::<Vec<_>>(), []);
    let histograms: BTreeSet<&str> = scrape
        .types
        .iter()
        .filter(|(_, kind)| *kind == "histogram")
        .map(|(name, _)| &**name)
        .collect();
    let measured = [
        "http_server_request_duration_seconds",
        "steadfast_idempotency_claim_seconds",
        "steadfast_idempotency_completion_seconds",
        "steadfast_retry_delay_seconds",
    ];
    assert!(
        measured.iter().all(|name| histograms.contains(name)),
        "{histograms:?}"
    );
    for name in histograms {
        let bounds: Vec<f64> = scrape
            .find(&format!("{name}_bucket"), &[])
            .map(|series| series.labels["le"].parse().unwrap())
            .collect();
        assert!(bounds.len() > 5, "{name}: {bounds:?}");
        assert!(bounds.contains(&f64::INFINITY), "{name}: {bounds:?}");
    }
    let charges = |le| {
        let labels = [("method", "POST"), ("route", "/v1/charges"), ("le", le)];
        scrape.sum("http_server_request_duration_seconds_bucket", &labels)
    };
    // One took longer than the provider's 300 ms; on a machine that stands still the other one may have, too.
    assert!(charges("0.25") <= 1.0);
    assert_eq!(charges("+Inf"), 2.0);
}

/// Without it the memory of a program that nobody scrapes grows with each request, and nothing else tells.
#[tokio::test]
async fn samples_are_put_into_buckets_while_nobody_scrapes() {
    let folder = tempdir().unwrap();
    let environment = [
        ("PAYMENTS_LISTEN", "127.0.0.1:0"),
        ("PAYMENTS_PROVIDER_LISTEN", "127.0.0.1:0"),
        ("RUST_LOG", "payments::telemetry=trace"),
    ];
    let program = Program::run(folder.path(), &["serve"], &environment).await;

    eventually("two rounds of the upkeep", async || {
        let rounds = program.logs().matches("put into their buckets").count();
        (rounds >= 2).then_some(())
    })
    .await;
}

/// A path, a method and an id are a client's own words: each would be a series for ever.
#[tokio::test]
async fn no_client_makes_series_of_its_own() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let id = format!("/v1/charges/ch_{}", "0".repeat(32));
    for (method, path) in [
        ("GET", &*id),
        ("GET", "/v1/charges/ch_2"),
        ("GET", "/v1/charges?limit=5"),
        ("BREW", "/v1/charges"),
        ("GET", "/nothing/here?secret=hunter2"),
        ("GET", "/nothing/there"),
        ("GET", "/healthz"),
    ] {
        let request = client.bare(method, path).bearer_auth("sk_test");
        client.send(request).await.unwrap();
    }

    let scrape = Scrape::of(&client).await;

    let labels = |series: &Series| {
        let label = |name: &str| series.labels[name].clone();
        [label("method"), label("route"), label("status")].join(" ")
    };
    let counted: Vec<String> = scrape.find(REQUESTS, &[]).map(labels).collect();
    let counted: BTreeSet<&str> = counted.iter().map(String::as_str).collect();
    let expected = [
        "GET /healthz 200",
        "GET /v1/charges 200",
        "GET /v1/charges/{id} 404",
        "GET unmatched 404",
        "_OTHER /v1/charges 405",
    ];
    assert_eq!(counted, BTreeSet::from(expected));
    assert_eq!(scrape.sum(REQUESTS, &[("route", "/v1/charges/{id}")]), 2.0);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_too() {
    let folder = tempdir().unwrap();
    let arguments = ["--store", "memory:", "--provider-timeout", "60s"];
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let slow = json!({"mode": "slow", "latency_ms": 60_000});
    provider.faults(&slow).await;

    let address = program.api().strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "POST /v1/charges HTTP/1.1\r\nhost: payments\r\nauthorization: Bearer sk_test\r\nidempotency-key: k\r\n\
         content-length: 32\r\n\r\n{{\"amount\": 5, \"currency\": \"usd\"}}"
    )
    .unwrap();
    provider.called(1).await;
    let during = Scrape::of(&client).await;
    drop(connection);

    let running = "steadfast_idempotency_running";
    assert_eq!(during.sum(running, &[]), 1.0);
    let left = [("route", "/v1/charges"), ("status", "cancelled")];
    let scrape = eventually("the end of the request", async || {
        let scrape = Scrape::of(&client).await;
        (scrape.sum(REQUESTS, &left) == 1.0).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.sum(running, &[]), 1.0, "the charge goes on");
}
