//! Opening, migrating, naming and checking.

use std::{path::Path, time::Duration};

use sqlx::{
    Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use steadfast_core::idempotency::Promise;
use steadfast_store::{Begin, Store, StoreErrorKind, Transition};
use steadfast_store_sqlite::SqliteStore;

use crate::support::{File, claimed, key, response, terms};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_open_and_migrate_a_new_file_at_once() {
    let file = File::new();
    let path = file.path();
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move {
                let store = SqliteStore::open(path).await?;
                store.migrate().await?;
                store.migrate().await?;
                Ok::<_, steadfast_store::StoreError>(store)
            })
        })
        .collect();
    let mut stores = Vec::new();
    for task in tasks {
        stores.push(task.await.unwrap().unwrap());
    }

    let mut connection = file.connection().await;
    let book: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM steadfast_idempotency_migrations ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(book, [1]);
}

#[tokio::test]
async fn migrating_again_keeps_the_records() {
    let file = File::new();
    let store = file.store().await;
    let _claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;

    store.migrate().await.unwrap();

    assert!(store.show(&key(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_schema_that_a_newer_version_brought_further_is_left_as_it_is() {
    let file = File::new();
    let _newer = file.store().await;
    let mut connection = file.connection().await;
    sqlx::raw_sql(
        "ALTER TABLE steadfast_idempotency ADD COLUMN newer INTEGER;
         INSERT INTO steadfast_idempotency_migrations VALUES (99, 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let shape = "SELECT group_concat(sql) FROM sqlite_master";
    let before: String = sqlx::query_scalar(shape)
        .fetch_one(&mut connection)
        .await
        .unwrap();

    let rolled_back = file.store().await;

    let claim = claimed(&rolled_back, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let completed = rolled_back.complete(&claim, &response("ok")).await.unwrap();
    assert_eq!(completed, Transition::Applied);
    let after: String = sqlx::query_scalar(shape)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(after, before);
    let book: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM steadfast_idempotency_migrations ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(book, [1, 99]);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    let mut connection = file.connection().await;
    // The second statement of the migration fails on this name, after the first has made the table.
    sqlx::query("CREATE TABLE steadfast_idempotency_expires_at (a INTEGER)")
        .execute(&mut connection)
        .await
        .unwrap();

    let error = store.migrate().await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 1);
    sqlx::query("DROP TABLE steadfast_idempotency_expires_at")
        .execute(&mut connection)
        .await
        .unwrap();
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn the_printed_schema_makes_a_table_that_serves() {
    let file = File::new();
    let store = SqliteStore::open(file.path())
        .await
        .unwrap()
        .with_table("by_hand")
        .unwrap();
    let mut connection = file.connection().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(store.schema_sql()))
        .execute(&mut connection)
        .await
        .unwrap();

    let claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let _ = store.complete(&claim, &response("ok")).await.unwrap();
}

#[tokio::test]
async fn a_missing_table_is_a_matter_of_configuration() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();

    let begin = store
        .begin(&key(1), &terms(1, Promise::AtMostOnce))
        .await
        .unwrap_err();
    let look_up = store.look_up(&[key(1)]).await.unwrap_err();

    assert_eq!(begin.kind(), StoreErrorKind::Misconfigured);
    assert!(!begin.may_have_applied());
    assert_eq!(look_up.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn hostile_table_names_are_only_names() {
    let file = File::new();
    let store = file.store().await;
    let _claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    for name in [
        "a\"b",
        "\"",
        "x; DROP TABLE steadfast_idempotency; --",
        "'quoted'",
        "{now}",
        "{table}",
        "[bracket] `tick`",
        "select",
        "sp ace\nline",
        "имя",
        "?1",
    ] {
        let other = store.clone().with_table(name).unwrap();
        other.migrate().await.unwrap();
        other.migrate().await.unwrap();

        let claim = claimed(&other, &key(2), &terms(1, Promise::AtMostOnce)).await;
        let _ = other.complete(&claim, &response(name)).await.unwrap();
        let replay = other
            .begin(&key(2), &terms(2, Promise::AtMostOnce))
            .await
            .unwrap();

        assert_eq!(
            replay,
            Begin::Completed {
                response: response(name)
            }
        );
        assert_eq!(other.look_up(&[key(2)]).await.unwrap().len(), 1);
        assert_eq!(other.list_indeterminate(9).await.unwrap(), []);
        let _ = other.reap(9, Duration::ZERO).await.unwrap();
    }
    assert!(store.show(&key(1)).await.unwrap().is_some());
    assert_eq!(store.show(&key(2)).await.unwrap(), None);
}

#[tokio::test]
async fn names_that_sqlite_keeps_to_itself_are_refused() {
    let file = File::new();
    let store = file.store().await;

    let error = store.with_table("sqlite_master").unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn what_is_not_a_path_to_a_file_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let rubbish = folder.path().join("rubbish.db");
    std::fs::write(&rubbish, [b'x'; 4_096]).unwrap();
    for path in [
        Path::new(":memory:"),
        Path::new("file:x?mode=memory"),
        Path::new("sqlite:payments.db"),
        Path::new(""),
        Path::new("a\0b"),
        folder.path(),
        &folder.path().join("missing/records.db"),
        &rubbish,
    ] {
        let error = SqliteStore::open(path).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured, "{path:?}");
    }
}

#[tokio::test]
async fn a_path_is_taken_letter_by_letter() {
    let folder = tempfile::TempDir::new().unwrap();
    for name in ["a b?mode=memory#x.db", "100%25.db", "'\";--.db", "日本.db"] {
        let path = folder.path().join(name);

        let store = SqliteStore::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;

        assert!(path.is_file(), "{name}");
    }
}

#[tokio::test]
async fn debug_shows_the_file_name_and_no_folder() {
    let file = File::new();
    let store = file.store().await;

    let shown = format!("{store:?}");

    let folder = file.path().parent().unwrap().display().to_string();
    assert!(shown.contains("records.db"), "{shown}");
    assert!(shown.contains("steadfast_idempotency"), "{shown}");
    assert!(!shown.contains(&folder), "{shown}");
}

#[tokio::test]
async fn the_file_is_opened_with_the_advised_settings() {
    let file = File::new();
    let store = file.store().await;
    store.check().await.unwrap();

    let mut connection = file.connection().await;
    let mode: String = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap()
        .get(0);
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn a_pool_that_can_forget_a_commit_is_found_out() {
    let file = File::new();
    let path = file.path();
    let base = || {
        SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
    };
    let cases = [
        (SqliteJournalMode::Wal, SqliteSynchronous::Full, true),
        (SqliteJournalMode::Wal, SqliteSynchronous::Normal, false),
        (SqliteJournalMode::Delete, SqliteSynchronous::Full, false),
        (SqliteJournalMode::Delete, SqliteSynchronous::Extra, true),
        (SqliteJournalMode::Memory, SqliteSynchronous::Extra, false),
    ];
    for (journal, synchronous, sound) in cases {
        let options = base().journal_mode(journal).synchronous(synchronous);
        let pool = SqlitePoolOptions::new()
            .connect_with(options)
            .await
            .unwrap();
        let store = SqliteStore::new(pool.clone());

        assert_eq!(
            store.check().await.is_ok(),
            sound,
            "{journal:?} {synchronous:?}"
        );
        assert_eq!(store.migrate().await.is_ok(), sound);

        pool.close().await;
    }

    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    let error = SqliteStore::new(pool).check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_pool_of_the_user_is_taken_as_it_is() {
    let file = File::new();
    let options = SqliteConnectOptions::new()
        .filename(file.path())
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let store = SqliteStore::new(pool.clone());
    store.migrate().await.unwrap();

    let claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let _ = store.complete(&claim, &response("ok")).await.unwrap();
    let replay = store
        .begin(&key(1), &terms(2, Promise::AtMostOnce))
        .await
        .unwrap();

    assert!(matches!(replay, Begin::Completed { .. }));
    assert!(!pool.is_closed());
}

#[tokio::test]
async fn the_linked_sqlite_has_what_the_statements_need() {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let parts: Vec<u32> = version
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();

    // 3.51.3 mends a race in the write-ahead log that could lose commits: https://www.sqlite.org/wal.html#walresetbug
    assert!(parts >= vec![3, 51, 3], "{version}");
}
