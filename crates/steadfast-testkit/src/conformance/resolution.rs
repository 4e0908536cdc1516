//! Resolutions: deciding an indeterminate operation, and fencing its lost owner in the same step.

use std::time::Duration;

use steadfast_core::idempotency::{Execution, Terms};
use steadfast_store::{Incident, Resolution, Stage, Standing, Store};

use super::{
    Bench,
    actors::{
        LONG, OTHER_REQUEST, REQUEST, SHORT, answer, applied, at_least_once, at_most_once, claimed,
        completed, conflict, expire, fenced, fenced_in_all, fresh_key, fresh_owner, incident,
        indeterminate, look_up, lost_claim, outlive_short, running, show,
    },
};

fn complete_with(text: &'static str) -> Resolution {
    Resolution::Complete {
        resolver: fresh_owner(),
        response: answer(text),
        retention: LONG,
    }
}

fn both() -> [Resolution; 2] {
    [complete_with("resolved"), Resolution::Release]
}

/// A decision that it took effect gives everyone the answer, and fences the lost owner.
pub async fn a_resolved_operation_answers_everyone_and_fences_the_lost_owner<B: Bench>(bench: &B) {
    let store = bench.store();
    let (key, terms) = (fresh_key(), at_most_once());
    let lost = lost_claim(bench, &key, terms).await;
    indeterminate(store.begin(&key, &at_most_once()).await);
    let incident = incident(&store, &key).await;

    applied(store.resolve(&incident, &complete_with("resolved")).await);

    fenced_in_all(&store, &lost).await;
    for asker in [terms, at_most_once(), at_least_once()] {
        assert_eq!(
            completed(store.begin(&key, &asker).await),
            answer("resolved")
        );
    }
    let other = Terms {
        fingerprint: OTHER_REQUEST,
        ..at_most_once()
    };
    assert_eq!(conflict(store.begin(&key, &other).await), REQUEST);
    let listed = store.list_indeterminate(10).await.map_err(drop);
    assert_eq!(listed, Ok(Vec::new()));
}

/// The record of a resolved operation tells who resolved it.
pub async fn a_resolved_record_belongs_to_its_resolver<B: Bench>(bench: &B) {
    let store = bench.store();
    let (key, resolver) = (fresh_key(), fresh_owner());
    lost_claim(bench, &key, at_most_once()).await;
    let resolution = Resolution::Complete {
        resolver,
        response: answer("resolved"),
        retention: LONG,
    };

    applied(
        store
            .resolve(&incident(&store, &key).await, &resolution)
            .await,
    );

    let record = show(&store, &key).await;
    assert_eq!(record.owner, resolver);
    assert_eq!(record.stage, Stage::Completed);
    assert_eq!(record.execution, Execution::FIRST);
}

/// A decision that nothing happened leaves nothing: the next request runs, and the lost owner is fenced from it.
pub async fn a_released_operation_runs_again_and_fences_the_lost_owner<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    let lost = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(store.begin(&key, &at_most_once()).await);
    let incident = incident(&store, &key).await;

    applied(store.resolve(&incident, &Resolution::Release).await);

    assert_eq!(look_up(&store, &key).await, Standing::Absent);
    fenced_in_all(&store, &lost).await;
    assert_eq!(look_up(&store, &key).await, Standing::Absent);
    let next = claimed(store.begin(&key, &at_most_once()).await);
    assert_eq!(next.execution(), Execution::FIRST);
    fenced_in_all(&store, &lost).await;
    running(store.begin(&key, &at_most_once()).await);
}

/// An operation whose lease is over under at most once can be resolved although nobody has asked since.
pub async fn a_lapsed_operation_is_resolved_before_anybody_asks<B: Bench>(bench: &B) {
    for resolution in both() {
        let store = bench.store();
        let key = fresh_key();
        let lost = lost_claim(bench, &key, at_most_once()).await;
        let incident = incident(&store, &key).await;

        applied(store.resolve(&incident, &resolution).await);

        fenced_in_all(&store, &lost).await;
    }
}

/// An abandoned operation is resolved as the incident of its successor, not of the owner that abandoned.
pub async fn an_abandoned_operation_is_resolved_by_its_successors_name<B: Bench>(bench: &B) {
    for resolution in both() {
        let store = bench.store();
        let (key, successor) = (fresh_key(), fresh_owner());
        let claim = claimed(store.begin(&key, &at_most_once()).await);
        applied(store.abandon(&claim, successor).await);

        let of_the_owner = Incident {
            key,
            owner: *claim.owner(),
        };
        fenced(store.resolve(&of_the_owner, &resolution).await);

        let of_the_successor = Incident {
            key,
            owner: successor,
        };
        applied(store.resolve(&of_the_successor, &resolution).await);
    }
}

