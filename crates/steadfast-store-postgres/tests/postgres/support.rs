use std::time::Duration;

use steadfast_core::idempotency::{Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{Begin, Store};
use steadfast_store_postgres::{
    PostgresStore,
    sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, postgres::PgRow},
};
use steadfast_testkit::postgres::{Database, database};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// A migrated store in a database of its own, which lives as long as the first value.
pub(crate) async fn store() -> (Database, PostgresStore) {
    let database = database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    (database, store)
}

/// The same, whose statements wait for a lock for as long as their call may: for what must happen while they wait.
pub(crate) async fn store_that_waits() -> (Database, PostgresStore) {
    let database = database().await.unwrap();
    let url = with_option(database.url(), "lock_timeout", "30s");
    let store = PostgresStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    (database, store)
}

pub(crate) fn with_option(url: &str, name: &str, value: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}options[{name}]={value}")
}

pub(crate) async fn connection(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

pub(crate) async fn run(connection: &mut PgConnection, statements: &str) {
    connection
        .execute(AssertSqlSafe(statements))
        .await
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
}

pub(crate) async fn ask(connection: &mut PgConnection, query: &str) -> PgRow {
    connection.fetch_one(AssertSqlSafe(query)).await.unwrap()
}

pub(crate) async fn number(connection: &mut PgConnection, query: &str) -> i64 {
    ask(connection, query).await.get(0)
}

/// Waits for the condition, ten seconds at most.
pub(crate) async fn until(failure: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{failure}");
}

/// Waits until as many backends as `count` wait for a lock.
pub(crate) async fn until_waiting(connection: &mut PgConnection, count: i64) {
    // Not pg_stat_activity, which a transaction sees as it was when it first looked.
    let waiting = "SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid \
                   WHERE NOT granted AND datname = current_database()";
    for _ in 0..500 {
        if number(connection, waiting).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {count} backends wait for a lock");
}

pub(crate) const fn key(n: u8) -> KeyDigest {
    KeyDigest::from_bytes([n; 32])
}

pub(crate) const fn owner(n: u8) -> OwnerId {
    OwnerId::from_bytes([n; 16])
}

pub(crate) const fn terms(n: u8) -> Terms {
    Terms {
        owner: owner(n),
        fingerprint: Fingerprint::new(1, [7; 32]),
        promise: Promise::AtMostOnce,
        lease: HOUR,
        retention: HOUR,
    }
}

pub(crate) async fn claimed(store: &impl Store, key: &KeyDigest, terms: &Terms) -> Claim {
    let begun = store.begin(key, terms).await.unwrap();
    let Begin::Claimed(claim) = begun else {
        panic!("not claimed: {begun:?}");
    };
    claim
}
