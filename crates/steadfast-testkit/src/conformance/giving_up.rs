//! Giving up: abandoning a claim without knowing what happened, and releasing it because nothing did.

use steadfast_core::idempotency::{Claimant, Execution, Promise, Terms};
use steadfast_store::{Stage, Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, OTHER_REQUEST, REQUEST, answer, applied, at_least_once, at_most_once,
        claimed, conflict, fenced, fenced_in_all, fresh_key, fresh_owner, indeterminate, look_up,
        lost_claim, running, show, terms,
    },
};

/// An abandoned operation stands as lapsed under at least once, as indeterminate under at most once; at once.
pub async fn an_abandoned_operation_has_lost_its_owner_at_once<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().abandon(&claim, fresh_owner()).await);
    assert_eq!(look_up(&bench.store(), &key).await, Standing::Lapsed);

    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_most_once()).await);
    applied(bench.store().abandon(&claim, fresh_owner()).await);
    assert_eq!(
        look_up(&bench.store(), &key).await,
        Standing::Indeterminate {
            fingerprint: REQUEST
        }
    );
    indeterminate(bench.store().begin(&key, &at_most_once()).await);
}

/// The owner that abandoned is fenced in everything, asking again included.
pub async fn an_owner_that_abandoned_is_fenced<B: Bench>(bench: &B) {
    let (key, most) = (fresh_key(), at_most_once());
    let claim = claimed(bench.store().begin(&key, &most).await);
    applied(bench.store().abandon(&claim, fresh_owner()).await);
    fenced_in_all(&bench.store(), &claim).await;
    indeterminate(bench.store().begin(&key, &most).await);

    let (key, least) = (fresh_key(), at_least_once());
    let claim = claimed(bench.store().begin(&key, &least).await);
    applied(bench.store().abandon(&claim, fresh_owner()).await);
    fenced_in_all(&bench.store(), &claim).await;
    let again = claimed(bench.store().begin(&key, &least).await);
    assert_eq!(again.execution().get(), 2);
}

/// The record goes to the successor, and keeps its execution and promise.
pub async fn an_abandoned_record_goes_to_the_successor<B: Bench>(bench: &B) {
    for (promise, stage) in BOTH_PROMISES
        .into_iter()
        .zip([Stage::Running, Stage::Indeterminate])
    {
        let (key, successor) = (fresh_key(), fresh_owner());
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);

        applied(bench.store().abandon(&claim, successor).await);

        let record = show(&bench.store(), &key).await;
        assert_eq!(record.owner, successor);
        assert_eq!(record.execution, Execution::FIRST);
        assert_eq!(record.promise, promise);
        assert_eq!(record.stage, stage);
    }
}

/// An owner that finds its operation indeterminate can still abandon it: the record changes hands.
pub async fn an_indeterminate_operation_can_be_abandoned_by_its_owner<B: Bench>(bench: &B) {
    let (key, successor) = (fresh_key(), fresh_owner());
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().abandon(&claim, successor).await);

    assert_eq!(show(&bench.store(), &key).await.owner, successor);
    fenced_in_all(&bench.store(), &claim).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);
}

/// A released operation leaves nothing: the next claim is a first execution, of any request and promise.
pub async fn a_released_operation_leaves_nothing<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);

        applied(bench.store().release(claim.claimant()).await);

        assert_eq!(look_up(&bench.store(), &key).await, Standing::Absent);
        assert_eq!(bench.store().show(&key).await.map_err(drop), Ok(None));
        for promise in BOTH_PROMISES {
            let another = Terms {
                fingerprint: OTHER_REQUEST,
                ..terms(promise)
            };
            let next = claimed(bench.store().begin(&key, &another).await);
            assert_eq!(next.execution(), Execution::FIRST);
            assert_eq!(show(&bench.store(), &key).await.promise, promise);
            applied(bench.store().release(next.claimant()).await);
        }
    }
}

/// A taken over operation that is released starts again from the first execution.
pub async fn a_release_forgets_the_takeovers<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;
    let second = claimed(bench.store().begin(&key, &at_least_once()).await);
    assert_eq!(second.execution().get(), 2);

    applied(bench.store().release(second.claimant()).await);

    let next = claimed(bench.store().begin(&key, &at_least_once()).await);
    assert_eq!(next.execution(), Execution::FIRST);
}

/// A claim whose acknowledgement was lost is released by its claimant alone.
pub async fn a_claimant_without_its_claim_can_release<B: Bench>(bench: &B) {
    let (key, terms) = (fresh_key(), at_least_once());
    let _lost = claimed(bench.store().begin(&key, &terms).await);

    let claimant = Claimant {
        key,
        owner: terms.owner,
    };

    applied(bench.store().release(&claimant).await);
    fenced(bench.store().release(&claimant).await);
    assert_eq!(look_up(&bench.store(), &key).await, Standing::Absent);
}

/// The owner of an indeterminate operation that learns that nothing happened releases it.
pub async fn an_indeterminate_operation_can_be_released_by_its_owner<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().release(claim.claimant()).await);

    let next = claimed(bench.store().begin(&key, &at_most_once()).await);
    assert_eq!(next.execution(), Execution::FIRST);
}

/// A stranger can neither abandon nor release what another runs.
pub async fn a_stranger_gives_nothing_up<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);
        let stranger = Claimant {
            key,
            owner: fresh_owner(),
        };
        let forged = steadfast_core::idempotency::Claim::granted(
            stranger,
            Execution::FIRST,
            Promise::AtLeastOnce,
        );

        fenced_in_all(&bench.store(), &forged).await;

        running(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().complete(&claim, &answer("done")).await);
    }
}

/// Giving up what is not there makes no record.
pub async fn giving_up_never_makes_a_record<B: Bench>(bench: &B) {
    let claimant = Claimant {
        key: fresh_key(),
        owner: fresh_owner(),
    };
    let never_made = steadfast_core::idempotency::Claim::granted(
        claimant,
        Execution::FIRST,
        Promise::AtLeastOnce,
    );

    fenced_in_all(&bench.store(), &never_made).await;

    assert_eq!(
        look_up(&bench.store(), &claimant.key).await,
        Standing::Absent
    );
}

/// A late owner is fenced in everything once its key was released and claimed by another.
pub async fn an_owner_that_released_is_fenced_from_the_next_life<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let first = claimed(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().release(first.claimant()).await);
        let second = claimed(bench.store().begin(&key, &terms(promise)).await);

        fenced_in_all(&bench.store(), &first).await;

        running(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().complete(&second, &answer("second")).await);
    }
}

/// An abandoned operation still belongs to its request.
pub async fn an_abandoned_operation_keeps_its_fingerprint<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(bench.store().begin(&key, &terms(promise)).await);
        applied(bench.store().abandon(&claim, fresh_owner()).await);

        let another = Terms {
            fingerprint: OTHER_REQUEST,
            ..terms(promise)
        };

        assert_eq!(conflict(bench.store().begin(&key, &another).await), REQUEST);
    }
}
