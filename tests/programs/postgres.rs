//! Charges and records in Postgres: a process that another one replaces, and a database that comes and goes.

use payments::{config::StoreUrl, database::Database};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use steadfast_testkit::postgres;
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    load::{self, Load},
    program::{Program, eventually},
    provider::Provider,
    proxy::Proxy,
    records,
};

#[tokio::test]
async fn everything_is_in_one_database_and_survives_a_restart() {
    let folder = tempdir().unwrap();
    let database = postgres::database().await.unwrap();
    let arguments = ["--store", database.url()];
    let program = Program::serve(folder.path(), &arguments).await;
    let request = json!({"amount": 5, "currency": "usd", "order": "é", "customer": "c"});
    let first = Client::new(program.api()).charge("k", &request).await;
    assert_eq!(first.status, 201);
    program.kill();

    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let again = client.charge("k", &request).await;
    let list = client.get("/v1/charges").await.json();
    let path = format!("/v1/charges/{}", first.json()["id"].as_str().unwrap());

    assert_eq!((again.status, again.replayed()), (201, Some(true)));
    assert_eq!(again.body, first.body);
    assert_eq!(
        list,
        json!({"object": "list", "data": [first.json()], "has_more": false})
    );
    assert_eq!(client.get(&path).await.json(), first.json());
    assert_eq!(client.with_account("sk_other").get(&path).await.status, 404);
}

#[tokio::test]
async fn a_process_takes_over_what_another_one_was_killed_in() {
    let folder = tempdir().unwrap();
    let database = postgres::database().await.unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let provider = Provider::new(provider_program.provider_url());
    let arguments = [
        "--store",
        database.url(),
        "--provider-url",
        provider_program.provider_url(),
        "--provider-timeout",
        "60s",
        "--lease",
        "10m",
    ];
    let doomed = Program::serve(folder.path(), &arguments).await;
    let other = Program::serve(folder.path(), &arguments).await;
    let stuck = json!({"mode": "slow", "latency_ms": 60_000, "count": 1});
    provider.faults(&stuck).await;
    let client = Client::new(doomed.api());
    let first = tokio::spawn(async move { client.try_charge("k", &of_amount(100)).await });
    provider.called(1).await;

    let client = Client::new(other.api());
    let pending = client.charge("k", &of_amount(100)).await;
    doomed.kill();
    first.await.unwrap().unwrap_err();
    records::end_leases_in_postgres(database.url()).await;
    let taken_over = client.charge("k", &of_amount(100)).await;

    assert_eq!(pending.problem(), (409, "in-progress".into()));
    assert_eq!(
        (taken_over.status, taken_over.replayed()),
        (201, Some(false))
    );
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 2));
}

#[tokio::test]
async fn a_database_that_stops_and_crashes_under_load_costs_no_charge_and_no_answer() {
    let folder = tempdir().unwrap();
    let server = postgres::Server::start().await.unwrap();
    let provider_program = Program::provider(folder.path()).await;
    let arguments = [
        "--store",
        server.url(),
        "--provider-url",
        provider_program.provider_url(),
        "--lease",
        "2s",
    ];
    let one = Program::serve(folder.path(), &arguments).await;
    let two = Program::serve(folder.path(), &arguments).await;
    let clients = [Client::new(one.api()), Client::new(two.api())];

    let load = Load::start(8, &clients);
    load.answered(40).await;
    server.stop().await.unwrap();
    load.failed(8).await;
    server.restart().await.unwrap();
    load.answered(40).await;
    server.kill().await.unwrap();
    load.failed(8).await;
    server.restart().await.unwrap();
    load.answered(40).await;
    let told = load.finish().await;

    let ledger = Provider::new(provider_program.provider_url())
        .ledger()
        .await;
    load::check(&told, &ledger, &clients).await;
    let after = Provider::new(provider_program.provider_url())
        .ledger()
        .await;
    assert_eq!(
        after.charges.len(),
        ledger.charges.len(),
        "asking again charged"
    );
}

#[tokio::test]
async fn without_its_database_the_api_charges_nothing() {
    let folder = tempdir().unwrap();
    let server = postgres::Server::start().await.unwrap();
    let program = Program::serve(folder.path(), &["--store", server.url()]).await;
    let client = Client::new(program.api());
    assert_eq!(client.charge("before", &of_amount(1)).await.status, 201);

    server.stop().await.unwrap();

    let refused = client.charge("k", &of_amount(2)).await;
    assert_eq!(refused.problem(), (503, "store-unavailable".into()));
    assert!(refused.header("retry-after").is_some());
    let list = client.get("/v1/charges").await;
    assert_eq!(list.problem(), (503, "database-unavailable".into()));
    assert!(list.header("retry-after").is_some());
    assert_eq!(
        Provider::new(program.provider_url()).ledger().await.calls,
        1
    );

    server.restart().await.unwrap();
    let charged = client.charge_until_answered("k", &of_amount(2)).await;
    assert_eq!(charged.status, 201);
}

#[tokio::test]
async fn connections_that_die_in_the_middle_of_a_statement_are_replaced() {
    const POOL: i64 = 10;
    let database = postgres::database().await.unwrap();
    let proxy = Proxy::before(database.url()).await;
    let url: StoreUrl = proxy.route(database.url()).parse().unwrap();
    let charges = Database::open(&url).await.unwrap().charges;
    let mut locker = PgConnection::connect(database.url()).await.unwrap();
    // A transaction would see the same activity for ever.
    let mut observer = PgConnection::connect(database.url()).await.unwrap();
    let mut locked = locker.begin().await.unwrap();
    sqlx::query("LOCK TABLE payments_charges")
        .execute(&mut *locked)
        .await
        .unwrap();

    let calls: Vec<_> = (0..POOL)
        .map(|_| {
            let charges = charges.clone();
            tokio::spawn(async move { charges.find("a", "b").await })
        })
        .collect();
    eventually("every connection in a statement", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        // On a stalled machine the first may have reached its limit before the last was sent.
        (waiting == POOL || calls.iter().any(|call| call.is_finished())).then_some(())
    })
    .await;
    proxy.freeze();
    locked.rollback().await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap_err();
    }

    let found = eventually("an answer on a fresh connection", async || {
        charges.find("a", "b").await.ok()
    })
    .await;
    assert_eq!(found, None);
}
