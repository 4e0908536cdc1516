//! What is `MemoryStore`'s own: its bound, its clones and its clock. The contract is tested by the conformance suite.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use steadfast_core::idempotency::{Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{
    Begin, DynStore, MemoryStore, MemoryStoreConfig, Sharing, Standing, Store, StoreErrorKind,
    StoredResponse, Transition,
};

const LEASE: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_new_operations_and_sends_nothing() {
    let store = full_store().await;

    let error = begin(&store, 0xff, Promise::AtLeastOnce).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(!error.may_have_applied());
    assert_eq!(standing(&store, 0xff).await, Standing::Absent);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_keeps_every_running_and_completed_operation() {
    let store = small_store(16 << 10);
    let done = claimed(&store, 0, Promise::AtLeastOnce).await;
    complete(&store, &done, 1 << 10).await;
    let mut claims = Vec::new();
    let mut number = 1;
    while let Ok(Begin::Claimed(claim)) = begin(&store, number, Promise::AtLeastOnce).await {
        claims.push(claim);
        number += 1;
    }

    for _ in 0..100 {
        assert!(begin(&store, 0xff, Promise::AtLeastOnce).await.is_err());
    }

    assert!(matches!(
        standing(&store, 0).await,
        Standing::Completed { .. }
    ));
    for claim in &claims {
        complete(&store, claim, 1 << 10).await;
    }
    assert!(!claims.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_store_still_answers_those_it_knows() {
    let store = full_store().await;

    let same = begin(&store, 0, Promise::AtLeastOnce).await.unwrap();
    assert!(matches!(same, Begin::Claimed(_)));
    tokio::time::advance(LEASE).await;
    let taken = claimed_by(&store, 0, 0xaa, Promise::AtLeastOnce).await;

    assert_eq!(taken.execution().get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_has_room_again_after_retention() {
    let store = full_store().await;
    assert!(begin(&store, 0xff, Promise::AtLeastOnce).await.is_err());

    tokio::time::advance(RETENTION).await;

    claimed(&store, 0xff, Promise::AtLeastOnce).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_store_has_room_again_soon_after_a_release() {
    let (store, claims) = filled(small_store(4 << 10)).await;
    assert!(begin(&store, 0xff, Promise::AtLeastOnce).await.is_err());

    let released = store.release(claims[0].claimant()).await.unwrap();

    assert_eq!(released, Transition::Applied);
    claimed(&store, 0xff, Promise::AtLeastOnce).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_store_does_not_forget_what_nobody_may_run_again() {
    let store = small_store(4 << 10);
    let mut number = 0;
    while begin(&store, number, Promise::AtMostOnce).await.is_ok() {
        number += 1;
    }

    tokio::time::advance(RETENTION).await;

    assert!(begin(&store, 0xff, Promise::AtMostOnce).await.is_err());
    assert!(matches!(
        standing(&store, 0).await,
        Standing::Indeterminate { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn answers_count_towards_the_bound() {
    let store = small_store(64 << 10);
    let claim = claimed(&store, 0, Promise::AtLeastOnce).await;
    complete(&store, &claim, 64 << 10).await;

    assert!(begin(&store, 1, Promise::AtLeastOnce).await.is_err());

    tokio::time::advance(RETENTION).await;
    claimed(&store, 1, Promise::AtLeastOnce).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_sent_again_is_counted_once() {
    let store = small_store(64 << 10);
    let claim = claimed(&store, 0, Promise::AtLeastOnce).await;

    for _ in 0..10 {
        complete(&store, &claim, 20 << 10).await;
    }

    claimed(&store, 1, Promise::AtLeastOnce).await;
}

#[tokio::test(start_paused = true)]
async fn questions_about_unknown_keys_take_no_room() {
    let store = small_store(4 << 10);
    let claim = claimed(&store, 0, Promise::AtLeastOnce).await;
    let stranger = Claim::granted(*claim.claimant(), claim.execution(), claim.promise());
    let released = store.release(claim.claimant()).await.unwrap();
    assert_eq!(released, Transition::Applied);

    for _ in 0..100 {
        let renewed = store.renew(&stranger, LEASE).await.unwrap();
        assert_eq!(renewed, Transition::Fenced);
    }

    let (_, claims) = filled(store).await;
    let (_, claims_of_a_new_store) = filled(small_store(4 << 10)).await;
    assert_eq!(claims.len(), claims_of_a_new_store.len());
}

#[tokio::test(start_paused = true)]
async fn clones_and_adapters_share_records_and_identity() {
    let store = MemoryStore::default();
    let clone = store.clone();
    let adapted = DynStore::new(Arc::new(store.clone()));
    claimed(&store, 0, Promise::AtLeastOnce).await;

    assert!(matches!(
        standing(&clone, 0).await,
        Standing::Running { .. }
    ));
    assert_eq!(clone.id(), store.id());
    assert_eq!(adapted.id(), store.id());
    assert_ne!(MemoryStore::default().id(), store.id());
    assert_eq!(standing(&MemoryStore::default(), 0).await, Standing::Absent);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_moves_leases_and_retention() {
    let store = MemoryStore::default();
    let claim = claimed(&store, 0, Promise::AtLeastOnce).await;

    tokio::time::advance(LEASE - Duration::from_nanos(1)).await;
    assert_eq!(
        standing(&store, 0).await,
        Standing::Running {
            lease_left: Duration::from_nanos(1)
        }
    );
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert_eq!(standing(&store, 0).await, Standing::Lapsed);

    complete(&store, &claim, 1).await;
    tokio::time::advance(RETENTION - LEASE - Duration::from_nanos(1)).await;
    assert!(matches!(
        standing(&store, 0).await,
        Standing::Completed { .. }
    ));
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert_eq!(standing(&store, 0).await, Standing::Absent);
}

#[tokio::test]
async fn it_says_that_it_forgets_with_its_process() {
    let capabilities = MemoryStore::default().capabilities();

    assert!(!capabilities.durable);
    assert_eq!(capabilities.sharing, Sharing::Process);
    assert!(capabilities.fenced);
}

#[tokio::test]
async fn debug_shows_no_record() {
    let store = MemoryStore::default();
    let claim = claimed(&store, 0, Promise::AtLeastOnce).await;
    let secret = StoredResponse::new(1, &b"secret"[..]);
    assert_eq!(
        store.complete(&claim, &secret).await.unwrap(),
        Transition::Applied
    );

    let shown = format!("{store:?} {secret:?}");

    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains("MemoryStore"), "{shown}");
}

fn small_store(max_bytes: usize) -> MemoryStore {
    MemoryStore::new(MemoryStoreConfig::default().with_max_bytes(max_bytes))
}

async fn full_store() -> MemoryStore {
    filled(small_store(4 << 10)).await.0
}

async fn filled(store: MemoryStore) -> (MemoryStore, Vec<Claim>) {
    let mut claims = Vec::new();
    while let Ok(Begin::Claimed(claim)) = begin(
        &store,
        claims.len().try_into().unwrap(),
        Promise::AtLeastOnce,
    )
    .await
    {
        claims.push(claim);
    }
    assert!(!claims.is_empty());
    (store, claims)
}

async fn begin(
    store: &MemoryStore,
    number: u8,
    promise: Promise,
) -> Result<Begin, steadfast_store::StoreError> {
    begin_by(store, number, number, promise).await
}

async fn begin_by(
    store: &MemoryStore,
    number: u8,
    owner: u8,
    promise: Promise,
) -> Result<Begin, steadfast_store::StoreError> {
    let terms = Terms {
        owner: OwnerId::from_bytes([owner; 16]),
        fingerprint: Fingerprint::new(1, [7; 32]),
        promise,
        lease: LEASE,
        retention: RETENTION,
    };
    store.begin(&key(number), &terms).await
}

async fn claimed(store: &MemoryStore, number: u8, promise: Promise) -> Claim {
    claimed_by(store, number, number, promise).await
}

async fn claimed_by(store: &MemoryStore, number: u8, owner: u8, promise: Promise) -> Claim {
    match begin_by(store, number, owner, promise).await.unwrap() {
        Begin::Claimed(claim) => claim,
        other @ (Begin::Completed { .. }
        | Begin::Conflict { .. }
        | Begin::Indeterminate
        | Begin::Running { .. }) => panic!("expected a claim, got {other:?}"),
    }
}

async fn complete(store: &MemoryStore, claim: &Claim, len: usize) {
    let response = StoredResponse::new(1, vec![7; len]);
    assert_eq!(
        store.complete(claim, &response).await.unwrap(),
        Transition::Applied
    );
}

async fn standing(store: &MemoryStore, number: u8) -> Standing {
    store.look_up(&[key(number)]).await.unwrap().remove(0)
}

fn key(number: u8) -> KeyDigest {
    KeyDigest::from_bytes([number; 32])
}
