use std::time::Duration;

use futures_util::future::join_all;
use steadfast_core::idempotency::{Fingerprint, Promise, Terms};
use steadfast_store::{Begin, Resolution, Store, StoredResponse};
use steadfast_store_postgres::{
    PostgresStore,
    sqlx::{Connection, PgConnection, Row},
};
use steadfast_testkit::postgres::Server;

use crate::support::{HOUR, ask, claimed, connection, key, number, owner, run, store, terms};

#[tokio::test]
async fn asking_again_writes_nothing() {
    // A server of its own: the position of the log is the server's.
    let server = Server::start().await.unwrap();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = connection(server.url()).await;
    run(&mut connection, "CHECKPOINT").await;
    claimed(&store, &key(1), &terms(1)).await;
    let done = claimed(&store, &key(2), &terms(1)).await;
    let _ = store
        .complete(&done, &StoredResponse::new(1, "done"))
        .await
        .unwrap();
    let lapsing = Terms {
        lease: Duration::ZERO,
        ..terms(1)
    };
    claimed(&store, &key(3), &lapsing).await;
    assert_eq!(
        store.begin(&key(3), &terms(2)).await.unwrap(),
        Begin::Indeterminate
    );

    // The server writes of its own now and then; a single round without a byte shows that these calls wrote none.
    let mut written = Vec::new();
    for _ in 0..5 {
        let before = position(&mut connection).await;
        for n in 0..50 {
            for n_key in 1..4 {
                let _ = store.begin(&key(n_key), &terms(100 + n)).await.unwrap();
            }
            let other = Terms {
                fingerprint: Fingerprint::new(1, [8; 32]),
                ..terms(n)
            };
            let _ = store.begin(&key(2), &other).await.unwrap();
            let _ = store.look_up(&[key(1), key(2)]).await.unwrap();
        }
        written.push(position(&mut connection).await - before);
    }
    assert!(written.contains(&(0, 0)), "{written:?}");
}

/// The end of the write-ahead log, and the next transaction id.
async fn position(connection: &mut PgConnection) -> Position {
    let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, \
                    pg_snapshot_xmax(pg_current_snapshot())::text::int8";
    let row = ask(connection, position).await;
    Position(row.get(0), row.get(1))
}

struct Position(i64, i64);

impl std::ops::Sub for Position {
    type Output = (i64, i64);

    fn sub(self, before: Self) -> (i64, i64) {
        (self.0 - before.0, self.1 - before.1)
    }
}

#[tokio::test]
async fn a_begin_is_one_statement() {
    let (database, store) = store().await;
    let mut connection = connection(database.url()).await;
    run(&mut connection, "CREATE SEQUENCE statements").await;
    run(
        &mut connection,
        "CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql \
         AS 'BEGIN PERFORM nextval(''statements''); RETURN NULL; END'; \
         CREATE TRIGGER counted BEFORE INSERT OR UPDATE OR DELETE ON steadfast_idempotency \
         FOR EACH STATEMENT EXECUTE FUNCTION count_statement()",
    )
    .await;
    let _ = store.look_up(&[key(9)]).await.unwrap();

    for n in 0..100 {
        claimed(&store, &key(n), &terms(n)).await;
    }

    // An insert with a conflict clause fires both triggers once.
    assert_eq!(
        number(&mut connection, "SELECT last_value FROM statements").await,
        200
    );
    // From another database: what this connection commits does not count here.
    let name: String = ask(&mut connection, "SELECT current_database()::text")
        .await
        .get(0);
    let elsewhere = (*store.pool().connect_options())
        .clone()
        .database("postgres");
    let mut observer = PgConnection::connect_with(&elsewhere).await.unwrap();
    let commits = format!("SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'");
    store.pool().close().await;
    drop(connection);
    let mut counted = 0;
    for _ in 0..500 {
        counted = number(&mut observer, &commits).await;
        if counted >= 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        (100..160).contains(&counted),
        "{counted} commits for 100 claims"
    );
}

