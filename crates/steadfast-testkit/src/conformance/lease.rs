//! Leases: what a renewal gives, whom it revives, and who is fenced.

use std::time::Duration;

use steadfast_core::idempotency::{Claim, Claimant, Execution, Promise, Terms};
use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, SHORT, answer, applied, at_least_once, at_most_once, claimed, expire,
        fenced, fresh_key, fresh_owner, indeterminate, lapse, look_up, lost_claim, outlive_short,
        running, terms,
    },
};

/// A renewal counts the lease from the renewal, longer or shorter than it was.
pub async fn a_renewal_counts_the_lease_from_now<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);

    applied(bench.store().renew(&claim, LONG * 2).await);
    let lease_left = running(bench.store().begin(&key, &at_least_once()).await);
    assert!(
        LONG < lease_left && lease_left <= LONG * 2,
        "{lease_left:?}"
    );

    applied(bench.store().renew(&claim, SHORT).await);
    lapse(bench, &key).await;
}

/// A lapsed claim that nobody took over is revived by its owner's renewal.
pub async fn a_renewal_revives_a_lapsed_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;

        applied(bench.store().renew(&claim, LONG).await);

        running(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().complete(&claim, &answer("done")).await);
    }
}

/// An indeterminate operation runs again when its own owner, merely slow, renews.
pub async fn a_renewal_revives_an_indeterminate_operation<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().renew(&claim, LONG).await);

    running(bench.store().begin(&key, &at_most_once()).await);
    assert!(matches!(
        look_up(&bench.store(), &key).await,
        Standing::Running { .. }
    ));
}

/// A revived operation can be lost again.
pub async fn a_revived_operation_lapses_again<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().renew(&claim, SHORT).await);
    lapse(bench, &key).await;

    indeterminate(bench.store().begin(&key, &at_most_once()).await);
}

/// A renewal does not move the retention.
pub async fn a_renewal_does_not_lengthen_retention<B: Bench>(bench: &B) {
    let key = fresh_key();
    let brief = Terms {
        retention: SHORT,
        ..at_least_once()
    };
    let claim = claimed(bench.store().begin(&key, &brief).await);

    applied(bench.store().renew(&claim, LONG).await);
    applied(bench.store().complete(&claim, &answer("done")).await);

    expire(bench, &key).await;
}

/// The end of a lease alone fences nobody: each transition of the lapsed owner is applied until somebody takes over.
pub async fn a_lapse_alone_fences_nobody<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;
        applied(bench.store().complete(&claim, &answer("late")).await);

        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;
        applied(bench.store().abandon(&claim, fresh_owner()).await);

        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;
        applied(bench.store().release(claim.claimant()).await);
    }
}

/// A live lease holds past retention, against everybody.
pub async fn a_live_lease_outlives_retention<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let brief = Terms {
            retention: SHORT,
            ..terms(promise)
        };
        let claim = claimed(bench.store().begin(&key, &brief).await);
        outlive_short(bench).await;

        running(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().renew(&claim, LONG).await);
    }
}

/// A lease of no length is over at once.
pub async fn a_lease_of_no_length_is_over_at_once<B: Bench>(bench: &B) {
    let key = fresh_key();
    let brief = Terms {
        lease: Duration::ZERO,
        ..at_least_once()
    };
    let _claim = claimed(bench.store().begin(&key, &brief).await);

    let second = claimed(bench.store().begin(&key, &at_least_once()).await);

    assert_eq!(second.execution().get(), 2);
}

/// A renewal never makes a record.
pub async fn a_renewal_never_makes_a_record<B: Bench>(bench: &B) {
    let claimant = Claimant {
        key: fresh_key(),
        owner: fresh_owner(),
    };
    let never_made = Claim::granted(claimant, Execution::FIRST, Promise::AtLeastOnce);

    fenced(bench.store().renew(&never_made, LONG).await);

    assert_eq!(
        look_up(&bench.store(), &claimant.key).await,
        Standing::Absent
    );
}

/// A fenced renewal leaves the other owner's lease as it was.
pub async fn a_fenced_renewal_changes_no_lease<B: Bench>(bench: &B) {
    let key = fresh_key();
    let _claim = claimed(bench.store().begin(&key, &at_least_once()).await);
    let stranger = Claim::granted(
        Claimant {
            key,
            owner: fresh_owner(),
        },
        Execution::FIRST,
        Promise::AtLeastOnce,
    );

    fenced(bench.store().renew(&stranger, LONG * 10).await);
    fenced(bench.store().renew(&stranger, Duration::ZERO).await);

    let lease_left = running(bench.store().begin(&key, &at_least_once()).await);
    assert!(lease_left <= LONG, "{lease_left:?}");
}
