//! Takeovers: a lost owner under at least once.

use std::time::Duration;

use steadfast_core::idempotency::{Claim, Promise, Terms};
use steadfast_store::Store;

use super::{
    Bench,
    actors::{
        LONG, SHORT, answer, applied, at_least_once, at_most_once, claimed, completed, expire,
        fenced_in_all, fresh_key, fresh_owner, indeterminate, lapse, lost_claim, running, show,
    },
};

/// The next owner of the same request takes a lapsed operation over; each takeover is one execution more.
pub async fn each_takeover_is_one_execution_more<B: Bench>(bench: &B) {
    let key = fresh_key();
    for execution in 1..=5 {
        let claim = lost_claim(bench, &key, at_least_once()).await;

        assert_eq!(claim.execution().get(), execution);
    }
}

/// A taken over lease lives as long as the taker asked for.
pub async fn a_takeover_gets_the_lease_it_asked_for<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;

    let _second = claimed(bench.store().begin(&key, &at_least_once()).await);

    let lease_left = running(bench.store().begin(&key, &at_least_once()).await);
    assert!(
        lease_left > LONG / 2 && lease_left <= LONG,
        "{lease_left:?}"
    );
}

/// The retention counts anew from a takeover, shorter than it was.
pub async fn a_takeover_may_shorten_retention<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;

    let brief = Terms {
        retention: SHORT,
        ..at_least_once()
    };
    let second = claimed(bench.store().begin(&key, &brief).await);
    applied(bench.store().complete(&second, &answer("done")).await);

    expire(bench, &key).await;
}

/// The retention counts anew from a takeover, longer than it was.
pub async fn a_takeover_may_lengthen_retention<B: Bench>(bench: &B) {
    let (key, second, brief) = take_over_within_brief_retention(bench).await;
    applied(bench.store().complete(&second, &answer("done")).await);

    bench.advance(brief + SHORT).await;

    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("done")
    );
}

/// The first retention must be brief enough to wait for and yet not over before the takeover: a slow machine gets a longer one.
async fn take_over_within_brief_retention<B: Bench>(
    bench: &B,
) -> (steadfast_core::idempotency::KeyDigest, Claim, Duration) {
    for retention in [250, 1_000, 5_000, 30_000].map(Duration::from_millis) {
        let key = fresh_key();
        let first = Terms {
            lease: Duration::from_millis(1),
            retention,
            ..at_least_once()
        };
        let _first = claimed(bench.store().begin(&key, &first).await);
        bench.advance(Duration::from_millis(10)).await;
        let second = claimed(bench.store().begin(&key, &at_least_once()).await);
        if second.execution().get() == 2 {
            return (key, second, retention);
        }
    }
    panic!("no takeover was in time, with 30 s to make it");
}

/// Every transition of an owner that was taken over is fenced, and leaves the new owner's record alone.
pub async fn an_owner_that_was_taken_over_is_fenced<B: Bench>(bench: &B) {
    let key = fresh_key();
    let first = lost_claim(bench, &key, at_least_once()).await;
    let second = claimed(bench.store().begin(&key, &at_least_once()).await);

    fenced_in_all(&bench.store(), &first).await;

    running(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().complete(&second, &answer("second")).await);
    fenced_in_all(&bench.store(), &first).await;
    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("second")
    );
}

/// An owner that was taken over stays fenced when its successor is lost too.
pub async fn an_owner_that_was_taken_over_stays_fenced_when_its_successor_is_lost<B: Bench>(
    bench: &B,
) {
    let key = fresh_key();
    let first = lost_claim(bench, &key, at_least_once()).await;
    let second = lost_claim(bench, &key, at_least_once()).await;

    fenced_in_all(&bench.store(), &first).await;

    applied(bench.store().complete(&second, &answer("second")).await);
}

/// The promise of the first claim holds for the life of the record, whatever a taker asks for.
pub async fn a_takeover_keeps_the_promise_of_the_first_claim<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;

    let second = lost_claim(bench, &key, at_most_once()).await;
    assert_eq!(second.execution().get(), 2);
    assert_eq!(second.promise(), Promise::AtLeastOnce);
    assert_eq!(
        show(&bench.store(), &key).await.promise,
        Promise::AtLeastOnce
    );

    let third = claimed(bench.store().begin(&key, &at_most_once()).await);
    assert_eq!(third.execution().get(), 3);
}

/// Who asks with at least once does not take over what was promised at most once.
pub async fn a_promise_of_at_most_once_is_not_weakened_by_who_asks<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_most_once()).await;

    indeterminate(bench.store().begin(&key, &at_least_once()).await);
}

/// An abandoned operation is taken over at once, without waiting for its lease.
pub async fn an_abandoned_operation_is_taken_over_at_once<B: Bench>(bench: &B) {
    let key = fresh_key();
    let first = claimed(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().abandon(&first, fresh_owner()).await);

    let second = claimed(bench.store().begin(&key, &at_least_once()).await);

    assert_eq!(second.execution().get(), 2);
    fenced_in_all(&bench.store(), &first).await;
}

/// A taken over claim can be asked again too, and lapses like any other.
pub async fn a_takeover_is_idempotent_for_its_owner<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;
    let taker = Terms {
        lease: SHORT,
        ..at_least_once()
    };
    let second = claimed(bench.store().begin(&key, &taker).await);
    lapse(bench, &key).await;

    let again = claimed(bench.store().begin(&key, &taker).await);

    assert_eq!(again, second);
}
