//! Reaping: what no request needs any more goes, and nothing else.

use std::{sync::Arc, time::Duration};

use steadfast_core::idempotency::{Claim, Promise, Terms};
use steadfast_store::{Reaped, Stage, Standing, Store};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, SHORT, answer, applied, at_least_once, at_most_once, claimed,
        completed, expire, fenced_in_all, fresh_key, fresh_owner, indeterminate, lapse, look_up,
        lost_claim, ok, outlive_short, running, show, terms,
    },
};

const NOTHING: Reaped = Reaped {
    deleted: 0,
    lapsed: 0,
};

fn brief(promise: Promise) -> Terms {
    Terms {
        lease: SHORT,
        retention: SHORT,
        ..terms(promise)
    }
}

async fn reaped<S: Store>(store: &S, limit: u32, indeterminate_retention: Duration) -> Reaped {
    ok(store.reap(limit, indeterminate_retention).await)
}

/// There is nothing to reap in an empty store.
pub async fn an_empty_store_has_nothing_to_reap<B: Bench>(bench: &B) {
    assert_eq!(reaped(&bench.store(), 100, Duration::ZERO).await, NOTHING);
}

/// An answer goes when its retention is over.
pub async fn an_answer_past_retention_is_reaped<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        let store = bench.store();
        let key = fresh_key();
        let terms = Terms {
            retention: SHORT,
            ..terms(promise)
        };
        let claim = claimed(store.begin(&key, &terms).await);
        applied(store.complete(&claim, &answer("done")).await);
        expire(bench, &key).await;

        let reaped = reaped(&store, 100, LONG).await;

        assert_eq!((reaped.deleted, reaped.lapsed), (1, 0));
        assert_eq!(ok(store.show(&key).await), None);
        fenced_in_all(&store, &claim).await;
        assert_eq!(ok(store.show(&key).await), None);
    }
}

/// An answer within its retention stays, its lease over or not.
pub async fn an_answer_within_retention_is_not_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let mut keys = Vec::new();
    for promise in BOTH_PROMISES {
        let key = fresh_key();
        let claim = lost_claim(bench, &key, terms(promise)).await;
        applied(store.complete(&claim, &answer("done")).await);
        keys.push(key);
    }

    assert_eq!(reaped(&store, 100, Duration::ZERO).await, NOTHING);

    for key in keys {
        assert_eq!(
            completed(store.begin(&key, &at_least_once()).await),
            answer("done")
        );
    }
}

/// A live lease is never reaped, not even past retention.
pub async fn a_live_lease_is_not_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let mut claims = Vec::new();
    for promise in BOTH_PROMISES {
        let terms = Terms {
            retention: SHORT,
            ..terms(promise)
        };
        claims.push(claimed(store.begin(&fresh_key(), &terms).await));
    }
    outlive_short(bench).await;

    assert_eq!(reaped(&store, 100, Duration::ZERO).await, NOTHING);

    for claim in claims {
        running(store.begin(claim.key(), &at_least_once()).await);
        applied(store.renew(&claim, LONG).await);
    }
}

/// A lapsed claim within its retention stays: it can be taken over or revived.
pub async fn a_lapsed_claim_within_retention_is_not_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let mut claims = Vec::new();
    for promise in BOTH_PROMISES {
        claims.push(lost_claim(bench, &fresh_key(), terms(promise)).await);
    }

    assert_eq!(reaped(&store, 100, Duration::ZERO).await, NOTHING);

    for claim in claims {
        applied(store.renew(&claim, LONG).await);
    }
}

/// A lapsed claim past its retention goes under at least once.
pub async fn a_lapsed_claim_past_retention_is_reaped_under_at_least_once<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    let claim = claimed(store.begin(&key, &brief(Promise::AtLeastOnce)).await);
    expire(bench, &key).await;

    let reaped = reaped(&store, 100, LONG).await;

    assert_eq!((reaped.deleted, reaped.lapsed), (1, 0));
    assert_eq!(ok(store.show(&key).await), None);
    fenced_in_all(&store, &claim).await;
}

