//! Completions: the answer is stored once, by the owner, and never changes.

use steadfast_core::idempotency::{Claim, Claimant, Execution, Promise};
use steadfast_store::{Standing, Store, StoredResponse};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, REQUEST, answer, applied, at_least_once, at_most_once, claimed,
        completed, fenced, fresh_key, fresh_owner, indeterminate, look_up, lost_claim, terms,
    },
};

/// A completed operation answers everyone who asks the same.
pub async fn a_completed_operation_answers_everyone_the_same<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);

        applied(bench.store().complete(&claim, &answer("done")).await);

        for asker in BOTH_PROMISES {
            for _ in 0..3 {
                assert_eq!(
                    completed(bench.store().begin(&key, &terms(asker)).await),
                    answer("done")
                );
            }
        }
        assert_eq!(
            look_up(&bench.store(), &key).await,
            Standing::Completed {
                fingerprint: REQUEST,
                response: answer("done")
            }
        );
    }
}

/// A completion whose acknowledgement was lost is sent again, and applied again.
pub async fn a_completion_may_be_sent_again<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);

    for _ in 0..3 {
        applied(bench.store().complete(&claim, &answer("done")).await);
    }

    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("done")
    );
}

/// Not even its own owner changes a stored answer: neither its bytes nor its format.
pub async fn a_stored_answer_never_changes<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().complete(&claim, &answer("first")).await);

    applied(bench.store().complete(&claim, &answer("second")).await);
    applied(
        bench
            .store()
            .complete(&claim, &StoredResponse::new(2, &b"first"[..]))
            .await,
    );

    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("first")
    );
}

/// The owner of a completed operation can neither renew, abandon nor release it.
pub async fn a_completed_operation_is_not_renewed_abandoned_or_released<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().complete(&claim, &answer("done")).await);

        fenced(bench.store().renew(&claim, LONG).await);
        fenced(bench.store().abandon(&claim, fresh_owner()).await);
        fenced(bench.store().release(claim.claimant()).await);

        assert_eq!(
            completed(bench.store().begin(&key, &terms(promise)).await),
            answer("done")
        );
        applied(bench.store().complete(&claim, &answer("done")).await);
    }
}

/// A completion never makes a record: neither on a new key nor after a release.
pub async fn a_completion_never_makes_a_record<B: Bench>(bench: &B) {
    let claimant = Claimant {
        key: fresh_key(),
        owner: fresh_owner(),
    };
    let never_made = Claim::granted(claimant, Execution::FIRST, Promise::AtLeastOnce);
    fenced(bench.store().complete(&never_made, &answer("no")).await);
    assert_eq!(
        look_up(&bench.store(), &claimant.key).await,
        Standing::Absent
    );

    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().release(claim.claimant()).await);
    fenced(bench.store().complete(&claim, &answer("no")).await);
    assert_eq!(look_up(&bench.store(), &key).await, Standing::Absent);
}

/// An owner that was merely slow completes its own lapsed operation.
pub async fn a_late_completion_of_a_lapsed_claim_is_applied<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;

        applied(bench.store().complete(&claim, &answer("late")).await);

        assert_eq!(
            completed(bench.store().begin(&key, &terms(promise)).await),
            answer("late")
        );
    }
}

/// An owner that was merely slow completes its own indeterminate operation.
pub async fn a_late_completion_of_an_indeterminate_operation_is_applied<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().complete(&claim, &answer("late")).await);

    assert_eq!(
        completed(bench.store().begin(&key, &at_most_once()).await),
        answer("late")
    );
    assert_eq!(
        bench.store().list_indeterminate(10).await.map_err(drop),
        Ok(Vec::new())
    );
}

/// A late owner is fenced by a release and the claim that followed it.
pub async fn a_completion_is_fenced_by_a_release_and_a_new_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let first = claimed(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().release(first.claimant()).await);
        let second = claimed(bench.store().begin(&key, &terms(promise)).await);

        fenced(bench.store().complete(&first, &answer("first")).await);

        applied(bench.store().complete(&second, &answer("second")).await);
        fenced(bench.store().complete(&first, &answer("first")).await);
        assert_eq!(
            completed(bench.store().begin(&key, &terms(promise)).await),
            answer("second")
        );
    }
}
