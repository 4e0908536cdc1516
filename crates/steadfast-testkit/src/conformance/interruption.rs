//! Interruption: a call dropped at any await leaves the store consistent, and can be asked again.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use steadfast_store::{Begin, Standing, Store};

use super::{
    Bench,
    actors::{
        LONG, answer, applied, at_least_once, at_most_once, claimed, completed, fresh_key,
        fresh_owner, look_up, ok,
    },
};

/// More awaits than one call of a store has.
const AWAITS: u32 = 64;

/// Polls the call so often at most, then drops it.
async fn interrupted<F: Future>(call: F, polls: u32) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A claim dropped at any await is asked again by its owner, and nobody else got in its way.
pub async fn an_interrupted_claim_can_be_asked_again<B: Bench>(bench: &B) {
    for polls in 0..AWAITS {
        let (key, terms, store) = (fresh_key(), at_least_once(), bench.store());
        let through = interrupted(store.begin(&key, &terms), polls).await;

        let again = claimed(store.begin(&key, &terms).await);

        assert_eq!(again.execution().get(), 1);
        if through.is_some() {
            return;
        }
    }
}

/// A completion dropped at any await is sent again, and gives its answer.
pub async fn an_interrupted_completion_can_be_sent_again<B: Bench>(bench: &B) {
    for polls in 0..AWAITS {
        let (key, store) = (fresh_key(), bench.store());
        let claim = claimed(store.begin(&key, &at_most_once()).await);
        let through = interrupted(store.complete(&claim, &answer("done")), polls).await;

        applied(store.complete(&claim, &answer("done")).await);

        assert_eq!(
            completed(store.begin(&key, &at_most_once()).await),
            answer("done")
        );
        if through.is_some() {
            return;
        }
    }
}

/// A renewal dropped at any await is sent again. The dropped one may still be taken after it.
pub async fn an_interrupted_renewal_can_be_sent_again<B: Bench>(bench: &B) {
    for polls in 0..AWAITS {
        let (key, store) = (fresh_key(), bench.store());
        let claim = claimed(store.begin(&key, &at_least_once()).await);
        let through = interrupted(store.renew(&claim, LONG * 2), polls).await;

        applied(store.renew(&claim, LONG * 2).await);

        let Standing::Running { lease_left } = look_up(&store, &key).await else {
            panic!("a renewed operation runs");
        };
        assert!(lease_left > LONG, "{lease_left:?}");
        if through.is_some() {
            return;
        }
    }
}

/// A release dropped at any await was made or not: sent again, nothing is left.
pub async fn an_interrupted_release_can_be_sent_again<B: Bench>(bench: &B) {
    for polls in 0..AWAITS {
        let (key, store) = (fresh_key(), bench.store());
        let claim = claimed(store.begin(&key, &at_least_once()).await);
        let through = interrupted(store.release(claim.claimant()), polls).await;

        let _either = ok(store.release(claim.claimant()).await);

        let next = claimed(store.begin(&key, &at_least_once()).await);
        assert_eq!(next.execution().get(), 1);
        if through.is_some() {
            return;
        }
    }
}

/// An abandonment dropped at any await was made or not: the record is the owner's or the successor's, never nobody's.
pub async fn an_interrupted_abandonment_was_made_or_not<B: Bench>(bench: &B) {
    for polls in 0..AWAITS {
        let (key, store) = (fresh_key(), bench.store());
        let claim = claimed(store.begin(&key, &at_most_once()).await);
        let through = interrupted(store.abandon(&claim, fresh_owner()), polls).await;

        let _either = ok(store.abandon(&claim, fresh_owner()).await);

        let begun = ok(store.begin(&key, &at_most_once()).await);
        assert_eq!(begun, Begin::Indeterminate);
        if through.is_some() {
            return;
        }
    }
}

/// Calls dropped by the hundred leave a store that still answers: no connection is spoilt for the next caller.
pub async fn a_store_survives_a_hundred_interrupted_calls<B: Bench>(bench: &B) {
    let store = bench.store();
    let key = fresh_key();
    let claim = claimed(store.begin(&key, &at_least_once()).await);
    for round in 0..100 {
        let polls = round % 7;
        let _ = interrupted(store.begin(&fresh_key(), &at_least_once()), polls).await;
        let _ = interrupted(store.renew(&claim, LONG), polls).await;
        let _ = interrupted(store.look_up(&[key]), polls).await;
        let _ = interrupted(store.show(&key), polls).await;
        let _ = interrupted(store.list_indeterminate(10), polls).await;
        let _ = interrupted(store.reap(10, LONG), polls).await;
    }

    applied(store.complete(&claim, &answer("done")).await);
    let _other = claimed(bench.store().begin(&fresh_key(), &at_least_once()).await);
    assert_eq!(
        completed(bench.store().begin(&key, &at_least_once()).await),
        answer("done")
    );
}
