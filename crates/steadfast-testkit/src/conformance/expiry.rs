//! Expiry: past its retention a record answers nobody, and the next claim starts a new life.

use std::time::Duration;

use steadfast_core::idempotency::{Claim, Execution, KeyDigest, Terms};
use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, OTHER_REQUEST, SHORT, answer, applied, at_least_once, claimed,
        completed, expire, fenced_in_all, fresh_key, look_up, lost_claim, outlive_short, running,
        show, terms,
    },
};

async fn expired_answer<B: Bench>(bench: &B, terms: Terms) -> (KeyDigest, Claim) {
    let key = fresh_key();
    let brief = Terms {
        retention: SHORT,
        ..terms
    };
    let claim = claimed(bench.store().begin(&key, &brief).await);
    applied(bench.store().complete(&claim, &answer("old")).await);
    expire(bench, &key).await;
    (key, claim)
}

/// Past retention the key is new again: any request, any promise, the first execution.
pub async fn past_retention_an_answered_key_starts_a_new_life<B: Bench>(bench: &B) {
    for before in BOTH_PROMISES {
        for after in BOTH_PROMISES {
            let (key, old) = expired_answer(bench, terms(before)).await;
            let another = Terms {
                fingerprint: OTHER_REQUEST,
                ..terms(after)
            };

            let new = claimed(bench.store().begin(&key, &another).await);

            assert_eq!(new.execution(), Execution::FIRST);
            let record = show(&bench.store(), &key).await;
            assert_eq!(record.promise, after);
            assert_eq!(record.owner, another.owner);
            fenced_in_all(&bench.store(), &old).await;
            running(
                bench
                    .store()
                    .begin(
                        &key,
                        &Terms {
                            owner: old_owner(),
                            ..another
                        },
                    )
                    .await,
            );
        }
    }
}

fn old_owner() -> steadfast_core::idempotency::OwnerId {
    at_least_once().owner
}

/// The answer of a new life replaces the old one wholly.
pub async fn a_new_life_keeps_nothing_of_the_old_answer<B: Bench>(bench: &B) {
    let (key, _old) = expired_answer(bench, at_least_once()).await;
    let terms = at_least_once();
    let new = claimed(bench.store().begin(&key, &terms).await);
    assert!(matches!(
        look_up(&bench.store(), &key).await,
        Standing::Running { .. }
    ));

    applied(bench.store().complete(&new, &answer("new")).await);

    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("new")
    );
}

/// The owner of an answer past its retention starts a new life like anybody else.
pub async fn the_owner_of_an_expired_answer_starts_a_new_life<B: Bench>(bench: &B) {
    let key = fresh_key();
    let brief = Terms {
        retention: SHORT,
        ..at_least_once()
    };
    let claim = claimed(bench.store().begin(&key, &brief).await);
    applied(bench.store().complete(&claim, &answer("old")).await);
    expire(bench, &key).await;

    let again = claimed(bench.store().begin(&key, &brief).await);

    assert_eq!(again.execution(), Execution::FIRST);
    assert!(!matches!(
        look_up(&bench.store(), &key).await,
        Standing::Completed { .. }
    ));
}

/// A lapsed operation past its retention starts a new life: any request, the first execution.
pub async fn past_retention_a_lapsed_key_starts_a_new_life<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        lost_claim(bench, &key, at_least_once()).await;
        let brief = Terms {
            lease: SHORT,
            retention: SHORT,
            ..at_least_once()
        };
        let second = claimed(bench.store().begin(&key, &brief).await);
        assert_eq!(second.execution().get(), 2);
        expire(bench, &key).await;

        let another = Terms {
            fingerprint: OTHER_REQUEST,
            ..terms(promise)
        };
        let new = claimed(bench.store().begin(&key, &another).await);

        assert_eq!(new.execution(), Execution::FIRST);
        assert_eq!(show(&bench.store(), &key).await.promise, promise);
        fenced_in_all(&bench.store(), &second).await;
    }
}

/// The end of the lease does not end the answer's retention.
pub async fn an_answer_outlives_its_lease<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let brief = Terms {
            lease: SHORT,
            ..terms(promise)
        };
        let claim = claimed(bench.store().begin(&key, &brief).await);
        applied(bench.store().complete(&claim, &answer("done")).await);

        outlive_short(bench).await;

        assert_eq!(
            completed(bench.store().begin(&key, &terms(promise)).await),
            answer("done")
        );
    }
}

/// Retention counts from the claim, not from the completion.
pub async fn retention_counts_from_the_claim<B: Bench>(bench: &B) {
    let key = fresh_key();
    let brief = Terms {
        retention: SHORT,
        ..at_least_once()
    };
    let claim = claimed(bench.store().begin(&key, &brief).await);
    outlive_short(bench).await;

    applied(bench.store().complete(&claim, &answer("late")).await);

    assert_eq!(look_up(&bench.store(), &key).await, Standing::Absent);
    let next = claimed(bench.store().begin(&key, &at_least_once()).await);
    assert_eq!(next.execution(), Execution::FIRST);
}

/// A retention of no length keeps the claim while its lease lives.
pub async fn a_retention_of_no_length_leaves_the_live_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let brief = Terms {
            retention: Duration::ZERO,
            ..terms(promise)
        };
        let claim = claimed(bench.store().begin(&key, &brief).await);

        running(bench.store().begin(&key, &terms(promise)).await);

        applied(bench.store().renew(&claim, LONG).await);
    }
}
