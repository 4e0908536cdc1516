//! Looking up: many operations in one step, in the order asked, and nothing changes.

use steadfast_core::idempotency::{KeyDigest, Terms};
use steadfast_store::{Standing, Store};

use super::{
    Bench,
    actors::{
        LONG, REQUEST, SHORT, answer, applied, at_least_once, at_most_once, claimed, expire,
        fresh_key, fresh_owner, look_up, lost_claim, ok, outlive_short, show,
    },
};

fn kind(standing: &Standing) -> &'static str {
    match standing {
        Standing::Absent => "absent",
        Standing::Completed { .. } => "completed",
        Standing::Indeterminate { .. } => "indeterminate",
        Standing::Lapsed => "lapsed",
        Standing::Running { .. } => "running",
    }
}

/// One operation of each standing, by its name.
async fn one_of_each<B: Bench>(bench: &B) -> Vec<(KeyDigest, &'static str)> {
    let store = bench.store();
    let absent = fresh_key();
    let running = fresh_key();
    let _running = claimed(store.begin(&running, &at_least_once()).await);
    let completed = fresh_key();
    let claim = claimed(store.begin(&completed, &at_most_once()).await);
    applied(store.complete(&claim, &answer("done")).await);
    let lapsed = fresh_key();
    lost_claim(bench, &lapsed, at_least_once()).await;
    let lost = fresh_key();
    lost_claim(bench, &lost, at_most_once()).await;
    let abandoned = fresh_key();
    let claim = claimed(store.begin(&abandoned, &at_most_once()).await);
    applied(store.abandon(&claim, fresh_owner()).await);
    vec![
        (absent, "absent"),
        (running, "running"),
        (completed, "completed"),
        (lapsed, "lapsed"),
        (lost, "indeterminate"),
        (abandoned, "indeterminate"),
    ]
}

/// Every standing is told, in the order asked, whatever that order is.
pub async fn standings_come_in_the_order_asked<B: Bench>(bench: &B) {
    let mut asked = one_of_each(bench).await;
    for _ in 0..asked.len() {
        asked.rotate_left(1);
        let keys: Vec<_> = asked.iter().map(|(key, _)| *key).collect();

        let standings = ok(bench.store().look_up(&keys).await);

        let told: Vec<_> = standings.iter().map(kind).collect();
        let expected: Vec<_> = asked.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(told, expected);
    }
}

/// A key asked twice is answered twice.
pub async fn a_key_asked_twice_is_answered_twice<B: Bench>(bench: &B) {
    let asked = one_of_each(bench).await;
    let twice: Vec<_> = asked.iter().chain(asked.iter().rev()).copied().collect();
    let keys: Vec<_> = twice.iter().map(|(key, _)| *key).collect();

    let standings = ok(bench.store().look_up(&keys).await);

    let told: Vec<_> = standings.iter().map(kind).collect();
    let expected: Vec<_> = twice.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(told, expected);
}

/// No key asked, no standing answered.
pub async fn nothing_asked_is_nothing_answered<B: Bench>(bench: &B) {
    let _other = claimed(bench.store().begin(&fresh_key(), &at_least_once()).await);

    assert_eq!(ok(bench.store().look_up(&[]).await), Vec::new());
}

/// A thousand keys, each with its own answer among absent ones, are looked up in one step.
pub async fn a_thousand_keys_are_looked_up_at_once<B: Bench>(bench: &B) {
    let store = bench.store();
    let keys: Vec<_> = (0..1000).map(|_| fresh_key()).collect();
    for (place, key) in keys.iter().enumerate().step_by(50) {
        let claim = claimed(store.begin(key, &at_least_once()).await);
        let own = steadfast_store::StoredResponse::new(1, place.to_string());
        applied(store.complete(&claim, &own).await);
    }

    let standings = ok(store.look_up(&keys).await);

    assert_eq!(standings.len(), keys.len());
    for (place, standing) in standings.into_iter().enumerate() {
        if place % 50 == 0 {
            let response = steadfast_store::StoredResponse::new(1, place.to_string());
            assert_eq!(
                standing,
                Standing::Completed {
                    fingerprint: REQUEST,
                    response
                }
            );
        } else {
            assert_eq!(standing, Standing::Absent);
        }
    }
}

/// A running operation tells what is left of its lease, and no more.
pub async fn a_running_operation_tells_what_is_left_of_its_lease<B: Bench>(bench: &B) {
    let key = fresh_key();
    let _claim = claimed(bench.store().begin(&key, &at_least_once()).await);

    let Standing::Running { lease_left } = look_up(&bench.store(), &key).await else {
        panic!("the operation does not stand as running");
    };

    assert!(
        lease_left <= LONG && lease_left > LONG / 2,
        "{lease_left:?}"
    );
}

/// Past retention an answer and a lapsed claim stand as absent; a live lease and an indeterminate operation do not.
pub async fn past_retention_only_what_is_over_stands_as_absent<B: Bench>(bench: &B) {
    let store = bench.store();
    let brief = |terms: Terms| Terms {
        retention: SHORT,
        ..terms
    };
    let [answered, lapsed, live, lost] = [fresh_key(), fresh_key(), fresh_key(), fresh_key()];
    let claim = claimed(store.begin(&answered, &brief(at_least_once())).await);
    applied(store.complete(&claim, &answer("done")).await);
    let short = Terms {
        lease: SHORT,
        ..brief(at_least_once())
    };
    let _lapsed = claimed(store.begin(&lapsed, &short).await);
    let _live = claimed(store.begin(&live, &brief(at_most_once())).await);
    lost_claim(bench, &lost, brief(at_most_once())).await;
    expire(bench, &answered).await;
    expire(bench, &lapsed).await;
    outlive_short(bench).await;

    let standings = ok(store.look_up(&[answered, lapsed, live, lost]).await);

    let told: Vec<_> = standings.iter().map(kind).collect();
    assert_eq!(told, ["absent", "absent", "running", "indeterminate"]);
}

/// A look changes nothing: lost owners keep what they had, and nothing is made.
pub async fn a_look_changes_nothing<B: Bench>(bench: &B) {
    let store = bench.store();
    let [least, most, never] = [fresh_key(), fresh_key(), fresh_key()];
    let lapsed = lost_claim(bench, &least, at_least_once()).await;
    let lost = lost_claim(bench, &most, at_most_once()).await;
    let before = [show(&store, &least).await, show(&store, &most).await];

    for _ in 0..3 {
        let _ = ok(store.look_up(&[least, most, never]).await);
        let _ = ok(store.show(&never).await);
        let _ = ok(store.list_indeterminate(10).await);
    }

    for (before, key) in before.into_iter().zip([least, most]) {
        let now = show(&store, &key).await;
        assert_eq!(before.with_times(now.age, now.lapsed_for), now);
    }
    assert_eq!(ok(store.show(&never).await), None);
    applied(store.renew(&lapsed, LONG).await);
    applied(store.renew(&lost, LONG).await);
}
