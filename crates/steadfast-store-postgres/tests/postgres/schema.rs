use std::time::Duration;

use futures_util::future::join_all;
use steadfast_store::{Begin, Store, StoreErrorKind, StoredResponse};
use steadfast_store_postgres::{
    PostgresStore, TableName,
    sqlx::{PgPool, Row},
};
use steadfast_testkit::postgres::database;

use crate::support::{
    HOUR, ask, claimed, connection, key, number, run, store, terms, until_waiting,
};

#[tokio::test]
async fn a_hostile_name_is_a_table_like_any_other() {
    let (database, store) = store().await;
    let mut connection = connection(database.url()).await;
    run(&mut connection, "CREATE TABLE victim ()").await;

    for name in [
        r#"x"; DROP TABLE victim; --"#,
        "{table}{book}",
        "Ümläut 'n' $1 \\ \n",
        "select",
        &"long".repeat(13),
    ] {
        let table = TableName::new(name).unwrap();
        let store = store
            .clone()
            .with_table(table.with_schema(r#"a "schema""#).unwrap());
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();
        let claim = claimed(&store, &key(1), &terms(1)).await;
        let _ = store.release(claim.claimant()).await.unwrap();
    }

    ask(&mut connection, "SELECT count(*) FROM victim").await;
    let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'a \"schema\"'";
    assert_eq!(number(&mut connection, count).await, 10);
}

#[tokio::test]
async fn many_migrate_at_once_and_one_does_it() {
    let database = database().await.unwrap();
    let stores = join_all((0..8).map(|_| PostgresStore::connect(database.url()))).await;

    let outcomes = join_all(stores.iter().map(|store| {
        let store = store.as_ref().unwrap();
        store.migrate()
    }))
    .await;

    for outcome in outcomes {
        outcome.unwrap();
    }
    let mut connection = connection(database.url()).await;
    let book = "SELECT count(*) FROM steadfast_idempotency_migrations";
    assert_eq!(number(&mut connection, book).await, 1);
}

#[tokio::test]
async fn tables_made_at_once_in_one_missing_schema_do_not_collide() {
    let database = database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();

    for round in 0..8 {
        let schema = format!("shop{round}");
        let outcomes = join_all((0..8).map(|n| {
            let table = TableName::new(format!("table{n}")).unwrap();
            let store = store.clone();
            let store = store.with_table(table.with_schema(&schema).unwrap());
            async move { store.migrate().await }
        }))
        .await;
        for outcome in outcomes {
            outcome.unwrap();
        }
    }
}

#[tokio::test]
async fn a_migration_that_waits_for_a_table_steps_back_and_tries_again() {
    let (database, store) = store().await;
    let mut operator = connection(database.url()).await;
    run(
        &mut operator,
        "BEGIN; LOCK TABLE steadfast_idempotency_migrations",
    )
    .await;
    let migrating = tokio::spawn({
        let store = store.clone();
        async move { store.migrate().await }
    });

    for _ in 0..2 {
        until_waiting(&mut operator, 1).await;
        until_waiting(&mut operator, 0).await;
    }

    run(&mut operator, "COMMIT").await;
    migrating.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_migration_that_is_dropped_leaves_nothing_and_no_lock() {
    let database = database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();
    let mut connection = connection(database.url()).await;
    run(
        &mut connection,
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('steadfast migrations', 0))",
    )
    .await;
    let migrating = tokio::spawn({
        let store = store.clone();
        async move { store.migrate().await }
    });
    until_waiting(&mut connection, 1).await;

    migrating.abort();
    assert!(migrating.await.unwrap_err().is_cancelled());
    run(&mut connection, "COMMIT").await;

    store.migrate().await.unwrap();
    claimed(&store, &key(1), &terms(1)).await;
}

#[tokio::test]
async fn two_schemas_share_nothing() {
    let (_database, store) = store().await;
    let in_schema = |schema: &str| {
        let table = TableName::default().with_schema(schema).unwrap();
        store.clone().with_table(table)
    };
    let (one, other) = (in_schema("one"), in_schema("other"));
    one.migrate().await.unwrap();
    other.migrate().await.unwrap();

    claimed(&one, &key(1), &terms(1)).await;

    claimed(&other, &key(1), &terms(2)).await;
    claimed(&store, &key(1), &terms(3)).await;
    assert_ne!(one.id(), other.id());
    assert_eq!(one.id(), one.clone().id());
    assert!(matches!(
        one.begin(&key(1), &terms(4)).await.unwrap(),
        Begin::Running { .. }
    ));
}

#[tokio::test]
async fn the_schema_serves_a_migrator_of_ones_own() {
    let database = database().await.unwrap();
    let store = PostgresStore::connect(database.url())
        .await
        .unwrap()
        .with_table(TableName::new("Own").unwrap());
    let mut connection = connection(database.url()).await;

    run(&mut connection, &store.table().schema_sql()).await;

    claimed(&store, &key(1), &terms(1)).await;
    let error = store.migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_role_that_may_only_use_the_table_needs_no_more_once_it_is_migrated() {
    let (database, store) = store().await;
    let mut connection = connection(database.url()).await;
    let role = format!("clerk_{}", std::process::id());
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'clerk'; REVOKE CREATE ON SCHEMA public FROM public; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON steadfast_idempotency TO {role}; \
             GRANT SELECT ON steadfast_idempotency_migrations TO {role}"
        ),
    )
    .await;
    let options = (*store.pool().connect_options()).clone();
    let options = options.username(&role).password("clerk");
    let pool = PgPool::connect_with(options).await.unwrap();
    let clerk = PostgresStore::new(pool);

    clerk.migrate().await.unwrap();
    let claim = claimed(&clerk, &key(1), &terms(1)).await;
    let _ = clerk.release(claim.claimant()).await.unwrap();

    run(
        &mut connection,
        &format!("REVOKE INSERT ON steadfast_idempotency FROM {role}"),
    )
    .await;
    let error = clerk.begin(&key(2), &terms(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(!error.may_have_applied());
    run(
        &mut connection,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn completing_and_renewing_stay_heap_only() {
    let (database, store) = store().await;

    for n in 1..50 {
        let claim = claimed(&store, &key(n), &terms(n)).await;
        let _ = store.renew(&claim, HOUR).await.unwrap();
        let answer = StoredResponse::new(1, "short");
        let _ = store.complete(&claim, &answer).await.unwrap();
    }

    store.pool().close().await;
    let mut connection = connection(database.url()).await;
    let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables \
                  WHERE relname = 'steadfast_idempotency'";
    for _ in 0..500 {
        let row = ask(&mut connection, counts).await;
        let (updates, heap_only): (i64, i64) = (row.get(0), row.get(1));
        if updates == 98 {
            assert!(heap_only >= 90, "{heap_only} of {updates}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the statistics never came");
}
