//! One key, two requests: the mismatch wins over every other verdict, and changes nothing.

use steadfast_core::idempotency::{Fingerprint, Terms};
use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, OTHER_REQUEST, REQUEST, SHORT, answer, applied, at_least_once,
        at_most_once, claimed, completed, conflict, fresh_key, fresh_owner, indeterminate, look_up,
        lost_claim, outlive_short, running, terms,
    },
};

fn of_another_request(terms: Terms) -> Terms {
    Terms {
        owner: fresh_owner(),
        fingerprint: OTHER_REQUEST,
        ..terms
    }
}

/// Another request under the key of a running operation is told whose key it is.
pub async fn a_mismatch_wins_over_a_live_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        let claim = claimed(bench.store().begin(&key, &terms).await);

        let fingerprint = conflict(bench.store().begin(&key, &of_another_request(terms)).await);

        assert_eq!(fingerprint, REQUEST);
        applied(bench.store().complete(&claim, &answer("done")).await);
    }
}

/// The owner itself gets no claim for another request.
pub async fn a_mismatch_wins_over_the_owner_itself<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    let _claim = claimed(bench.store().begin(&key, &terms).await);

    let changed = Terms {
        fingerprint: OTHER_REQUEST,
        ..terms
    };

    assert_eq!(conflict(bench.store().begin(&key, &changed).await), REQUEST);
    let _same = claimed(bench.store().begin(&key, &terms).await);
}

/// The owner's own lapsed claim is not revived for another request.
pub async fn a_mismatch_wins_over_the_lapsed_owner_itself<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        lost_claim(bench, &key, terms).await;

        let changed = Terms {
            fingerprint: OTHER_REQUEST,
            ..terms
        };

        assert_eq!(conflict(bench.store().begin(&key, &changed).await), REQUEST);
        assert!(!matches!(
            look_up(&bench.store(), &key).await,
            Standing::Running { .. }
        ));
    }
}

/// Another request never sees the answer.
pub async fn a_mismatch_wins_over_an_answer<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    let claim = claimed(bench.store().begin(&key, &terms).await);
    applied(bench.store().complete(&claim, &answer("done")).await);

    let other = of_another_request(terms);

    assert_eq!(conflict(bench.store().begin(&key, &other).await), REQUEST);
    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("done")
    );
}

/// Another request under an indeterminate key is a conflict, and stays one past retention.
pub async fn a_mismatch_wins_over_an_indeterminate_operation<B: Bench>(bench: &B) {
    let key = fresh_key();
    let terms = Terms {
        retention: SHORT,
        ..at_most_once()
    };
    let claim = lost_claim(bench, &key, terms).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);
    outlive_short(bench).await;

    let other = of_another_request(terms);

    assert_eq!(conflict(bench.store().begin(&key, &other).await), REQUEST);
    applied(bench.store().renew(&claim, LONG).await);
}

/// Another request does not take a lapsed operation over.
pub async fn a_mismatch_wins_over_a_lapsed_claim<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    let claim = lost_claim(bench, &key, terms).await;

    let other = of_another_request(terms);

    assert_eq!(conflict(bench.store().begin(&key, &other).await), REQUEST);
    applied(bench.store().renew(&claim, LONG).await);
    running(bench.store().begin(&key, &at_least_once()).await);
}

/// Another request neither claims an operation whose owner promised at most once nor hears that it is indeterminate.
pub async fn a_mismatch_wins_over_a_claim_lapsed_under_at_most_once<B: Bench>(bench: &B) {
    let key = fresh_key();
    let terms = Terms {
        retention: SHORT,
        ..at_most_once()
    };
    let claim = lost_claim(bench, &key, terms).await;
    outlive_short(bench).await;

    let other = of_another_request(at_least_once());

    assert_eq!(conflict(bench.store().begin(&key, &other).await), REQUEST);
    applied(bench.store().complete(&claim, &answer("late")).await);
}

/// The version of the recipe is part of the fingerprint, and the stored one comes back whole.
pub async fn a_conflict_tells_the_stored_fingerprint_and_its_version<B: Bench>(bench: &B) {
    let mut digest = [0; 32];
    for (byte, value) in digest.iter_mut().zip(224..=255) {
        *byte = value;
    }
    for version in [0, 1, 127, 255] {
        let key = fresh_key();
        let stored = Fingerprint::new(version, digest);
        let terms = Terms {
            fingerprint: stored,
            ..at_least_once()
        };
        let _claim = claimed(bench.store().begin(&key, &terms).await);

        let of_another_version = Terms {
            owner: fresh_owner(),
            fingerprint: Fingerprint::new(version ^ 2, digest),
            ..terms
        };

        assert_eq!(
            conflict(bench.store().begin(&key, &of_another_version).await),
            stored
        );
    }
}
