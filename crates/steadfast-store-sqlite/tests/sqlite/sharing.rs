//! Several handles on one file, and a file that is closed and opened again.

use std::time::Duration;

use steadfast_core::idempotency::Promise;
use steadfast_store::{Begin, Standing, Store, Transition};
use steadfast_store_sqlite::SqliteStore;

use crate::support::{DAY, File, claimed, key, response, terms};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handles_that_race_for_a_key_make_one_claim() {
    const KEYS: u32 = 40;
    const RACERS: u32 = 6;
    let file = File::new();
    let handles = [file.store().await, file.store().await, file.store().await];

    for round in 0..KEYS {
        let tasks: Vec<_> = (0..RACERS)
            .map(|racer| {
                let store = handles[racer as usize % handles.len()].clone();
                let terms = terms(round * RACERS + racer, Promise::AtMostOnce);
                tokio::spawn(async move { store.begin(&key(round), &terms).await })
            })
            .collect();

        let mut claims = 0;
        for task in tasks {
            let begin = task.await.unwrap().unwrap();
            if matches!(begin, Begin::Claimed(_)) {
                claims += 1;
            } else {
                assert!(matches!(begin, Begin::Running { .. }), "{begin:?}");
            }
        }
        assert_eq!(claims, 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handles_that_race_for_a_lost_owners_record_make_one_takeover() {
    const RACERS: u32 = 6;
    let file = File::new();
    let handles = [file.store().await, file.store().await, file.store().await];

    for round in 0..20 {
        let mut lost = terms(1_000 + round, Promise::AtLeastOnce);
        lost.lease = Duration::ZERO;
        let _claim = claimed(&handles[0], &key(round), &lost).await;
        let tasks: Vec<_> = (0..RACERS)
            .map(|racer| {
                let store = handles[racer as usize % handles.len()].clone();
                let terms = terms(racer, Promise::AtLeastOnce);
                tokio::spawn(async move { store.begin(&key(round), &terms).await })
            })
            .collect();

        let mut executions = Vec::new();
        for task in tasks {
            if let Begin::Claimed(claim) = task.await.unwrap().unwrap() {
                executions.push(claim.execution().get());
            }
        }
        assert_eq!(executions, [2], "round {round}");
    }
}

#[tokio::test]
async fn what_one_handle_writes_another_reads_at_once() {
    let file = File::new();
    let (left, right) = (file.store().await, file.store().await);

    for number in 0..20 {
        let claim = claimed(&left, &key(number), &terms(1, Promise::AtMostOnce)).await;
        let _ = left.complete(&claim, &response("done")).await.unwrap();

        let standing = right.look_up(&[key(number)]).await.unwrap();

        assert!(matches!(standing[..], [Standing::Completed { .. }]));
    }
}

#[tokio::test]
async fn a_file_keeps_its_records_when_it_is_closed() {
    let file = File::new();
    let store = file.store().await;
    let done = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    let _ = store.complete(&done, &response("kept")).await.unwrap();
    let running = claimed(&store, &key(2), &terms(2, Promise::AtMostOnce)).await;
    store.close().await;
    assert!(
        store
            .begin(&key(3), &terms(3, Promise::AtMostOnce))
            .await
            .is_err()
    );

    let store = SqliteStore::open(file.path()).await.unwrap();

    let replay = store
        .begin(&key(1), &terms(9, Promise::AtMostOnce))
        .await
        .unwrap();
    assert_eq!(
        replay,
        Begin::Completed {
            response: response("kept")
        }
    );
    let renewed = store.renew(&running, DAY).await.unwrap();
    assert_eq!(renewed, Transition::Applied);
}

#[tokio::test]
async fn clones_are_one_store_and_another_table_is_another() {
    let file = File::new();
    let store = file.store().await;

    assert_eq!(store.clone().id(), store.id());
    let other = store.clone().with_table("other").unwrap();
    assert_ne!(other.id(), store.id());
    other.migrate().await.unwrap();
    let _claim = claimed(&store, &key(1), &terms(1, Promise::AtMostOnce)).await;
    assert_eq!(other.show(&key(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_response_comes_back_byte_for_byte() {
    let file = File::new();
    let store = file.store().await;
    let bodies = [
        Vec::new(),
        (0..=u8::MAX).collect(),
        vec![0; 3],
        vec![0xa5; 3 << 20],
    ];

    for (number, body) in (0..).zip(bodies) {
        let kept = steadfast_store::StoredResponse::new(u16::MAX, body);
        let claim = claimed(&store, &key(number), &terms(1, Promise::AtMostOnce)).await;
        let _ = store.complete(&claim, &kept).await.unwrap();

        let replay = store
            .begin(&key(number), &terms(2, Promise::AtMostOnce))
            .await
            .unwrap();

        assert_eq!(replay, Begin::Completed { response: kept });
    }
}

#[tokio::test]
async fn durations_are_rounded_up_and_cut_without_overflow() {
    let file = File::new();
    let store = file.store().await;
    let mut longest = terms(1, Promise::AtMostOnce);
    longest.lease = Duration::MAX;
    longest.retention = Duration::MAX;
    let claim = claimed(&store, &key(1), &longest).await;
    let _ = store.renew(&claim, Duration::MAX).await.unwrap();
    let answer = store
        .begin(&key(1), &terms(2, Promise::AtMostOnce))
        .await
        .unwrap();
    assert!(matches!(answer, Begin::Running { lease_left } if lease_left > DAY * 365_000));
    assert_eq!(store.reap(10, Duration::MAX).await.unwrap().deleted, 0);

    let mut connection = file.connection().await;
    let mut fine = terms(3, Promise::AtMostOnce);
    fine.lease = Duration::from_nanos(1_001);
    let _claim = claimed(&store, &key(2), &fine).await;
    let lease: i64 =
        sqlx::query_scalar("SELECT lease_until - since FROM steadfast_idempotency WHERE key = ?1")
            .bind(&key(2).as_bytes()[..])
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(lease, 2);
}

#[tokio::test]
async fn a_look_up_of_many_keys_keeps_order_and_duplicates() {
    let file = File::new();
    let store = file.store().await;
    for number in (0..2_000).step_by(500) {
        let _claim = claimed(&store, &key(number), &terms(1, Promise::AtMostOnce)).await;
    }
    let keys: Vec<_> = (0..2_000).chain(0..2_000).map(key).collect();

    let standings = store.look_up(&keys).await.unwrap();

    assert_eq!(standings.len(), keys.len());
    for (at, standing) in standings.iter().enumerate() {
        let running = matches!(standing, Standing::Running { .. });
        assert_eq!(running, at % 500 == 0, "{at}");
    }
    assert_eq!(store.look_up(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_reaper_takes_as_many_as_it_may_over_several_batches() {
    let file = File::new();
    let store = file.store().await;
    let mut over = terms(1, Promise::AtLeastOnce);
    over.lease = Duration::ZERO;
    over.retention = Duration::ZERO;
    for number in 0..260 {
        let _claim = claimed(&store, &key(number), &over).await;
    }
    let mut lost = over;
    lost.promise = Promise::AtMostOnce;
    for number in 1_000..1_030 {
        let _claim = claimed(&store, &key(number), &lost).await;
    }

    let first = store.reap(255, DAY).await.unwrap();
    assert_eq!((first.deleted, first.lapsed), (255, 0));
    let second = store.reap(25, DAY).await.unwrap();
    assert_eq!((second.deleted, second.lapsed), (5, 20));
    let third = store.reap(u32::MAX, DAY).await.unwrap();
    assert_eq!((third.deleted, third.lapsed), (0, 10));
}
