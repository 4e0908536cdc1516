//! Showing: what an operator sees of one record.

use std::time::Duration;

use steadfast_core::idempotency::{Execution, Terms};
use steadfast_store::{Stage, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, SHORT, answer, applied, at_least_once, claimed, fresh_key,
        fresh_owner, lost_claim, ok, show, terms,
    },
};

/// The summary names operation, owner, execution, promise and stage.
pub async fn a_record_is_shown_as_it_stands<B: Bench>(bench: &B) {
    let store = bench.store();
    for promise in BOTH_PROMISES {
        let (key, terms) = (fresh_key(), terms(promise));
        assert_eq!(ok(store.show(&key).await), None);
        let claim = claimed(store.begin(&key, &terms).await);

        let record = show(&store, &key).await;
        assert_eq!(record.key, key);
        assert_eq!(record.owner, terms.owner);
        assert_eq!(record.execution, Execution::FIRST);
        assert_eq!(record.promise, promise);
        assert_eq!(record.stage, Stage::Running);
        assert_eq!(record.lapsed_for, Duration::ZERO);

        applied(store.complete(&claim, &answer("done")).await);
        let record = show(&store, &key).await;
        assert_eq!(record.stage, Stage::Completed);
        assert_eq!(record.owner, terms.owner);

        let other = claimed(store.begin(&fresh_key(), &at_least_once()).await);
        applied(store.release(other.claimant()).await);
        assert_eq!(ok(store.show(other.key()).await), None);
    }
}

/// A lapsed record shows for how long it has been; a renewal ends that.
pub async fn a_lapsed_record_shows_for_how_long<B: Bench>(bench: &B) {
    let store = bench.store();
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let asked = tokio::time::Instant::now();
        let claim = lost_claim(bench, &key, terms(promise)).await;
        bench.advance(SHORT * 5).await;

        let record = show(&store, &key).await;
        assert!(record.lapsed_for >= SHORT * 4, "{record:?}");
        assert!(record.age >= record.lapsed_for, "{record:?}");
        assert!(record.age <= slack(asked.elapsed()), "{record:?}");

        applied(store.renew(&claim, LONG).await);
        let record = show(&store, &key).await;
        assert_eq!(record.lapsed_for, Duration::ZERO);
        assert_eq!(record.stage, Stage::Running);
    }
}

/// Two clocks measured it, one of which may be stepped a little while the clause runs.
fn slack(elapsed: Duration) -> Duration {
    elapsed + Duration::from_secs(60)
}

/// An abandoned record has been lapsed since it was abandoned, not since its lease would have been over.
pub async fn an_abandoned_record_has_lapsed_since_then<B: Bench>(bench: &B) {
    let store = bench.store();
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = claimed(store.begin(&key, &terms(promise)).await);
        applied(store.abandon(&claim, fresh_owner()).await);
        bench.advance(SHORT * 5).await;

        let record = show(&store, &key).await;

        assert!(record.lapsed_for >= SHORT * 4, "{record:?}");
        assert!(record.lapsed_for <= record.age, "{record:?}");
    }
}

/// The age counts from the first claim of a life, through its takeovers.
pub async fn the_age_counts_through_takeovers<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    lost_claim(bench, &key, at_least_once()).await;
    bench.advance(SHORT * 5).await;

    let terms = at_least_once();
    let _second = claimed(store.begin(&key, &terms).await);

    let record = show(&store, &key).await;
    assert_eq!(record.execution.get(), 2);
    assert_eq!(record.owner, terms.owner);
    assert!(record.age >= SHORT * 5, "{record:?}");
    assert_eq!(record.lapsed_for, Duration::ZERO);
}

/// A new life begins at age zero.
pub async fn a_new_life_starts_its_age_anew<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    let brief = Terms {
        lease: SHORT,
        retention: SHORT,
        ..at_least_once()
    };
    let _first = claimed(store.begin(&key, &brief).await);
    super::actors::expire(bench, &key).await;
    bench.advance(SHORT * 10).await;

    let asked = tokio::time::Instant::now();
    let _new = claimed(store.begin(&key, &at_least_once()).await);
    let record = show(&store, &key).await;

    let at_most = asked.elapsed() + SHORT * 5;
    assert!(record.age <= at_most, "{record:?} after {at_most:?}");
}
