//! What the clauses share: fresh names, terms, patience, and readers of answers that say what came in place of the expected.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a reader of answers knows one, and shows every other"
)]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{
    Begin, Incident, RecordSummary, Standing, Store, StoreError, StoredResponse, Transition,
};

use super::{Bench, chance::Chance};

/// A time that does not pass while a clause runs.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// A time that is waited for.
pub(super) const SHORT: Duration = Duration::from_millis(20);

/// The fingerprint of the request that most clauses make.
pub(super) const REQUEST: Fingerprint = Fingerprint::new(1, [7; 32]);

/// The fingerprint of another request under the same key.
pub(super) const OTHER_REQUEST: Fingerprint = Fingerprint::new(1, [8; 32]);

fn fresh<const N: usize>() -> [u8; N] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut chance = Chance::seeded(NEXT.fetch_add(1, Ordering::Relaxed) << 8);
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&chance.next().to_be_bytes()[..chunk.len()]);
    }
    bytes
}

pub(super) fn fresh_key() -> KeyDigest {
    KeyDigest::from_bytes(fresh())
}

pub(super) fn fresh_owner() -> OwnerId {
    OwnerId::from_bytes(fresh())
}

/// What a fresh owner asks for: an hour of lease, an hour of retention.
pub(super) fn terms(promise: Promise) -> Terms {
    Terms {
        owner: fresh_owner(),
        fingerprint: REQUEST,
        promise,
        lease: LONG,
        retention: LONG,
    }
}

pub(super) fn at_least_once() -> Terms {
    terms(Promise::AtLeastOnce)
}

pub(super) fn at_most_once() -> Terms {
    terms(Promise::AtMostOnce)
}

pub(super) const BOTH_PROMISES: [Promise; 2] = [Promise::AtLeastOnce, Promise::AtMostOnce];

pub(super) fn answer(text: &'static str) -> StoredResponse {
    StoredResponse::new(1, text.as_bytes())
}

/// Waits until `over` holds of how the operation stands.
async fn until<B: Bench>(
    bench: &B,
    key: &KeyDigest,
    expected: &str,
    over: impl Fn(&Standing) -> bool,
) {
    let store = bench.store();
    let mut seen = None;
    for _ in 0..3000 {
        let standing = look_up(&store, key).await;
        if over(&standing) {
            return;
        }
        seen = Some(standing);
        bench.advance(Duration::from_millis(5)).await;
    }
    panic!("the operation does not become {expected}; it stands as {seen:?}");
}

/// Waits until the lease is over and nobody has taken over.
pub(super) async fn lapse<B: Bench>(bench: &B, key: &KeyDigest) {
    until(bench, key, "lapsed or indeterminate", |standing| {
        matches!(standing, Standing::Lapsed | Standing::Indeterminate { .. })
    })
    .await;
}

/// Waits until the operation stands as absent.
pub(super) async fn expire<B: Bench>(bench: &B, key: &KeyDigest) {
    until(bench, key, "absent", |standing| {
        *standing == Standing::Absent
    })
    .await;
}

/// Lets much more than a [`SHORT`] time pass, where no standing shows that it has.
pub(super) async fn outlive_short<B: Bench>(bench: &B) {
    bench.advance(SHORT * 5).await;
}

pub(super) async fn look_up<S: Store>(store: &S, key: &KeyDigest) -> Standing {
    let mut standings = ok(store.look_up(&[*key]).await);
    assert_eq!(standings.len(), 1, "one key asked, so one standing answers");
    standings.remove(0)
}

pub(super) async fn show<S: Store>(store: &S, key: &KeyDigest) -> RecordSummary {
    ok(store.show(key).await).expect("the record is shown")
}

pub(super) async fn incident<S: Store>(store: &S, key: &KeyDigest) -> Incident {
    Incident::from(&show(store, key).await)
}

/// Claims on short terms and waits until the claim has lapsed.
pub(super) async fn lost_claim<B: Bench>(bench: &B, key: &KeyDigest, terms: Terms) -> Claim {
    let lost = Terms {
        lease: SHORT,
        ..terms
    };
    let claim = claimed(bench.store().begin(key, &lost).await);
    lapse(bench, key).await;
    claim
}

#[track_caller]
pub(super) fn ok<T>(result: Result<T, StoreError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store failed: {error:?}"),
    }
}

#[track_caller]
pub(super) fn claimed(result: Result<Begin, StoreError>) -> Claim {
    match ok(result) {
        Begin::Claimed(claim) => claim,
        other => panic!("expected a claim, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn completed(result: Result<Begin, StoreError>) -> StoredResponse {
    match ok(result) {
        Begin::Completed { response } => response,
        other => panic!("expected the answer, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn running(result: Result<Begin, StoreError>) -> Duration {
    match ok(result) {
        Begin::Running { lease_left } => lease_left,
        other => panic!("expected another owner to be running, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn indeterminate(result: Result<Begin, StoreError>) {
    match ok(result) {
        Begin::Indeterminate => {}
        other => panic!("expected indeterminate, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn conflict(result: Result<Begin, StoreError>) -> Fingerprint {
    match ok(result) {
        Begin::Conflict { fingerprint } => fingerprint,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn applied(result: Result<Transition, StoreError>) {
    assert_eq!(ok(result), Transition::Applied);
}

#[track_caller]
pub(super) fn fenced(result: Result<Transition, StoreError>) {
    assert_eq!(ok(result), Transition::Fenced);
}

/// Every transition of a fenced owner answers so.
pub(super) async fn fenced_in_all<S: Store>(store: &S, claim: &Claim) {
    fenced(store.renew(claim, LONG).await);
    fenced(store.complete(claim, &answer("from a fenced owner")).await);
    fenced(store.abandon(claim, fresh_owner()).await);
    fenced(store.release(claim.claimant()).await);
}
