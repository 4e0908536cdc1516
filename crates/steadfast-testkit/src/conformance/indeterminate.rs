//! Indeterminate operations: a lost owner under at most once.

use steadfast_core::idempotency::{Promise, Terms};
use steadfast_store::{Stage, Standing, Store};

use super::{
    Bench,
    actors::{
        REQUEST, SHORT, answer, applied, at_least_once, at_most_once, claimed, fenced_in_all,
        fresh_key, indeterminate, look_up, lost_claim, ok, outlive_short, show, terms,
    },
};

/// An operation promised at most once is never claimed again when its owner is lost.
pub async fn a_lapsed_operation_is_not_claimed_again<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_most_once()).await;

    for _ in 0..3 {
        indeterminate(bench.store().begin(&key, &at_most_once()).await);
        indeterminate(bench.store().begin(&key, &at_least_once()).await);
    }
}

/// Not even past retention, however much later.
pub async fn an_indeterminate_operation_is_not_claimed_past_retention<B: Bench>(bench: &B) {
    let brief = Terms {
        retention: SHORT,
        ..at_most_once()
    };
    let asked = fresh_key();
    lost_claim(bench, &asked, brief).await;
    indeterminate(bench.store().begin(&asked, &at_most_once()).await);
    let unasked = fresh_key();
    lost_claim(bench, &unasked, at_most_once_again(brief)).await;

    outlive_short(bench).await;

    for key in [asked, unasked] {
        indeterminate(bench.store().begin(&key, &at_most_once()).await);
        indeterminate(bench.store().begin(&key, &at_least_once()).await);
        assert_eq!(
            look_up(&bench.store(), &key).await,
            Standing::Indeterminate {
                fingerprint: REQUEST
            }
        );
    }
}

fn at_most_once_again(terms: Terms) -> Terms {
    Terms {
        owner: at_most_once().owner,
        ..terms
    }
}

/// A lost owner's operation is told as indeterminate, whether or not anybody has asked since.
pub async fn a_lapse_shows_before_anybody_asks<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;

    assert_eq!(
        look_up(&bench.store(), &key).await,
        Standing::Indeterminate {
            fingerprint: REQUEST
        }
    );
    let record = show(&bench.store(), &key).await;
    assert_eq!(record.stage, Stage::Indeterminate);
    assert_eq!(record.owner, *claim.owner());
    let listed = ok(bench.store().list_indeterminate(10).await);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key);
    assert_eq!(listed[0].stage, Stage::Indeterminate);
}

/// Only lost owners under at most once are listed.
pub async fn only_indeterminate_operations_are_listed<B: Bench>(bench: &B) {
    let store = bench.store();
    for promise in [Promise::AtLeastOnce, Promise::AtMostOnce] {
        let _live = claimed(store.begin(&fresh_key(), &terms(promise)).await);
        let done = claimed(store.begin(&fresh_key(), &terms(promise)).await);
        applied(store.complete(&done, &answer("done")).await);
    }
    lost_claim(bench, &fresh_key(), at_least_once()).await;
    let abandoned = claimed(store.begin(&fresh_key(), &at_least_once()).await);
    applied(store.abandon(&abandoned, at_least_once().owner).await);

    assert_eq!(ok(store.list_indeterminate(10).await), Vec::new());
}

/// Those that lapsed, those that were asked for and those that were abandoned are listed, longest lapsed first.
pub async fn the_longest_lapsed_is_listed_first<B: Bench>(bench: &B) {
    let store = bench.store();
    let [lapsed, asked, abandoned] = [fresh_key(), fresh_key(), fresh_key()];
    lost_claim(bench, &lapsed, at_most_once()).await;
    bench.advance(SHORT).await;
    lost_claim(bench, &asked, at_most_once()).await;
    indeterminate(store.begin(&asked, &at_most_once()).await);
    bench.advance(SHORT).await;
    let claim = claimed(store.begin(&abandoned, &at_most_once()).await);
    applied(store.abandon(&claim, at_most_once().owner).await);
    bench.advance(SHORT).await;

    let listed = ok(store.list_indeterminate(10).await);

    let keys: Vec<_> = listed.iter().map(|record| record.key).collect();
    assert_eq!(keys, [lapsed, asked, abandoned]);
    for pair in listed.windows(2) {
        assert!(pair[0].lapsed_for > pair[1].lapsed_for, "{pair:?}");
    }
    for record in listed {
        assert_eq!(
            record,
            with_times_of(show(&store, &record.key).await, &record)
        );
    }
}

/// Times pass between two looks; everything else must be equal.
fn with_times_of(
    shown: steadfast_store::RecordSummary,
    listed: &steadfast_store::RecordSummary,
) -> steadfast_store::RecordSummary {
    shown.with_times(listed.age, listed.lapsed_for)
}

/// A list is no longer than its limit, and keeps the longest lapsed.
pub async fn a_list_keeps_to_its_limit<B: Bench>(bench: &B) {
    let store = bench.store();
    let mut keys = Vec::new();
    for _ in 0..5 {
        let key = fresh_key();
        let claim = claimed(store.begin(&key, &at_most_once()).await);
        applied(store.abandon(&claim, at_most_once().owner).await);
        bench.advance(SHORT / 10).await;
        keys.push(key);
    }

    for limit in [0, 1, 3, 5, u32::MAX] {
        let listed = ok(store.list_indeterminate(limit).await);

        let listed: Vec<_> = listed.iter().map(|record| record.key).collect();
        let expected = keys.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        assert_eq!(listed, keys[..expected], "limit {limit}");
    }
}

/// An operation that its owner revives is no longer listed.
pub async fn a_revived_operation_is_not_listed<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);

    applied(bench.store().renew(&claim, super::actors::LONG).await);

    assert_eq!(ok(bench.store().list_indeterminate(10).await), Vec::new());
    assert_eq!(show(&bench.store(), &key).await.stage, Stage::Running);
}

/// A stranger cannot end an indeterminate operation.
pub async fn a_stranger_does_not_end_an_indeterminate_operation<B: Bench>(bench: &B) {
    let key = fresh_key();
    lost_claim(bench, &key, at_most_once()).await;
    indeterminate(bench.store().begin(&key, &at_most_once()).await);
    let stranger = steadfast_core::idempotency::Claim::granted(
        steadfast_core::idempotency::Claimant {
            key,
            owner: at_most_once().owner,
        },
        steadfast_core::idempotency::Execution::FIRST,
        Promise::AtMostOnce,
    );

    fenced_in_all(&bench.store(), &stranger).await;

    indeterminate(bench.store().begin(&key, &at_most_once()).await);
}
