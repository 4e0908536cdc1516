//! Claiming: who owns a new operation, and what its owner hears when it asks again.

use std::time::Duration;

use steadfast_core::idempotency::{Execution, KeyDigest, Terms};
use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, SHORT, answer, applied, at_least_once, at_most_once, claimed,
        completed, expire, fresh_key, indeterminate, lapse, look_up, lost_claim, running, terms,
    },
};

/// A new key is claimed by whoever asks, as its first execution.
pub async fn a_new_key_is_claimed_as_its_first_execution<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));

        let claim = claimed(bench.store().begin(&key, &terms).await);

        assert_eq!(claim.key(), &key);
        assert_eq!(claim.owner(), &terms.owner);
        assert_eq!(claim.execution(), Execution::FIRST);
    }
}

/// A claim is idempotent for its owner: a lost acknowledgement is asked again.
pub async fn a_claim_asked_again_by_its_owner_is_the_same_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        let first = claimed(bench.store().begin(&key, &terms).await);

        let again = claimed(bench.store().begin(&key, &terms).await);

        assert_eq!(again, first);
    }
}

/// Asking again is not a renewal: a live lease keeps its end.
pub async fn asking_again_does_not_lengthen_a_live_lease<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    let _claim = claimed(bench.store().begin(&key, &terms).await);

    let longer = Terms {
        lease: LONG * 10,
        ..terms
    };
    let _again = claimed(bench.store().begin(&key, &longer).await);

    let lease_left = running(bench.store().begin(&key, &at_least_once()).await);
    assert!(lease_left <= LONG, "{lease_left:?} are left of {LONG:?}");
}

/// An owner that asks again after its lease gets its claim back if nobody came between, whatever was promised.
pub async fn asking_again_revives_the_lapsed_claim_of_the_owner<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        let lost = lost_claim(bench, &key, terms).await;

        let again = claimed(bench.store().begin(&key, &terms).await);

        assert_eq!(again, lost);
        running(
            bench
                .store()
                .begin(&key, &super::actors::terms(promise))
                .await,
        );
    }
}

/// An owner that asks again after lease and retention still gets its own execution back, not a new life.
pub async fn asking_again_past_retention_keeps_the_execution<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;
    let taker = Terms {
        lease: SHORT,
        retention: SHORT,
        ..at_least_once()
    };
    let second = claimed(bench.store().begin(&key, &taker).await);
    expire(bench, &key).await;

    let again = claimed(bench.store().begin(&key, &taker).await);

    assert_eq!(again, second);
    assert_eq!(again.execution().get(), 2);
}

/// While the lease lives, every other owner hears that the operation runs, and for how long at most.
pub async fn another_owner_finds_a_live_claim_running<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let asked = tokio::time::Instant::now();
        let _claim = claimed(bench.store().begin(&key, &terms(promise)).await);

        for _ in 0..3 {
            let lease_left = running(bench.store().begin(&key, &terms(promise)).await);

            let passed = asked.elapsed();
            assert!(lease_left <= LONG, "{lease_left:?} are left of {LONG:?}");
            assert!(
                lease_left + passed + Duration::from_secs(60) >= LONG,
                "only {lease_left:?} are left of {LONG:?} after {passed:?}"
            );
        }
    }
}

/// An owner that was taken over and asks again is told that another runs.
pub async fn an_owner_that_was_taken_over_is_not_claimed_again<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    lost_claim(bench, &key, terms).await;
    let _second = claimed(bench.store().begin(&key, &at_least_once()).await);

    running(bench.store().begin(&key, &terms).await);
}

/// The owner of a completed operation that asks again gets the answer, not a claim.
pub async fn an_owner_that_completed_finds_its_answer<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        let claim = claimed(bench.store().begin(&key, &terms).await);
        applied(bench.store().complete(&claim, &answer("done")).await);

        assert_eq!(
            completed(bench.store().begin(&key, &terms).await),
            answer("done")
        );
    }
}

/// *Claimed* is answered only while the record runs: an owner whose operation is indeterminate does not get it by asking.
pub async fn an_owner_whose_operation_is_indeterminate_is_not_claimed_by_asking<B: Bench>(
    bench: &B,
) {
    let (key, terms) = (fresh_key(), at_most_once());
    lost_claim(bench, &key, terms).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    indeterminate(bench.store().begin(&key, &terms).await);
}

/// Keys that differ in one bit have nothing to do with each other.
pub async fn keys_that_differ_in_one_bit_are_two_operations<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);

    for bit in [0, 7, 128, 255] {
        let mut bytes = *key.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let neighbour = KeyDigest::from_bytes(bytes);

        let other = claimed(bench.store().begin(&neighbour, &at_least_once()).await);
        applied(bench.store().complete(&other, &answer("neighbour")).await);
    }

    assert!(matches!(
        look_up(&bench.store(), &key).await,
        Standing::Running { .. }
    ));
    applied(bench.store().complete(&claim, &answer("own")).await);
}

/// One owner id on two keys is two claims: a transition compares key and owner.
pub async fn one_owner_may_hold_claims_on_several_keys<B: Bench>(bench: &B) {
    let (first, second, terms) = (fresh_key(), fresh_key(), at_least_once());
    let first_claim = claimed(bench.store().begin(&first, &terms).await);
    let second_claim = claimed(bench.store().begin(&second, &terms).await);

    applied(bench.store().complete(&first_claim, &answer("first")).await);
    applied(bench.store().release(second_claim.claimant()).await);

    assert_eq!(
        completed(bench.store().begin(&first, &terms).await),
        answer("first")
    );
    assert_eq!(look_up(&bench.store(), &second).await, Standing::Absent);
}

/// A claim made by one handle is seen by all the others at once.
pub async fn every_handle_sees_an_acknowledged_claim<B: Bench>(bench: &B) {
    let handles: Vec<_> = (0..4).map(|_| bench.store()).collect();
    for maker in &handles {
        let key = fresh_key();
        let short = Terms {
            lease: SHORT,
            ..at_most_once()
        };
        let _claim = claimed(maker.begin(&key, &at_least_once()).await);
        let lost = fresh_key();
        let _lost = claimed(maker.begin(&lost, &short).await);
        lapse(bench, &lost).await;

        for seer in &handles {
            running(seer.begin(&key, &at_least_once()).await);
            indeterminate(seer.begin(&lost, &at_most_once()).await);
        }
    }
}
