use std::{error::Error, time::Duration};

use futures_util::FutureExt;
use steadfast_core::idempotency::{Terms, Transition};
use steadfast_store::{Begin, Store, StoreError, StoreErrorKind, StoredResponse};
use steadfast_store_postgres::{
    PostgresStore,
    sqlx::{self, Row, postgres::PgPoolOptions},
};
use steadfast_testkit::postgres::{Server, database};
use tokio::time::Instant;

use crate::support::{
    HOUR, ask, claimed, connection, key, number, run, store, store_that_waits, terms, until,
    until_waiting, with_option,
};

const LOCK: &str = "BEGIN; LOCK TABLE steadfast_idempotency";

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
                         JOIN pg_database ON database = pg_database.oid \
                         WHERE NOT granted AND datname = current_database()";

/// The chain of an error reaches the driver's.
fn driver(error: &StoreError) -> &sqlx::Error {
    error.source().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn a_missing_table_is_a_matter_of_set_up() {
    let database = database().await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();

    let error = store.begin(&key(1), &terms(1)).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(!error.may_have_applied());
    let driver = driver(&error).as_database_error().unwrap();
    assert_eq!(driver.code().unwrap(), "42P01");
}

#[tokio::test]
async fn a_login_that_is_refused_is_a_matter_of_set_up_and_nothing_shows_the_password() {
    let server = Server::start().await.unwrap();
    let mut connection = connection(server.url()).await;
    run(
        &mut connection,
        "CREATE ROLE clerk LOGIN PASSWORD 'right'; CREATE TABLE rules (line text); \
         INSERT INTO rules VALUES ('host all clerk 127.0.0.1/32 scram-sha-256'), \
         ('host all all 127.0.0.1/32 trust')",
    )
    .await;
    let file: String = ask(&mut connection, "SHOW hba_file").await.get(0);
    run(&mut connection, &format!("COPY rules TO '{file}'")).await;
    run(&mut connection, "SELECT pg_reload_conf()").await;
    let port = server.url().rsplit(':').next().unwrap();
    let url = |password: &str| format!("postgres://clerk:{password}@127.0.0.1:{port}");
    // The rules are read some time after the order to read them.
    let mut refused = None;
    for _ in 0..200 {
        match PostgresStore::connect(&url("s3cret")).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }

    let error = refused.expect("the wrong password was taken");
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured, "{error:?}");
    assert!(!format!("{error:?} {}", driver(&error)).contains("s3cret"));
    let pool = PgPoolOptions::new().connect_lazy(&url("s3cret")).unwrap();
    let store = PostgresStore::new(pool);
    assert!(!format!("{store:?}").contains("s3cret"));
    let error = store.begin(&key(1), &terms(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured, "{error:?}");
    assert!(!error.may_have_applied());

    let database = format!("{}none", server.url().trim_end_matches("postgres"));
    let error = PostgresStore::connect(&database).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    let error = PostgresStore::connect("mysql://127.0.0.1/x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused() {
    let database = database().await.unwrap();
    let forgetful = with_option(database.url(), "synchronous_commit", "off");

    let error = PostgresStore::connect(&forgetful).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_server_that_never_writes_to_its_disk_is_refused() {
    let server = Server::start().await.unwrap();
    let mut operator = connection(server.url()).await;
    PostgresStore::connect(server.url()).await.unwrap();

    run(&mut operator, "ALTER SYSTEM SET fsync = off").await;
    run(&mut operator, "SELECT pg_reload_conf()").await;

    // The server reads its settings some time after the order to read them.
    until("the server was taken", async || {
        let Err(error) = PostgresStore::connect(server.url()).await else {
            return false;
        };
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
        true
    })
    .await;
}

#[tokio::test]
async fn a_standby_is_unavailable_until_it_is_promoted() {
    let server = Server::start().await.unwrap();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let claim = claimed(&store, &key(1), &terms(1)).await;
    let mut operator = connection(server.url()).await;
    let data: String = ask(&mut operator, "SHOW data_directory").await.get(0);
    run(
        &mut operator,
        &format!("COPY (SELECT) TO '{data}/standby.signal'"),
    )
    .await;
    server.stop().await.unwrap();
    server.restart().await.unwrap();

    let error = PostgresStore::connect(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.source().unwrap().to_string().contains("standby"));
    // The first finds the connections dead that were there before the restart.
    let _ = store.begin(&key(2), &terms(2)).await;
    let error = store.begin(&key(2), &terms(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());

    let mut operator = connection(server.url()).await;
    run(&mut operator, "SELECT pg_promote()").await;
    claimed(&store, &key(2), &terms(2)).await;
    assert_eq!(
        store.renew(&claim, HOUR).await.unwrap(),
        Transition::Applied
    );
}

#[tokio::test]
async fn a_connection_that_became_read_only_is_never_used_again() {
    let (_database, store) = store().await;
    let mut demoted = Vec::new();
    for _ in 0..4 {
        let mut connection = store.pool().acquire().await.unwrap();
        run(&mut connection, "SET default_transaction_read_only = on").await;
        demoted.push(connection);
    }
    drop(demoted);
    until("the connections never came back", async || {
        store.pool().num_idle() == 4
    })
    .await;

    claimed(&store, &key(1), &terms(1)).await;

    let mut left = Vec::new();
    for _ in 0..5 {
        let mut connection = store.pool().acquire().await.unwrap();
        let setting = ask(&mut connection, "SHOW transaction_read_only").await;
        assert_eq!(setting.get::<String, _>(0), "off");
        left.push(connection);
    }
}

#[tokio::test]
async fn a_stopped_server_is_unavailable_in_time_and_got_nothing() {
    let server = Server::start().await.unwrap();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let claim = claimed(&store, &key(1), &terms(1)).await;
    server.stop().await.unwrap();
    // The first call after the stop finds its connection dead, and cannot know what became of its statement.
    let error = store.begin(&key(2), &terms(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);

    let started = Instant::now();
    let error = store.begin(&key(2), &terms(2)).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    assert!(started.elapsed() < Duration::from_secs(3));
    let error = PostgresStore::connect(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);

    server.restart().await.unwrap();
    assert_eq!(
        store.renew(&claim, HOUR).await.unwrap(),
        Transition::Applied
    );
}

#[tokio::test]
async fn a_server_that_crashed_and_came_back_is_not_noticed() {
    let server = Server::start().await.unwrap();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let claim = claimed(&store, &key(1), &terms(1)).await;
    // More dead connections than one resending would get through.
    let crowd = (0..8).map(|n| {
        let store = store.clone();
        async move { store.look_up(&[key(n)]).await.unwrap().len() }
    });
    futures_util::future::join_all(crowd).await;

    server.kill().await.unwrap();
    server.restart().await.unwrap();

    let answer = StoredResponse::new(1, "done");
    assert_eq!(
        store.complete(&claim, &answer).await.unwrap(),
        Transition::Applied
    );
    server.kill().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(
        store.begin(&key(1), &terms(2)).await.unwrap(),
        Begin::Completed { response: answer }
    );
}

#[tokio::test]
async fn a_step_whose_backend_is_ended_is_sent_again() {
    let (database, store) = store_that_waits().await;
    let mut operator = connection(database.url()).await;
    let claim = claimed(&store, &key(1), &terms(1)).await;
    let released = claimed(&store, &key(2), &terms(1)).await;
    run(&mut operator, LOCK).await;
    let renewing = {
        let store = store.clone();
        tokio::spawn(async move { store.renew(&claim, HOUR).await })
    };
    let releasing = {
        let store = store.clone();
        tokio::spawn(async move { store.release(released.claimant()).await })
    };
    until_waiting(&mut operator, 2).await;

    assert_eq!(number(&mut operator, TERMINATE).await, 2);
    run(&mut operator, "COMMIT").await;

    assert_eq!(renewing.await.unwrap().unwrap(), Transition::Applied);
    assert_eq!(releasing.await.unwrap().unwrap(), Transition::Applied);
}

#[tokio::test]
async fn a_release_that_may_have_happened_is_not_called_fenced() {
    let (database, store) = store_that_waits().await;
    let mut operator = connection(database.url()).await;
    let claim = claimed(&store, &key(1), &terms(1)).await;
    run(&mut operator, LOCK).await;
    let releasing = {
        let store = store.clone();
        tokio::spawn(async move { store.release(claim.claimant()).await })
    };
    until_waiting(&mut operator, 1).await;
    run(&mut operator, "DELETE FROM steadfast_idempotency").await;

    assert_eq!(number(&mut operator, TERMINATE).await, 1);
    run(&mut operator, "COMMIT").await;

    let error = releasing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.may_have_applied());
}

#[tokio::test]
async fn a_step_that_waits_too_long_for_a_lock_is_unavailable_and_changed_nothing() {
    let (database, store) = store().await;
    let mut operator = connection(database.url()).await;
    run(&mut operator, LOCK).await;

    let error = store.begin(&key(1), &terms(1)).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    let driver = driver(&error).as_database_error().unwrap();
    assert_eq!(driver.code().unwrap(), "55P03");
}

#[tokio::test]
async fn the_operators_list_may_take_longer_than_a_statement_of_its_connection() {
    let (database, _) = store().await;
    let mut operator = connection(database.url()).await;
    let url = with_option(database.url(), "lock_timeout", "30s");
    let url = with_option(&url, "statement_timeout", "300ms");
    let store = PostgresStore::connect(&url).await.unwrap();
    run(&mut operator, LOCK).await;
    let listing = {
        let store = store.clone();
        tokio::spawn(async move { store.list_indeterminate(10).await })
    };
    until_waiting(&mut operator, 1).await;

    // Begun later, so that the list has waited longer when this one's time is over.
    let error = store.begin(&key(1), &terms(1)).await.unwrap_err();

    let driver = driver(&error).as_database_error().unwrap();
    assert_eq!(driver.code().unwrap(), "57014");
    run(&mut operator, "COMMIT").await;
    assert_eq!(listing.await.unwrap().unwrap(), []);
    // Nothing of the list's own setting stays with its connection.
    until("the connections never came back", async || {
        store.pool().num_idle() == 2
    })
    .await;
    let mut left = Vec::new();
    for _ in 0..2 {
        let mut connection = store.pool().acquire().await.unwrap();
        let setting = ask(&mut connection, "SHOW statement_timeout").await;
        assert_eq!(setting.get::<String, _>(0), "300ms");
        left.push(connection);
    }
}

#[tokio::test]
async fn a_step_out_of_time_leaves_the_pool_whole_and_itself_in_doubt() {
    let (database, _) = store().await;
    let mut operator = connection(database.url()).await;
    // As a user's pool may be: one connection, and no limit on the server's side.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(database.url());
    let store = PostgresStore::new(pool.await.unwrap());
    run(&mut operator, LOCK).await;

    let error = store.begin(&key(1), &terms(1)).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.may_have_applied());
    // The statement still waits on the server, and its connection's place is free all the same.
    let another = sqlx::query("SELECT 1").execute(store.pool());
    tokio::time::timeout(Duration::from_secs(10), another)
        .await
        .expect("the pool's only place is taken")
        .unwrap();
    run(&mut operator, "COMMIT").await;
    claimed(&store, &key(1), &terms(1)).await;
    assert!(store.pool().size() <= 1);
}

#[tokio::test]
async fn a_step_dropped_anywhere_leaves_the_pool_whole() {
    let (database, store) = store_that_waits().await;
    let mut operator = connection(database.url()).await;
    for n in 0..20 {
        run(&mut operator, LOCK).await;
        let beginning = {
            let store = store.clone();
            tokio::spawn(async move { store.begin(&key(n), &terms(n)).await })
        };
        until_waiting(&mut operator, 1).await;
        beginning.abort();
        assert!(beginning.await.unwrap_err().is_cancelled());
        run(&mut operator, "COMMIT").await;
        claimed(&store, &key(n), &terms(n)).await;
    }
    let (key, terms) = (key(100), terms(100));
    for polls in 0..40 {
        let mut begin = Box::pin(store.begin(&key, &terms));
        for _ in 0..polls {
            if begin.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begin);
        claimed(&store, &key, &terms).await;
    }
}

#[tokio::test]
async fn statements_deallocated_behind_the_drivers_back_are_prepared_again() {
    let (database, _) = store().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let store = PostgresStore::new(pool.connect(database.url()).await.unwrap());
    claimed(&store, &key(1), &terms(1)).await;

    let mut connection = store.pool().acquire().await.unwrap();
    run(&mut connection, "DEALLOCATE ALL").await;
    drop(connection);

    claimed(&store, &key(2), &terms(1)).await;
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_a_matter_of_set_up() {
    let (database, store) = store().await;
    let mut operator = connection(database.url()).await;
    claimed(&store, &key(1), &terms(1)).await;

    run(
        &mut operator,
        "UPDATE steadfast_idempotency SET promise = 9",
    )
    .await;

    let error = store.show(&key(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_response_too_large_for_postgres_is_refused_and_the_longest_times_are_not() {
    let (_database, store) = store().await;
    let eternal = Terms {
        lease: Duration::MAX,
        retention: Duration::MAX,
        ..terms(1)
    };
    let claim = claimed(&store, &key(1), &eternal).await;
    let _ = store.reap(10, Duration::MAX).await.unwrap();
    assert_eq!(
        store.renew(&claim, Duration::MAX).await.unwrap(),
        Transition::Applied
    );

    let endless = StoredResponse::new(1, vec![0; 1 << 30]);
    let error = store.complete(&claim, &endless).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(!error.may_have_applied());
}