/// A lapsed claim past its retention turns indeterminate under at most once, and its owner may still complete it.
pub async fn a_lapsed_claim_past_retention_turns_indeterminate_under_at_most_once<B: Bench>(
    bench: &B,
) {
    let store = bench.store();
    let claim = lost_claim(bench, &fresh_key(), brief(Promise::AtMostOnce)).await;
    outlive_short(bench).await;

    let first = reaped(&store, 100, LONG).await;
    let second = reaped(&store, 100, LONG).await;

    assert_eq!((first.deleted, first.lapsed), (0, 1));
    assert_eq!(second, NOTHING);
    assert_eq!(show(&store, claim.key()).await.stage, Stage::Indeterminate);
    indeterminate(store.begin(claim.key(), &at_most_once()).await);
    applied(store.complete(&claim, &answer("late")).await);
}

/// An indeterminate operation stays for its own retention, counted from the end of its lease.
pub async fn an_indeterminate_operation_is_kept_for_its_own_retention<B: Bench>(bench: &B) {
    let store = bench.store();
    let claim = lost_claim(bench, &fresh_key(), brief(Promise::AtMostOnce)).await;
    indeterminate(store.begin(claim.key(), &at_most_once()).await);
    outlive_short(bench).await;

    for kept in [LONG, Duration::MAX] {
        assert_eq!(reaped(&store, 100, kept).await, NOTHING);
        indeterminate(store.begin(claim.key(), &at_most_once()).await);
    }

    let gone = reaped(&store, 100, SHORT).await;
    assert_eq!((gone.deleted, gone.lapsed), (1, 0));
    assert_eq!(look_up(&store, claim.key()).await, Standing::Absent);
    fenced_in_all(&store, &claim).await;
}

/// An indeterminate operation is never reaped before its record's own retention.
pub async fn an_indeterminate_operation_within_retention_is_not_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let asked = lost_claim(bench, &fresh_key(), at_most_once()).await;
    indeterminate(store.begin(asked.key(), &at_most_once()).await);
    let abandoned = claimed(store.begin(&fresh_key(), &at_most_once()).await);
    applied(store.abandon(&abandoned, fresh_owner()).await);
    bench.advance(SHORT).await;

    assert_eq!(reaped(&store, 100, Duration::ZERO).await, NOTHING);

    indeterminate(store.begin(asked.key(), &at_most_once()).await);
    indeterminate(store.begin(abandoned.key(), &at_most_once()).await);
}

/// An abandoned operation past its retention is treated like any other that lost its owner.
pub async fn an_abandoned_operation_past_retention_is_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let terms = Terms {
        retention: SHORT,
        ..at_least_once()
    };
    let least = claimed(store.begin(&fresh_key(), &terms).await);
    applied(store.abandon(&least, fresh_owner()).await);
    let terms = Terms {
        retention: SHORT,
        ..at_most_once()
    };
    let most = claimed(store.begin(&fresh_key(), &terms).await);
    applied(store.abandon(&most, fresh_owner()).await);
    expire(bench, least.key()).await;
    outlive_short(bench).await;

    let kept = reaped(&store, 100, LONG).await;
    assert_eq!((kept.deleted, kept.lapsed), (1, 0));
    indeterminate(store.begin(most.key(), &at_most_once()).await);

    let gone = reaped(&store, 100, Duration::ZERO).await;
    assert_eq!((gone.deleted, gone.lapsed), (1, 0));
    assert_eq!(look_up(&store, most.key()).await, Standing::Absent);
}

/// A record that its owner revived, or that another took over, is not reaped although it was due.
pub async fn a_revived_record_is_not_reaped<B: Bench>(bench: &B) {
    let store = bench.store();
    let least = claimed(
        store
            .begin(&fresh_key(), &brief(Promise::AtLeastOnce))
            .await,
    );
    expire(bench, least.key()).await;
    applied(store.renew(&least, LONG).await);
    let most = lost_claim(bench, &fresh_key(), brief(Promise::AtMostOnce)).await;
    outlive_short(bench).await;
    indeterminate(store.begin(most.key(), &at_most_once()).await);
    applied(store.renew(&most, LONG).await);
    let reclaimed = claimed(
        store
            .begin(&fresh_key(), &brief(Promise::AtLeastOnce))
            .await,
    );
    expire(bench, reclaimed.key()).await;
    let next = claimed(store.begin(reclaimed.key(), &at_least_once()).await);

    assert_eq!(reaped(&store, 100, Duration::ZERO).await, NOTHING);

    for claim in [least, most, next] {
        applied(store.complete(&claim, &answer("done")).await);
    }
}

