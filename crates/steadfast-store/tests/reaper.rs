//! The reaper: what it removes, and what it tells operators.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use steadfast_core::idempotency::{
    Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms, Transition,
};
use steadfast_store::{
    Begin, Incident, MemoryStore, Reaper, ReaperConfig, Resolution, Store, StoredResponse,
};
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(1);
const RETENTION: Duration = Duration::from_secs(10);

async fn claim(store: &MemoryStore, number: u8, promise: Promise) -> Claim {
    let terms = Terms {
        owner: OwnerId::from_bytes([number; 16]),
        fingerprint: Fingerprint::new(1, [number; 32]),
        promise,
        lease: LEASE,
        retention: RETENTION,
    };
    let key = KeyDigest::from_bytes([number; 32]);
    let begun = store.begin(&key, &terms).await.unwrap();
    let Begin::Claimed(claim) = begun else {
        panic!("{begun:?}");
    };
    claim
}

/// Each metric with the values of its labels, and its value.
fn values(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let value = |value| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(value) => value.into_inner(),
        DebugValue::Histogram(_) => panic!("a reaper has no histogram"),
    };
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    metrics
        .map(|(key, _, _, debug)| {
            let name = key.key().name().to_owned();
            let labels = key.key().labels().map(|label| label.value());
            let shown = labels.fold(name, |shown, label| format!("{shown} {label}"));
            (shown, value(debug))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_reaper_tells_what_it_reaped() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::default();
    for number in 0..5 {
        let claim = claim(&store, number, Promise::AtLeastOnce).await;
        let answer = StoredResponse::new(1, "answer");
        let completed = store.complete(&claim, &answer).await.unwrap();
        assert_eq!(completed, Transition::Applied);
    }
    claim(&store, 5, Promise::AtMostOnce).await;
    sleep(RETENTION).await;

    let config = ReaperConfig::default().with_batch(NonZeroU32::new(2).unwrap());
    let reaped = Reaper::new(store, config).pass().await.unwrap();

    assert_eq!((reaped.deleted, reaped.lapsed), (5, 1));
    let values = values(&snapshotter);
    assert_eq!(
        values["steadfast_idempotency_reaped_total default deleted"],
        5.0
    );
    assert_eq!(
        values["steadfast_idempotency_reaped_total default indeterminate"],
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_running_reaper_tells_how_many_operations_wait_for_a_decision_and_how_long() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::default();
    claim(&store, 0, Promise::AtMostOnce).await;
    sleep(LEASE + Duration::from_secs(7)).await;
    claim(&store, 1, Promise::AtMostOnce).await;
    sleep(LEASE).await;
    let config = ReaperConfig::default()
        .with_interval(Duration::from_secs(1))
        .with_count_interval(Duration::from_secs(60));

    let running = tokio::spawn(Reaper::new(store.clone(), config).run());
    sleep(Duration::from_millis(1)).await;

    let counted = values(&snapshotter);
    assert_eq!(counted["steadfast_idempotency_indeterminate default"], 2.0);
    let oldest = counted["steadfast_idempotency_indeterminate_oldest_seconds default"];
    assert_eq!(oldest, 8.0);

    let key = KeyDigest::from_bytes([0; 32]);
    let record = store.show(&key).await.unwrap().unwrap();
    let incident = Incident::from(&record);
    let resolved = store.resolve(&incident, &Resolution::Release).await;
    assert_eq!(resolved.unwrap(), Transition::Applied);
    // Counting may read a whole table: not at each pass. A snapshot empties the recorder, so that zero is "not set again".
    sleep(Duration::from_secs(58)).await;
    let counted = values(&snapshotter);
    assert_eq!(counted["steadfast_idempotency_indeterminate default"], 0.0);
    sleep(Duration::from_secs(3)).await;
    let counted = values(&snapshotter);
    assert_eq!(counted["steadfast_idempotency_indeterminate default"], 1.0);
    let oldest = counted["steadfast_idempotency_indeterminate_oldest_seconds default"];
    assert!((60.0..62.0).contains(&oldest), "{oldest}");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn two_stores_of_one_process_keep_their_figures_apart() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (charges, refunds) = (MemoryStore::default(), MemoryStore::default());
    claim(&charges, 0, Promise::AtMostOnce).await;
    sleep(LEASE + RETENTION).await;

    let reaper = |store, name| {
        let config = ReaperConfig::default().with_name(name);
        tokio::spawn(Reaper::new(store, config).run())
    };
    let running = [reaper(charges, "charges"), reaper(refunds, "refunds")];
    sleep(Duration::from_millis(1)).await;

    let values = values(&snapshotter);
    for (store, expected) in [("charges", 1.0), ("refunds", 0.0)] {
        let reaped = format!("steadfast_idempotency_reaped_total {store} indeterminate");
        let waiting = format!("steadfast_idempotency_indeterminate {store}");
        let oldest = format!("steadfast_idempotency_indeterminate_oldest_seconds {store}");
        assert_eq!(values[&reaped], expected);
        assert_eq!(values[&waiting], expected);
        assert_eq!(values[&oldest], expected * RETENTION.as_secs_f64());
    }
    for running in running {
        running.abort();
    }
}
