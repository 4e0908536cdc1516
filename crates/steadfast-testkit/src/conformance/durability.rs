//! Durability: what was acknowledged is there when the records are opened anew.

use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        LONG, REQUEST, answer, applied, at_least_once, at_most_once, claimed, completed,
        fenced_in_all, fresh_key, fresh_owner, indeterminate, look_up, lost_claim, running,
    },
};

/// The records opened anew, if the store claims to be durable.
async fn reopened<B: Bench>(bench: &B) -> Option<B::Store> {
    let reopened = bench.reopen().await;
    assert!(
        reopened.is_some() || !bench.store().capabilities().durable,
        "the store says that it is durable, so its bench must be able to reopen it"
    );
    reopened
}

/// Claims, answers, takeovers and lost owners are the same when the records are opened anew.
pub async fn an_acknowledged_transition_is_there_when_reopened<B: Bench>(bench: &B) {
    let store = bench.store();
    let [live, done, taken, lost, released] = [(); 5].map(|()| fresh_key());
    let live_claim = claimed(store.begin(&live, &at_most_once()).await);
    let claim = claimed(store.begin(&done, &at_least_once()).await);
    applied(store.complete(&claim, &answer("done")).await);
    let first = lost_claim(bench, &taken, at_least_once()).await;
    let second = claimed(store.begin(&taken, &at_least_once()).await);
    let claim = claimed(store.begin(&lost, &at_most_once()).await);
    applied(store.abandon(&claim, fresh_owner()).await);
    let claim = claimed(store.begin(&released, &at_most_once()).await);
    applied(store.release(claim.claimant()).await);
    drop(store);

    let Some(store) = reopened(bench).await else {
        return;
    };

    running(store.begin(&live, &at_most_once()).await);
    assert_eq!(
        completed(store.begin(&done, &at_least_once()).await),
        answer("done")
    );
    fenced_in_all(&store, &first).await;
    applied(store.renew(&second, LONG).await);
    indeterminate(store.begin(&lost, &at_most_once()).await);
    assert_eq!(
        look_up(&store, &lost).await,
        Standing::Indeterminate {
            fingerprint: REQUEST
        }
    );
    assert_eq!(look_up(&store, &released).await, Standing::Absent);
    applied(store.complete(&live_claim, &answer("from before")).await);
}
