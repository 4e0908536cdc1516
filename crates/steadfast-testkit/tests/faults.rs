//! What a scripted fault does to a call, and what it leaves in the store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{Begin, MemoryStore, Standing, Store, StoreErrorKind, StoredResponse};
use steadfast_testkit::faults::{FOREVER, Faults, FaultyStore, Method};
use tokio::time::Instant;

const KEY: KeyDigest = KeyDigest::from_bytes([1; 32]);

const TERMS: Terms = Terms {
    owner: OwnerId::from_bytes([2; 16]),
    fingerprint: Fingerprint::new(1, [3; 32]),
    promise: Promise::AtMostOnce,
    lease: Duration::from_secs(30),
    retention: Duration::from_secs(60),
};

#[tokio::test]
async fn a_call_without_a_script_goes_through() {
    let (store, faults) = store();

    claimed(&store).await;

    assert_eq!(faults.calls(Method::Begin), 1);
    assert_eq!(faults.answers(Method::Begin), 1);
    assert_eq!(faults.drops(Method::Begin), 0);
    assert_eq!(faults.calls(Method::Complete), 0);
}

#[tokio::test]
async fn a_call_that_fails_unsent_says_so_and_leaves_nothing() {
    let (store, faults) = store();
    faults.on(Method::Begin).fail_unsent(1);

    let error = store.begin(&KEY, &TERMS).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    assert_eq!(standing(&store).await, Standing::Absent);
}

#[tokio::test]
async fn a_lost_request_leaves_nothing_and_cannot_tell() {
    let (store, faults) = store();
    faults.on(Method::Begin).lose_request(1);

    let error = store.begin(&KEY, &TERMS).await.unwrap_err();

    assert!(error.may_have_applied());
    assert_eq!(standing(&store).await, Standing::Absent);
}

#[tokio::test]
async fn a_lost_acknowledgement_leaves_its_step() {
    let (store, faults) = store();
    faults.on(Method::Begin).lose_acknowledgement(1);

    let error = store.begin(&KEY, &TERMS).await.unwrap_err();

    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.may_have_applied());
    assert!(matches!(standing(&store).await, Standing::Running { .. }));
}

#[tokio::test]
async fn refused_and_misconfigured_calls_leave_nothing() {
    let (store, faults) = store();
    faults.on(Method::Begin).refuse(1).misconfigure(1);

    let refused = store.begin(&KEY, &TERMS).await.unwrap_err();
    let misconfigured = store.begin(&KEY, &TERMS).await.unwrap_err();

    assert_eq!(refused.kind(), StoreErrorKind::Refused);
    assert!(!refused.may_have_applied());
    assert_eq!(misconfigured.kind(), StoreErrorKind::Misconfigured);
    assert_eq!(standing(&store).await, Standing::Absent);
}

#[tokio::test]
async fn lines_are_used_up_in_the_order_they_were_written() {
    let (store, faults) = store();
    faults.on(Method::Begin).pass(1).fail_unsent(2).refuse(0);
    faults.on(Method::Begin).lose_acknowledgement(1);

    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(match store.begin(&KEY, &TERMS).await {
            Ok(_) => "through",
            Err(error) if error.may_have_applied() => "lost",
            Err(_) => "unsent",
        });
    }

    assert_eq!(told, ["through", "unsent", "unsent", "lost", "through"]);
}

#[tokio::test]
async fn a_script_touches_its_own_method_alone() {
    let (store, faults) = store();
    faults.on(Method::Renew).fail_unsent(FOREVER);

    let claim = claimed(&store).await;

    assert!(store.renew(&claim, TERMS.lease).await.is_err());
    assert!(store.renew(&claim, TERMS.lease).await.is_err());
    assert!(store.complete(&claim, &answer()).await.is_ok());
}

#[tokio::test]
async fn every_method_can_fail() {
    let (store, faults) = store();
    let claim = claimed(&store).await;
    for method in Method::ALL {
        faults.on(method).fail_unsent(FOREVER);
    }
    let incident = steadfast_store::Incident {
        key: KEY,
        owner: TERMS.owner,
    };

    let failed = [
        store.abandon(&claim, TERMS.owner).await.is_err(),
        store.begin(&KEY, &TERMS).await.is_err(),
        store.complete(&claim, &answer()).await.is_err(),
        store.list_indeterminate(1).await.is_err(),
        store.look_up(&[KEY]).await.is_err(),
        store.reap(1, TERMS.lease).await.is_err(),
        store.release(claim.claimant()).await.is_err(),
        store.renew(&claim, TERMS.lease).await.is_err(),
        store
            .resolve(&incident, &steadfast_store::Resolution::Release)
            .await
            .is_err(),
        store.show(&KEY).await.is_err(),
    ];

    assert_eq!(failed, [true; 10]);
    for method in Method::ALL {
        let claims = u64::from(method == Method::Begin);
        assert_eq!(faults.calls(method), 1 + claims, "{method:?}");
    }
}

