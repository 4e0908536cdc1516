//! The process ends: politely, or by kill -9.

use std::{io::Write, net::TcpStream};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    load::{self, Load},
    program::{Program, eventually},
    provider::Provider,
    records,
};

#[tokio::test]
async fn an_answer_survives_a_kill() {
    let folder = tempdir().unwrap();
    let provider = Program::provider(folder.path()).await;
    let arguments = ["--provider-url", provider.provider_url()];
    let program = Program::serve(folder.path(), &arguments).await;
    let first = Client::new(program.api())
        .charge("k", &of_amount(100))
        .await;

    program.kill();
    let program = Program::serve(folder.path(), &arguments).await;
    let again = Client::new(program.api())
        .charge("k", &of_amount(100))
        .await;

    assert_eq!((again.status, again.replayed()), (201, Some(true)));
    assert_eq!(again.body, first.body);
    assert_eq!(
        Provider::new(provider.provider_url()).ledger().await.calls,
        1
    );
}

#[tokio::test]
async fn a_charge_that_was_killed_halfway_is_taken_over_after_its_lease() {
    let folder = tempdir().unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let provider = Provider::new(provider_program.provider_url());
    let arguments = [
        "--provider-url",
        provider_program.provider_url(),
        "--provider-timeout",
        "60s",
        "--lease",
        "10m",
    ];
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let stuck = json!({"mode": "slow", "latency_ms": 60_000, "count": 1});
    provider.faults(&stuck).await;
    let first = tokio::spawn(async move { client.try_charge("k", &of_amount(100)).await });
    provider.called(1).await;

    program.kill();
    first.await.unwrap().unwrap_err();
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let early = client.charge("k", &of_amount(100)).await;
    records::end_leases(folder.path()).await;
    let taken_over = client.charge("k", &of_amount(100)).await;

    assert_eq!(
        early.problem(),
        (409, "in-progress".into()),
        "the lease is not over yet"
    );
    assert_eq!(
        (taken_over.status, taken_over.replayed()),
        (201, Some(false))
    );
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 2));
    assert_eq!(taken_over.json()["provider_id"], ledger.charges[0].id);
    let list = client.get("/v1/charges").await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn kills_under_load_cost_no_charge_and_no_answer() {
    let folder = tempdir().unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let provider = Provider::new(provider_program.provider_url());
    provider
        .faults(&json!({"mode": "slow", "latency_ms": 30}))
        .await;
    let arguments = [
        "--provider-url",
        provider_program.provider_url(),
        "--lease",
        "1s",
    ];
    let mut program = Program::serve(folder.path(), &arguments).await;
    let client = [Client::new(program.api())];

    let load = Load::start(8, &client);
    for _ in 0..4 {
        load.answered(30).await;
        program.kill();
        load.failed(8).await;
        program = Program::serve(folder.path(), &arguments).await;
        client[0].follow(program.api());
    }
    load.answered(30).await;
    let told = load.finish().await;

    let ledger = provider.ledger().await;
    load::check(&told, &ledger, &client).await;
    assert!(
        ledger.calls > told.len() as u64,
        "no kill hit a charge between the provider and its answer"
    );
    let list = client[0].get("/v1/charges").await.json();
    assert_eq!(list["has_more"], told.len() > 100);
}

#[tokio::test]
async fn at_sigterm_a_charge_in_flight_is_answered() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempdir().unwrap();
        let mut program = Program::serve(folder.path(), &["--provider-timeout", "60s"]).await;
        let client = Client::new(program.api());
        let provider = Provider::new(program.provider_url());
        let slow = json!({"mode": "slow", "latency_ms": 2000, "count": 1});
        provider.faults(&slow).await;
        let in_flight = tokio::spawn({
            let client = client.clone();
            async move { client.charge("k", &of_amount(100)).await }
        });
        provider.called(1).await;
        let address = program.api().strip_prefix("http://").unwrap().to_owned();
        let _idle = TcpStream::connect(&address).unwrap();

        program.signal(signal);

        eventually("the end of accepting", async || {
            TcpStream::connect(&address).err()
        })
        .await;
        let answer = in_flight.await.unwrap();
        let status = program.ended().await;
        assert_eq!(answer.status, 201);
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(program.lines().len(), 4);
    }
}

