//! Two processes on one database.

use std::path::Path;

use serde_json::json;
use steadfast_testkit::postgres;
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::{
    client::{Client, of_amount},
    program::Program,
    provider::Provider,
};

#[tokio::test]
async fn a_crowd_at_two_processes_on_one_postgres_is_one_charge_for_each_key() {
    let folder = tempdir().unwrap();
    let database = postgres::database().await.unwrap();
    crowd(folder.path(), database.url()).await;
}

#[tokio::test]
async fn a_crowd_at_two_processes_on_one_file_is_one_charge_for_each_key() {
    let folder = tempdir().unwrap();
    crowd(folder.path(), "sqlite:shared.db").await;
}

async fn crowd(folder: &Path, store: &str) {
    let provider_program = Program::provider(folder).await;
    let provider = Provider::new(provider_program.provider_url());
    provider
        .faults(&json!({"mode": "slow", "latency_ms": 100}))
        .await;
    let arguments = [
        "--store",
        store,
        "--provider-url",
        provider_program.provider_url(),
    ];
    // Both make the schema at once.
    let (one, two) = tokio::join!(
        Program::serve(folder, &arguments),
        Program::serve(folder, &arguments),
    );
    let clients = [Client::new(one.api()), Client::new(two.api())];

    let mut crowd = JoinSet::new();
    for amount in 1..=10 {
        for number in 0..10 {
            let client = clients[number % 2].clone();
            crowd.spawn(async move {
                let key = amount.to_string();
                let answer = client.charge_until_answered(&key, &of_amount(amount)).await;
                (amount, answer)
            });
        }
    }
    let answers = crowd.join_all().await;

    for amount in 1..=10 {
        let same: Vec<_> = answers.iter().filter(|(of, _)| *of == amount).collect();
        assert!(same.iter().all(|(_, answer)| answer.status == 201));
        assert!(same.iter().all(|(_, answer)| answer.body == same[0].1.body));
        let executed = same
            .iter()
            .filter(|(_, answer)| answer.replayed() == Some(false));
        assert_eq!(executed.count(), 1, "{amount}");
    }
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (10, 10));
}