#[tokio::test]
async fn a_plan_made_on_a_table_of_one_page_still_serves_a_large_one() {
    let (database, store) = store().await;
    let mut connection = connection(database.url()).await;
    let scans = "SELECT coalesce(idx_scan, 0), seq_tup_read FROM pg_stat_user_tables \
                 WHERE relname = 'steadfast_idempotency'";
    claimed(&store, &key(200), &terms(1)).await;
    run(
        &mut connection,
        "ALTER TABLE steadfast_idempotency SET (autovacuum_enabled = off)",
    )
    .await;
    run(&mut connection, "VACUUM ANALYZE steadfast_idempotency").await;
    // A connection settles on a general plan at a statement's sixth execution.
    for _ in 0..20 {
        every_short_call(&store).await;
    }
    run(
        &mut connection,
        "INSERT INTO steadfast_idempotency \
         SELECT now(), now() + '1 h', now() + '1 h', 1, 1, 0, NULL, gen_random_uuid(), \
         sha256(n::text::bytea), sha256('x')||'\\x01', NULL FROM generate_series(1, 20000) n",
    )
    .await;

    for _ in 0..10 {
        every_short_call(&store).await;
    }

    store.pool().close().await;
    for _ in 0..500 {
        let row = ask(&mut connection, scans).await;
        let (by_index, whole): (i64, i64) = (row.get(0), row.get(1));
        if by_index >= 100 {
            assert!(whole < 20_000, "a call read the whole table");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the statistics never came");
}

#[tokio::test]
async fn reading_the_whole_table_is_not_compiled_first() {
    let (_database, store) = store().await;
    let mut connection = store.pool().acquire().await.unwrap();

    let explain =
        "EXPLAIN (FORMAT JSON) SELECT count(*) FROM steadfast_idempotency WHERE state = 2";
    let plan: String = ask(&mut connection, explain)
        .await
        .try_get_unchecked(0)
        .unwrap();

    assert!(!plan.contains("\"JIT\""), "{plan}");
}

/// All that reads by key or by expiry; the operators' list reads the whole table.
async fn every_short_call(store: &PostgresStore) {
    let claim = claimed(store, &key(1), &terms(1)).await;
    let _ = store.renew(&claim, HOUR).await.unwrap();
    let _ = store.look_up(&[key(1), key(2)]).await.unwrap();
    let _ = store.show(&key(1)).await.unwrap();
    let _ = store.reap(10, HOUR).await.unwrap();
    let answer = StoredResponse::new(1, "done");
    let _ = store.complete(&claim, &answer).await.unwrap();
    let second = claimed(store, &key(2), &terms(1)).await;
    let _ = store.abandon(&second, owner(9)).await.unwrap();
    let incident = store.show(&key(2)).await.unwrap().unwrap();
    let decided = Resolution::Release;
    let _ = store.resolve(&(&incident).into(), &decided).await.unwrap();
    let resolved = Resolution::Complete {
        resolver: owner(8),
        response: answer,
        retention: Duration::ZERO,
    };
    let third = claimed(store, &key(3), &terms(1)).await;
    let _ = store.abandon(&third, owner(9)).await.unwrap();
    let incident = store.show(&key(3)).await.unwrap().unwrap();
    let _ = store.resolve(&(&incident).into(), &resolved).await.unwrap();
    let _ = store.release(third.claimant()).await.unwrap();
    // Completed for an hour: made free for the next round.
    let mut connection = store.pool().acquire().await.unwrap();
    run(
        &mut connection,
        "DELETE FROM steadfast_idempotency WHERE key = decode(repeat('01', 32), 'hex')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_claims_and_each_is_answered() {
    let (_database, store) = store().await;

    for (round, promise) in (0..60).zip(
        [Promise::AtLeastOnce, Promise::AtMostOnce]
            .into_iter()
            .cycle(),
    ) {
        let first = Terms {
            promise,
            lease: Duration::ZERO,
            ..terms(200)
        };
        // Every third key is new, the others are lost by their owner; none is claimed twice within its new lease.
        if round % 3 != 0 {
            claimed(&store, &key(round), &first).await;
        }
        let answers = join_all((1..=16).map(|n| {
            let store = store.clone();
            let asking = Terms {
                promise,
                ..terms(n)
            };
            tokio::spawn(async move { store.begin(&key(round), &asking).await.unwrap() })
        }))
        .await;

        let claims = answers
            .iter()
            .filter(|answer| matches!(answer.as_ref().unwrap(), Begin::Claimed(_)))
            .count();
        let nobody = round % 3 != 0 && promise == Promise::AtMostOnce;
        assert_eq!(claims, usize::from(!nobody), "round {round}: {answers:?}");
    }
}