#[tokio::test]
async fn at_sigterm_a_charge_whose_client_left_is_finished_too() {
    let folder = tempdir().unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let provider = Provider::new(provider_program.provider_url());
    let arguments = [
        "--provider-url",
        provider_program.provider_url(),
        "--provider-timeout",
        "60s",
        "--lease",
        "60s",
    ];
    let mut program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let slow = json!({"mode": "slow", "latency_ms": 2000, "count": 1});
    provider.faults(&slow).await;
    let left = tokio::spawn(async move { client.charge("k", &of_amount(100)).await });
    provider.called(1).await;
    left.abort();
    left.await.unwrap_err();

    program.signal(Signal::SIGTERM);
    let status = program.ended().await;

    assert!(status.success(), "{status}");
    let program = Program::serve(folder.path(), &arguments).await;
    let retry = Client::new(program.api())
        .charge("k", &of_amount(100))
        .await;
    assert_eq!((retry.status, retry.replayed()), (201, Some(true)));
    assert_eq!(provider.ledger().await.calls, 1);
}

#[tokio::test]
async fn at_sigterm_a_client_that_stalls_in_its_head_does_not_matter_for_long() {
    let folder = tempdir().unwrap();
    let mut program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let address = program.api().strip_prefix("http://").unwrap();
    let mut stalled = TcpStream::connect(address).unwrap();
    stalled
        .write_all(b"POST /v1/charges HTTP/1.1\r\nhost: ")
        .unwrap();
    // Accepted after the stalled one, and answered.
    let client = Client::new(program.api());
    assert_eq!(client.charge("k", &of_amount(100)).await.status, 201);

    program.signal(Signal::SIGTERM);
    let status = program.ended().await;

    assert!(status.success(), "{status}");
    assert!(
        !program.logs().contains("were cut off"),
        "only the end of all patience ended it"
    );
}

/// Takes as long as the program waits at its end: 25 s.
#[tokio::test]
async fn at_sigterm_the_wait_has_an_end() {
    let folder = tempdir().unwrap();
    let mut program = Program::serve(folder.path(), &["--provider-timeout", "300s"]).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let stuck = json!({"mode": "slow", "latency_ms": 300_000});
    provider.faults(&stuck).await;
    let cut = tokio::spawn(async move { client.try_charge("k", &of_amount(100)).await });
    provider.called(1).await;

    program.signal(Signal::SIGTERM);

    assert_eq!(program.ended().await.code(), Some(1));
    assert!(program.logs().contains("operations were cut off"));
    cut.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn at_sigterm_the_provider_ends() {
    let folder = tempdir().unwrap();
    let mut program = Program::provider(folder.path()).await;
    Provider::new(program.provider_url())
        .charge(None, &of_amount(1))
        .await
        .unwrap();

    program.signal(Signal::SIGTERM);

    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let folder = tempdir().unwrap();
    let mut program = Program::serve(folder.path(), &["--provider-timeout", "300s"]).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let stuck = json!({"mode": "slow", "latency_ms": 300_000});
    provider.faults(&stuck).await;
    let cut = tokio::spawn(async move { client.try_charge("k", &of_amount(100)).await });
    provider.called(1).await;

    program.signal(Signal::SIGTERM);
    eventually("the first signal", async || {
        program.logs().contains("stopping").then_some(())
    })
    .await;
    program.signal(Signal::SIGTERM);

    assert_eq!(program.ended().await.code(), Some(1));
    cut.await.unwrap().unwrap_err();
}