/// One call takes its limit of steps at most, and none lost: the rest is there for the next call.
pub async fn a_reap_keeps_to_its_limit<B: Bench>(bench: &B) {
    let store = bench.store();
    let keys = lapse_many(bench, 10).await;

    assert_eq!(reaped(&store, 0, LONG).await, NOTHING);
    let mut total = 0;
    for _ in 0..keys {
        let step = reaped(&store, 3, LONG).await;
        assert!(step.deleted + step.lapsed <= 3, "{step:?}");
        total += step.deleted + step.lapsed;
    }

    assert_eq!(total, keys);
    assert_eq!(reaped(&store, u32::MAX, LONG).await, NOTHING);
}

/// Leaves `count` records that are due, both promises in turn.
async fn lapse_many<B: Bench>(bench: &B, count: u64) -> u64 {
    let store = bench.store();
    let mut last = None;
    for (_, promise) in (0..count).zip(BOTH_PROMISES.into_iter().cycle()) {
        let key = fresh_key();
        let _claim = claimed(store.begin(&key, &brief(promise)).await);
        last = Some(key);
    }
    if let Some(key) = last {
        lapse(bench, &key).await;
    }
    outlive_short(bench).await;
    count
}

/// Many reapers share the work: each record is reaped once.
pub async fn many_reapers_reap_each_record_once<B: Bench>(bench: &B) {
    let due = lapse_many(bench, 120).await;
    let mut reapers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = bench.store();
        reapers.spawn(async move {
            let mut total = NOTHING;
            for _ in 0..20 {
                let step = reaped(&store, 7, LONG).await;
                total.deleted += step.deleted;
                total.lapsed += step.lapsed;
            }
            total
        });
    }

    let mut total = NOTHING;
    for one in reapers.join_all().await {
        total.deleted += one.deleted;
        total.lapsed += one.lapsed;
    }
    let rest = reaped(&bench.store(), u32::MAX, LONG).await;

    assert_eq!(total.deleted + rest.deleted, due / 2);
    assert_eq!(total.lapsed + rest.lapsed, due / 2);
    assert_eq!(
        ok(bench.store().list_indeterminate(u32::MAX).await).len() as u64,
        due / 2
    );
}

/// A renewal and a reaper that meet agree: either the record is revived and stays, or it is gone and the owner is fenced.
pub async fn a_renewal_and_a_reaper_that_meet_agree<B: Bench>(bench: &B) {
    let mut claims: Vec<Arc<Claim>> = Vec::new();
    for _ in 0..24 {
        let terms = brief(Promise::AtLeastOnce);
        claims.push(Arc::new(claimed(
            bench.store().begin(&fresh_key(), &terms).await,
        )));
    }
    for claim in &claims {
        expire(bench, claim.key()).await;
    }

    let mut reapers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let store = bench.store();
        reapers.spawn(async move {
            for _ in 0..12 {
                let _ = reaped(&store, 2, LONG).await;
            }
        });
    }
    let mut renewals = tokio::task::JoinSet::new();
    for claim in &claims {
        let (store, claim) = (bench.store(), Arc::clone(claim));
        renewals.spawn(async move {
            let transition = ok(store.renew(&claim, LONG).await);
            (claim, transition)
        });
    }
    reapers.join_all().await;

    for (claim, transition) in renewals.join_all().await {
        let standing = look_up(&bench.store(), claim.key()).await;
        match transition {
            steadfast_store::Transition::Applied => {
                assert!(matches!(standing, Standing::Running { .. }), "{standing:?}");
            }
            steadfast_store::Transition::Fenced => assert_eq!(standing, Standing::Absent),
        }
    }
}

/// A claim that meets a reaper on an expired key is always kept.
pub async fn a_claim_that_meets_a_reaper_is_kept<B: Bench>(bench: &B) {
    let mut keys = Vec::new();
    for _ in 0..24 {
        let key = fresh_key();
        let _old = claimed(
            bench
                .store()
                .begin(&key, &brief(Promise::AtLeastOnce))
                .await,
        );
        keys.push(key);
    }
    for key in &keys {
        expire(bench, key).await;
    }

    let mut reapers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let store = bench.store();
        reapers.spawn(async move {
            for _ in 0..12 {
                let _ = reaped(&store, 2, LONG).await;
            }
        });
    }
    let mut claims = tokio::task::JoinSet::new();
    for key in keys {
        let store = bench.store();
        claims.spawn(async move { claimed(store.begin(&key, &at_least_once()).await) });
    }
    reapers.join_all().await;

    for claim in claims.join_all().await {
        applied(bench.store().complete(&claim, &answer("kept")).await);
    }
}
