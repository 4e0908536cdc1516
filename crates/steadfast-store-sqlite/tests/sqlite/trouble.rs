//! A busy, full, read-only or stalled database, and callers that go away.

use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::future::join_all;
use sqlx::{
    SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use steadfast_core::idempotency::{Claimant, Promise};
use steadfast_store::{Begin, Store, StoreErrorKind, StoredResponse, Transition};
use steadfast_store_sqlite::SqliteStore;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use crate::support::{DAY, File, HOUR, claimed, key, owner, response, terms};

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn integer(connection: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_busy_database_is_told_as_busy_and_recovers() {
    let file = File::new();
    let store = file.store().await;
    let claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let asked = Instant::now();
    let error = store
        .begin(&key(2), &terms(2, Promise::AtMostOnce))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );

    let asked = Instant::now();
    let error = store.complete(&claim, &response("late")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    assert!(
        asked.elapsed() < Duration::from_secs(7),
        "{:?}",
        asked.elapsed()
    );

    run(&mut other, "ROLLBACK").await;
    let _claim = claimed(&store, &key(2), &terms(2, Promise::AtMostOnce)).await;
    let completed = store.complete(&claim, &response("late")).await.unwrap();
    assert_eq!(completed, Transition::Applied);
}

#[tokio::test]
async fn a_short_lock_is_waited_for() {
    let file = File::new();
    let store = file.store().await;
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let terms = terms(1, Promise::AtMostOnce);
    let (key, release) = (key(1), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        run(&mut other, "ROLLBACK").await;
    });
    let (begin, ()) = tokio::join!(store.begin(&key, &terms), release);

    assert!(matches!(begin.unwrap(), Begin::Claimed(_)));
}

#[tokio::test]
async fn what_changes_nothing_is_answered_without_the_write_lock() {
    let file = File::new();
    let store = file.store().await;
    let done = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let _ = store.complete(&done, &response("done")).await.unwrap();
    let _running = claimed(&store, &key(2), &terms(2, Promise::AtMostOnce)).await;
    let lost = claimed(&store, &key(3), &terms(3, Promise::AtMostOnce)).await;
    let _ = store.abandon(&lost, owner(99)).await.unwrap();
    let mut other = file.connection().await;
    let version = integer(&mut other, "PRAGMA data_version").await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let asker = terms(7, Promise::AtMostOnce);
    for _ in 0..50 {
        let replay = store.begin(&key(1), &asker).await.unwrap();
        assert!(matches!(replay, Begin::Completed { .. }));
        let running = store.begin(&key(2), &asker).await.unwrap();
        assert!(matches!(running, Begin::Running { .. }));
        let own = store
            .begin(&key(2), &terms(2, Promise::AtMostOnce))
            .await
            .unwrap();
        assert!(matches!(own, Begin::Claimed(_)));
        let unknown = store.begin(&key(3), &asker).await.unwrap();
        assert_eq!(unknown, Begin::Indeterminate);
        let keys = [key(1), key(2), key(3), key(4)];
        assert_eq!(store.look_up(&keys).await.unwrap().len(), 4);
        assert_eq!(store.list_indeterminate(5).await.unwrap().len(), 1);
    }

    run(&mut other, "ROLLBACK").await;
    assert_eq!(integer(&mut other, "PRAGMA data_version").await, version);
}

/// Polls once.
async fn waits<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

/// A pool of one connection that can be stopped on its way back from a caller.
struct Gated {
    pool: SqlitePool,
    shut: watch::Sender<bool>,
    stopped: Arc<Notify>,
}

impl Gated {
    async fn over(file: &File) -> Self {
        let (shut, gate) = watch::channel(false);
        let stopped = Arc::new(Notify::new());
        let met = Arc::clone(&stopped);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(move |_, _| {
                let (mut gate, met) = (gate.clone(), Arc::clone(&met));
                Box::pin(async move {
                    if *gate.borrow() {
                        met.notify_one();
                        gate.wait_for(|shut| !shut).await.unwrap();
                    }
                    Ok(true)
                })
            })
            .connect_with(SqliteConnectOptions::new().filename(file.path()))
            .await
            .unwrap();
        Self {
            pool,
            shut,
            stopped,
        }
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::new(self.pool.clone())
    }

    /// Runs a call until its first statement was answered and the next one waits for the connection.
    async fn stop_after_one_statement<F: Future<Output: Debug>>(&self, call: Pin<&mut F>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.pool.num_idle() == 0 {
            assert!(Instant::now() < deadline, "the connection is never idle");
            tokio::task::yield_now().await;
        }
        self.shut.send_replace(true);
        tokio::select! {
            answer = call => panic!("answered after one statement: {answer:?}"),
            () = self.stopped.notified() => {}
        }
    }

    fn go_on(&self) {
        self.shut.send_replace(false);
    }
}

#[tokio::test]
async fn a_claim_that_lost_its_race_does_not_write_over_the_winner() {
    let file = File::new();
    let _made = file.store().await;
    let (left, right) = (Gated::over(&file).await, Gated::over(&file).await);
    let (store, rival) = (left.store(), right.store());
    let (mine, theirs) = (terms(1, Promise::AtMostOnce), terms(2, Promise::AtMostOnce));
    let key = key(1);
    let mut first = pin!(store.begin(&key, &mine));
    let mut second = pin!(rival.begin(&key, &theirs));

    // Both have read "absent" when the first of them writes.
    left.stop_after_one_statement(first.as_mut()).await;
    right.stop_after_one_statement(second.as_mut()).await;
    right.go_on();
    let second = second.await.unwrap();
    left.go_on();
    let first = first.await.unwrap();

    assert!(matches!(second, Begin::Claimed(_)), "{second:?}");
    assert!(matches!(first, Begin::Running { .. }), "{first:?}");
}

#[tokio::test]
async fn a_claim_judges_by_what_stands_when_it_writes() {
    let file = File::new();
    let _made = file.store().await;
    let gated = Gated::over(&file).await;
    let store = gated.store();
    let mut other = file.connection().await;
    let done = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let _ = store.complete(&done, &response("done")).await.unwrap();
    let _running = claimed(&store, &key(2), &terms(2, Promise::AtMostOnce)).await;
    let lost = claimed(&store, &key(3), &terms(3, Promise::AtMostOnce)).await;
    let _ = store.abandon(&lost, owner(99)).await.unwrap();

    for from in 1..=3 {
        // The claim has read "absent", and waits to write while a copy of another record comes to stand there.
        let (source, place) = (key(from), key(from + 10));
        let asker = terms(7, Promise::AtLeastOnce);
        let mut begin = pin!(store.begin(&place, &asker));
        gated.stop_after_one_statement(begin.as_mut()).await;
        sqlx::query(
            "INSERT INTO steadfast_idempotency SELECT ?2, fingerprint, promise, state, owner, execution, since, lease_until, \
             expires_at, format, response FROM steadfast_idempotency WHERE key = ?1",
        )
        .bind(&source.as_bytes()[..])
        .bind(&place.as_bytes()[..])
        .execute(&mut other)
        .await
        .unwrap();
        gated.go_on();

        let begin = begin.await.unwrap();
        let expected = match from {
            1 => matches!(&begin, Begin::Completed { response: kept } if *kept == response("done")),
            2 => matches!(begin, Begin::Running { lease_left } if lease_left > HOUR / 2),
            _ => begin == Begin::Indeterminate,
        };
        assert!(expected, "{from}: {begin:?}");
        let (left, right) = (
            store.show(&source).await.unwrap().unwrap(),
            store.show(&place).await.unwrap().unwrap(),
        );
        assert_eq!(
            (left.owner, left.execution, left.promise, left.stage),
            (right.owner, right.execution, right.promise, right.stage)
        );
    }
}

#[tokio::test]
async fn claims_that_meet_a_busy_database_are_told_that_nothing_was_done() {
    const CLAIMS: u32 = 8;
    let file = File::new();
    let store = file.store().await;
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let begins = (0..CLAIMS).map(|number| {
        let store = store.clone();
        async move {
            store
                .begin(&key(number), &terms(number, Promise::AtMostOnce))
                .await
        }
    });
    for begin in join_all(begins).await {
        let error = begin.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(!error.may_have_applied(), "{error:?}");
    }

    run(&mut other, "ROLLBACK").await;
    // One writer serves in order: what was left under way would be written before this.
    let _claim = claimed(&store, &key(100), &terms(100, Promise::AtMostOnce)).await;
    let records = "SELECT count(*) FROM steadfast_idempotency";
    assert_eq!(integer(&mut other, records).await, 1);
}

#[tokio::test]
async fn completions_that_meet_a_busy_database_are_told_that_nothing_was_done() {
    let file = File::new();
    let store = file.store().await;
    let mut claims = Vec::new();
    for number in 0..4 {
        claims.push(claimed(&store, &key(number), &terms(number, Promise::AtMostOnce)).await);
    }
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let late = response("late");
    let completions = claims.iter().map(|claim| store.complete(claim, &late));
    for completion in join_all(completions).await {
        let error = completion.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(!error.may_have_applied(), "{error:?}");
    }

    run(&mut other, "ROLLBACK").await;
    let _claim = claimed(&store, &key(100), &terms(100, Promise::AtMostOnce)).await;
    let answers = "SELECT count(*) FROM steadfast_idempotency WHERE state = 1";
    assert_eq!(integer(&mut other, answers).await, 0);
}

#[tokio::test]
async fn a_completion_overtakes_the_claims_that_wait_to_write() {
    const HERD: u32 = 32;
    let file = File::new();
    let store = file.store().await;
    let claim = claimed(&store, &key(1_000), &terms(1_000, Promise::AtMostOnce)).await;
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;

    let claims_done = Arc::new(AtomicU32::new(0));
    let mut herd = JoinSet::new();
    for number in 0..HERD {
        let (store, claims_done) = (store.clone(), Arc::clone(&claims_done));
        let mut begin = Box::pin(async move {
            let terms = terms(number, Promise::AtMostOnce);
            let begin = store.begin(&key(number), &terms).await;
            claims_done.fetch_add(1, Ordering::Relaxed);
            begin
        });
        // Each has asked for a reading connection before the next does.
        assert!(waits(begin.as_mut()).await);
        herd.spawn(begin);
        tokio::task::yield_now().await;
    }
    // Readers are served in the order of asking: when this is answered, no more than their number still read, and the rest of
    // the herd waits to write.
    let _standings = store.look_up(&[key(0)]).await.unwrap();
    assert_eq!(claims_done.load(Ordering::Relaxed), 0);

    let late = response("late");
    let mut completion = pin!(store.complete(&claim, &late));
    assert!(waits(completion.as_mut()).await);
    run(&mut other, "ROLLBACK").await;
    let completed = completion.await.unwrap();

    assert_eq!(completed, Transition::Applied);
    let before = claims_done.load(Ordering::Relaxed);
    assert!(before <= HERD / 4, "{before} claims went first");
    for begin in herd.join_all().await {
        let served = matches!(begin, Ok(Begin::Claimed(_)));
        assert!(served || begin.is_err_and(|error| !error.may_have_applied()));
    }
}

#[tokio::test]
async fn a_reaper_that_is_stopped_midway_does_not_say_that_nothing_was_done() {
    const BATCH: u32 = 100;
    let file = File::new();
    let _made = file.store().await;
    let gated = Gated::over(&file).await;
    let store = gated.store();
    let mut over = terms(1, Promise::AtLeastOnce);
    over.lease = Duration::ZERO;
    over.retention = Duration::ZERO;
    for number in 0..BATCH + 1 {
        let _claim = claimed(&store, &key(number), &over).await;
    }

    let mut reap = pin!(store.reap(u32::MAX, DAY));
    gated.stop_after_one_statement(reap.as_mut()).await;
    let error = reap.await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.may_have_applied());
    let mut other = file.connection().await;
    let left = integer(&mut other, "SELECT count(*) FROM steadfast_idempotency").await;
    assert_eq!(left, 1);
}

