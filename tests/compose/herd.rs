//! Everybody at once with one key.

use std::{collections::HashSet, time::Duration};

use axum::Router;
use futures_util::future::join_all;
use http::StatusCode;
use steadfast::{
    idempotency::{IdempotencyConfig, Promise},
    store::{MemoryStore, Store},
    store_postgres::PostgresStore,
    store_sqlite::SqliteStore,
};

use crate::support::{
    Bank, Connection, PROMISES, Protocol, charge, eventually, layer, serve, until_done,
};

const CONNECTIONS: usize = 50;
const REQUESTS: usize = 4;

async fn two_hundred_duplicates_start_once(store: impl Store + Clone) {
    for promise in PROMISES {
        let bank = Bank::with_its_door_shut();
        let namespace = if promise == Promise::AtMostOnce {
            "one"
        } else {
            "another"
        };
        let config = IdempotencyConfig::default()
            .with_namespace(namespace)
            .with_wait(Duration::from_secs(60));
        let layer = layer(promise, store.clone(), config);
        let router = Router::new()
            .route("/charges", bank.route())
            .route_layer(layer.clone());
        let address = serve(bank.watch(router)).await;

        let herd = (0..CONNECTIONS * REQUESTS).map(|n| n / REQUESTS);
        let clients =
            join_all((0..CONNECTIONS).map(|_| Connection::open(Protocol::Http2, address)));
        let clients = clients.await;
        let calls: Vec<_> = herd
            .map(|n| {
                let mut client = clients[n].another_stream();
                tokio::spawn(async move {
                    client
                        .send(charge("/charges", "k", "amount=5"))
                        .await
                        .unwrap()
                })
            })
            .collect();
        eventually("everybody is there", || {
            bank.callers() == CONNECTIONS * REQUESTS
        })
        .await;
        bank.until_started(1).await;
        bank.open();
        let answers: Vec<_> = join_all(calls)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        until_done(&layer.handle()).await;

        assert_eq!((bank.started(), bank.cut()), (1, 0));
        let (given, pending): (Vec<_>, Vec<_>) = answers
            .iter()
            .partition(|answer| answer.status == StatusCode::CREATED);
        for answer in pending {
            // A layer may let only so many wait.
            assert_eq!(answer.code().as_deref(), Some("in-progress"), "{answer:?}");
        }
        let texts: HashSet<_> = given.iter().map(|answer| answer.text()).collect();
        assert_eq!(texts, HashSet::from(["amount=5 run=1 execution=1"]));
        let executed = given
            .iter()
            .filter(|answer| answer.marker() == Some("false"));
        assert_eq!(executed.count(), 1);
        assert!(given.len() > 1, "nobody was let wait");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_memory() {
    two_hundred_duplicates_start_once(MemoryStore::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("keys.db"))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    two_hundred_duplicates_start_once(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgres() {
    let database = steadfast_testkit::postgres::database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    two_hundred_duplicates_start_once(store).await;
}