#[tokio::test]
async fn a_healed_store_goes_through() {
    let (store, faults) = store();
    faults.on(Method::Begin).fail_unsent(FOREVER);
    assert!(store.begin(&KEY, &TERMS).await.is_err());

    faults.heal();

    claimed(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_takes_its_step_late() {
    let (store, faults) = store();
    faults.on(Method::Begin).delay(1, Duration::from_secs(3));
    let asked = Instant::now();

    claimed(&store).await;

    assert_eq!(asked.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_call_held_before_its_step_has_not_taken_it_when_dropped() {
    let (store, faults) = store();
    let gate = faults.on(Method::Begin).hold_before(1);

    {
        let mut call = pin!(store.begin(&KEY, &TERMS));
        assert!(poll(call.as_mut()).is_pending());
        gate.reached().await;
    }

    assert_eq!(standing(&store).await, Standing::Absent);
    assert_eq!(faults.drops(Method::Begin), 1);
    assert_eq!(faults.answers(Method::Begin), 0);
}

#[tokio::test]
async fn a_call_held_after_its_step_has_taken_it_when_dropped() {
    let (store, faults) = store();
    let gate = faults.on(Method::Begin).hold_after(1);

    {
        let mut call = pin!(store.begin(&KEY, &TERMS));
        assert!(poll(call.as_mut()).is_pending());
        gate.reached().await;
    }

    assert!(matches!(standing(&store).await, Standing::Running { .. }));
    assert_eq!(faults.drops(Method::Begin), 1);
}

#[tokio::test]
async fn an_opened_gate_lets_its_calls_through() {
    let (store, faults) = store();
    let gate = faults.on(Method::Begin).hold_before(2);
    let first = tokio::spawn(begin(store.clone()));
    let second = tokio::spawn(begin(store.clone()));
    gate.reached_by(2).await;
    assert_eq!(gate.arrivals(), 2);
    assert_eq!(standing(&store).await, Standing::Absent);

    gate.open();

    assert!(matches!(first.await.unwrap(), Begin::Claimed(_)));
    assert!(matches!(second.await.unwrap(), Begin::Claimed(_)));
    faults.answered(Method::Begin, 2).await;
}

#[tokio::test]
async fn a_dropped_gate_is_open() {
    let (store, faults) = store();

    drop(faults.on(Method::Begin).hold_before(FOREVER));

    claimed(&store).await;
}

#[tokio::test]
async fn a_call_can_be_waited_for() {
    let (store, faults) = store();
    let gate = faults.on(Method::Begin).hold_before(1);
    let waiting = tokio::spawn({
        let faults = faults.clone();
        async move { faults.called(Method::Begin, 1).await }
    });
    let call = tokio::spawn(begin(store));

    waiting.await.unwrap();
    gate.open();

    assert!(matches!(call.await.unwrap(), Begin::Claimed(_)));
}

#[tokio::test]
async fn the_store_within_has_no_faults() {
    let (store, faults) = store();
    faults.on(Method::Begin).refuse(FOREVER);

    let begun = store.get_ref().begin(&KEY, &TERMS).await.unwrap();

    assert!(matches!(begun, Begin::Claimed(_)));
    assert_eq!(faults.calls(Method::Begin), 0);
    assert_eq!(store.id(), store.get_ref().id());
    assert_eq!(store.capabilities(), store.get_ref().capabilities());
}

fn store() -> (FaultyStore<MemoryStore>, Faults) {
    let store = FaultyStore::new(MemoryStore::default());
    let faults = store.faults();
    (store, faults)
}

async fn begin(store: FaultyStore<MemoryStore>) -> Begin {
    store.begin(&KEY, &TERMS).await.unwrap()
}

async fn claimed(store: &FaultyStore<MemoryStore>) -> Claim {
    match store.begin(&KEY, &TERMS).await.unwrap() {
        Begin::Claimed(claim) => claim,
        other @ (Begin::Completed { .. }
        | Begin::Conflict { .. }
        | Begin::Indeterminate
        | Begin::Running { .. }) => panic!("expected a claim, got {other:?}"),
    }
}

async fn standing(store: &FaultyStore<MemoryStore>) -> Standing {
    store.get_ref().look_up(&[KEY]).await.unwrap().remove(0)
}

fn answer() -> StoredResponse {
    StoredResponse::new(1, &b"done"[..])
}

fn poll<F: Future>(call: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}