async fn dropped_after<F: Future>(polls: u32, future: F) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A transaction that a dropped call left open would keep the lock for good.
async fn assert_nothing_holds_the_write_lock(connection: &mut SqliteConnection) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "the write lock was never let go");
        tokio::task::yield_now().await;
    }
    run(connection, "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_no_lock_and_no_broken_connection() {
    let file = File::new();
    let store = file.store().await;
    let mut other = file.connection().await;
    for round in 0..60 {
        let polls = round * round / 4;
        let terms = terms(round, Promise::AtMostOnce);
        dropped_after(polls, store.begin(&key(round), &terms)).await;
        assert_nothing_holds_the_write_lock(&mut other).await;

        let claim = claimed(&store, &key(round), &terms).await;
        dropped_after(polls, store.renew(&claim, HOUR)).await;
        dropped_after(polls, store.look_up(&[key(round)])).await;
        dropped_after(polls, store.complete(&claim, &response("first"))).await;
        dropped_after(polls, store.reap(10, DAY)).await;
        dropped_after(polls, store.migrate()).await;
        assert_nothing_holds_the_write_lock(&mut other).await;

        let completed = store.complete(&claim, &response("first")).await.unwrap();
        assert_eq!(completed, Transition::Applied);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_while_the_database_is_busy_gives_the_writer_back() {
    let file = File::new();
    let store = file.store().await;
    let mut other = file.connection().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    for number in 0..5 {
        let terms = terms(number, Promise::AtMostOnce);
        let key = key(number);
        let begin = store.begin(&key, &terms);
        let cut = tokio::time::timeout(Duration::from_millis(50), begin).await;
        assert!(cut.is_err(), "{cut:?}");
    }
    run(&mut other, "ROLLBACK").await;

    let _claim = claimed(&store, &key(100), &terms(100, Promise::AtMostOnce)).await;
    assert_nothing_holds_the_write_lock(&mut other).await;
}

#[tokio::test]
async fn a_begin_that_gets_no_connection_sent_nothing() {
    let file = File::new();
    let _made = file.store().await;
    let options = SqliteConnectOptions::new().filename(file.path());
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let store = SqliteStore::new(pool.clone());
    let held = pool.acquire().await.unwrap();

    let asked = Instant::now();
    let error = store
        .begin(&key(1), &terms(1, Promise::AtMostOnce))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    drop(held);
    let _claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
}

#[tokio::test]
async fn a_full_disk_refuses_whole_steps_and_serves_again_with_room() {
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
    let large = StoredResponse::new(1, vec![1; 1 << 20]);
    sqlx::query("PRAGMA max_page_count = 20")
        .execute(&pool)
        .await
        .unwrap();

    let error = store.complete(&claim, &large).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    let running = store
        .begin(&key(1), &terms(2, Promise::AtMostOnce))
        .await
        .unwrap();
    assert!(matches!(running, Begin::Running { .. }));

    sqlx::query("PRAGMA max_page_count = 100000")
        .execute(&pool)
        .await
        .unwrap();
    let completed = store.complete(&claim, &large).await.unwrap();
    assert_eq!(completed, Transition::Applied);
}

#[tokio::test]
async fn a_read_only_database_is_a_matter_of_configuration() {
    let file = File::new();
    let _made = file.store().await;
    let options = SqliteConnectOptions::new()
        .filename(file.path())
        .read_only(true);
    let pool = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    let store = SqliteStore::new(pool);

    let error = store
        .begin(&key(1), &terms(1, Promise::AtMostOnce))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_not_guessed_at() {
    let file = File::new();
    let store = file.store().await;
    let mut lost = terms(1, Promise::AtMostOnce);
    lost.lease = Duration::ZERO;
    let _claim = claimed(&store, &key(1), &lost).await;
    let mut other = file.connection().await;
    run(&mut other, "UPDATE steadfast_idempotency SET promise = 200").await;

    let error = store
        .begin(&key(1), &terms(2, Promise::AtMostOnce))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert_eq!(
        integer(&mut other, "SELECT state FROM steadfast_idempotency").await,
        0
    );
}

#[tokio::test]
async fn errors_show_no_key_and_no_owner() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    let claimant = Claimant {
        key: key(1),
        owner: owner(1),
    };

    let error = store.release(&claimant).await.unwrap_err();

    let source = std::error::Error::source(&error).unwrap();
    let shown = format!("{error} {error:?} {source} {source:?}").to_lowercase();
    assert!(shown.contains("no such table"), "{shown}");
    assert!(
        !shown.contains("cdcdcd") && !shown.contains("efefef"),
        "{shown}"
    );
    assert!(
        !shown.contains("205, 205") && !shown.contains("239, 239"),
        "{shown}"
    );
}

/// SQLite answers the row of a RETURNING before it commits; a deferred constraint fails at the commit, as a full disk may.
#[tokio::test]
async fn a_claim_whose_commit_fails_is_an_error() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    let mut other = file.connection().await;
    let promise = "promise     INTEGER NOT NULL";
    let schema = store.schema_sql();
    assert!(schema.contains(promise));
    let deferred = format!("{promise} REFERENCES elsewhere (id) DEFERRABLE INITIALLY DEFERRED");
    let schema = schema.replace(promise, &deferred);
    run(
        &mut other,
        "CREATE TABLE elsewhere (id INTEGER PRIMARY KEY)",
    )
    .await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema))
        .execute(&mut other)
        .await
        .unwrap();

    let begin = store.begin(&key(1), &terms(1, Promise::AtMostOnce)).await;

    assert!(begin.is_err(), "{begin:?}");
    assert_eq!(store.show(&key(1)).await.unwrap(), None);
}