/// What is not indeterminate is not resolved: a live claim, a lapsed one under at least once, an answer, nothing.
pub async fn only_an_indeterminate_operation_is_resolved<B: Bench>(bench: &B) {
    for resolution in both() {
        let store = bench.store();

        let live = claimed(store.begin(&fresh_key(), &at_most_once()).await);
        fenced(store.resolve(&of(live.claimant()), &resolution).await);
        applied(store.renew(&live, LONG).await);

        let lapsed = lost_claim(bench, &fresh_key(), at_least_once()).await;
        fenced(store.resolve(&of(lapsed.claimant()), &resolution).await);
        applied(store.renew(&lapsed, LONG).await);

        let done = claimed(store.begin(&fresh_key(), &at_most_once()).await);
        applied(store.complete(&done, &answer("done")).await);
        fenced(store.resolve(&of(done.claimant()), &resolution).await);
        assert_eq!(
            completed(store.begin(done.key(), &at_most_once()).await),
            answer("done")
        );

        let nothing = Incident {
            key: fresh_key(),
            owner: fresh_owner(),
        };
        fenced(store.resolve(&nothing, &resolution).await);
        assert_eq!(look_up(&store, &nothing.key).await, Standing::Absent);
    }
}

fn of(claimant: &steadfast_core::idempotency::Claimant) -> Incident {
    Incident {
        key: claimant.key,
        owner: claimant.owner,
    }
}

/// A decision about one lost owner does not decide for another of the same key.
pub async fn a_stale_incident_resolves_nothing<B: Bench>(bench: &B) {
    for resolution in both() {
        let store = bench.store();
        let key = fresh_key();
        lost_claim(bench, &key, at_most_once()).await;
        let stale = incident(&store, &key).await;
        applied(store.resolve(&stale, &Resolution::Release).await);
        lost_claim(bench, &key, at_most_once()).await;

        fenced(store.resolve(&stale, &resolution).await);

        indeterminate(store.begin(&key, &at_most_once()).await);
    }
}

/// A decision that comes after the owner revived or completed its operation changes nothing.
pub async fn a_decision_that_the_owner_forestalled_changes_nothing<B: Bench>(bench: &B) {
    for resolution in both() {
        let store = bench.store();
        let key = fresh_key();
        let claim = lost_claim(bench, &key, at_most_once()).await;
        indeterminate(store.begin(&key, &at_most_once()).await);
        let incident = incident(&store, &key).await;

        applied(store.renew(&claim, LONG).await);
        fenced(store.resolve(&incident, &resolution).await);
        running(store.begin(&key, &at_most_once()).await);

        applied(store.complete(&claim, &answer("own")).await);
        fenced(store.resolve(&incident, &resolution).await);
        assert_eq!(
            completed(store.begin(&key, &at_most_once()).await),
            answer("own")
        );
    }
}

/// The first decision stands.
pub async fn an_operation_is_resolved_once<B: Bench>(bench: &B) {
    for second in both() {
        let store = bench.store();
        let key = fresh_key();
        lost_claim(bench, &key, at_most_once()).await;
        let incident = incident(&store, &key).await;
        applied(store.resolve(&incident, &complete_with("first")).await);

        fenced(store.resolve(&incident, &second).await);

        assert_eq!(
            completed(store.begin(&key, &at_most_once()).await),
            answer("first")
        );
    }
}

/// A resolved answer is kept for the retention that the decision gave, counted from it.
pub async fn a_resolution_counts_retention_from_now<B: Bench>(bench: &B) {
    let store = bench.store();
    let kept = fresh_key();
    let brief = Terms {
        retention: SHORT,
        ..at_most_once()
    };
    lost_claim(bench, &kept, brief).await;
    outlive_short(bench).await;
    applied(
        store
            .resolve(&incident(&store, &kept).await, &complete_with("kept"))
            .await,
    );
    assert_eq!(
        completed(store.begin(&kept, &at_most_once()).await),
        answer("kept")
    );

    let forgotten = fresh_key();
    lost_claim(bench, &forgotten, at_most_once()).await;
    let briefly = Resolution::Complete {
        resolver: fresh_owner(),
        response: answer("forgotten"),
        retention: SHORT,
    };
    applied(
        store
            .resolve(&incident(&store, &forgotten).await, &briefly)
            .await,
    );
    expire(bench, &forgotten).await;
}

/// A resolved answer of no retention is over at once, and its record is replaced by the next claim.
pub async fn a_resolution_of_no_retention_is_over_at_once<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    lost_claim(bench, &key, at_most_once()).await;
    let resolution = Resolution::Complete {
        resolver: fresh_owner(),
        response: answer("gone"),
        retention: Duration::ZERO,
    };

    applied(
        store
            .resolve(&incident(&store, &key).await, &resolution)
            .await,
    );

    let next = claimed(store.begin(&key, &at_most_once()).await);
    assert_eq!(next.execution(), Execution::FIRST);
}
