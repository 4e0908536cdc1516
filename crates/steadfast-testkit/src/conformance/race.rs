//! Races: many callers over many handles meet on one key, and exactly one wins.

use std::{future::Future, sync::Arc};

use steadfast_core::idempotency::{KeyDigest, Promise, Terms};
use steadfast_store::{Begin, Resolution, Standing, Store, StoredResponse, Transition};
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, OTHER_REQUEST, REQUEST, SHORT, answer, applied, at_least_once,
        at_most_once, claimed, completed, expire, fresh_key, fresh_owner, incident, indeterminate,
        look_up, lost_claim, ok, terms,
    },
    patient::patient,
};

/// Keys raced for in each clause.
const ROUNDS: usize = 12;

/// Callers of each race.
const CALLERS: usize = 16;

/// Starts all calls at once and gathers their answers.
async fn at_once<F>(calls: Vec<F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let start = Arc::new(Barrier::new(calls.len()));
    let mut tasks = JoinSet::new();
    for call in calls {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            call.await
        });
    }
    tasks.join_all().await
}

async fn begin_at_once<B: Bench>(bench: &B, key: KeyDigest, askers: Vec<Terms>) -> Vec<Begin> {
    let calls = askers
        .into_iter()
        .map(|terms| {
            let store = patient(bench);
            async move { ok(store.begin(&key, &terms).await) }
        })
        .collect();
    at_once(calls).await
}

fn herd(promise: Promise) -> Vec<Terms> {
    (0..CALLERS).map(|_| terms(promise)).collect()
}

/// Exactly one of the answers is a claim of this execution; all the others say that it runs.
#[track_caller]
fn one_claim(answers: Vec<Begin>, execution: u32) -> steadfast_core::idempotency::Claim {
    assert_eq!(answers.len(), CALLERS, "every caller gets an answer");
    let mut claims = Vec::new();
    for answer in answers {
        match answer {
            Begin::Claimed(claim) => claims.push(claim),
            // An asker may have read the clock before the winner did.
            Begin::Running { lease_left } => assert!(lease_left <= LONG * 2, "{lease_left:?}"),
            other @ (Begin::Completed { .. } | Begin::Conflict { .. } | Begin::Indeterminate) => {
                panic!("expected a claim or a running owner, got {other:?}")
            }
        }
    }
    assert_eq!(claims.len(), 1, "{claims:?}");
    let claim = claims.remove(0);
    assert_eq!(claim.execution().get(), execution);
    claim
}

/// A herd on a new key: one claim.
pub async fn a_herd_on_a_new_key_makes_one_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        for _ in 0..ROUNDS {
            let key = fresh_key();

            let answers = begin_at_once(bench, key, herd(promise)).await;

            let claim = one_claim(answers, 1);
            applied(patient(bench).complete(&claim, &answer("done")).await);
        }
    }
}

/// A herd on a lapsed key under at least once: one takeover.
pub async fn a_herd_on_a_lapsed_key_makes_one_takeover<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        lost_claim(bench, &key, at_least_once()).await;

        let answers = begin_at_once(bench, key, herd(Promise::AtLeastOnce)).await;

        let claim = one_claim(answers, 2);
        applied(patient(bench).complete(&claim, &answer("done")).await);
    }
}

/// A herd on an abandoned key under at least once: one takeover.
pub async fn a_herd_on_an_abandoned_key_makes_one_takeover<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        let first = claimed(patient(bench).begin(&key, &at_least_once()).await);
        applied(patient(bench).abandon(&first, fresh_owner()).await);

        let answers = begin_at_once(bench, key, herd(Promise::AtLeastOnce)).await;

        let claim = one_claim(answers, 2);
        applied(patient(bench).complete(&claim, &answer("done")).await);
    }
}

/// A herd on an answer past its retention: one new life.
pub async fn a_herd_on_an_expired_key_makes_one_claim<B: Bench>(bench: &B) {
    for promise in BOTH_PROMISES {
        for _ in 0..ROUNDS {
            let key = fresh_key();
            let brief = Terms {
                retention: SHORT,
                ..terms(promise)
            };
            let old = claimed(patient(bench).begin(&key, &brief).await);
            applied(patient(bench).complete(&old, &answer("old")).await);
            expire(bench, &key).await;

            let answers = begin_at_once(bench, key, herd(promise)).await;

            let claim = one_claim(answers, 1);
            applied(patient(bench).complete(&claim, &answer("new")).await);
        }
    }
}

/// A herd on a lapsed key under at most once: no claim at all.
pub async fn a_herd_on_a_key_lapsed_under_at_most_once_makes_no_claim<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        lost_claim(bench, &key, at_most_once()).await;

        let answers = begin_at_once(bench, key, herd(Promise::AtMostOnce)).await;

        assert_eq!(answers.len(), CALLERS);
        for answer in answers {
            assert_eq!(answer, Begin::Indeterminate);
        }
    }
}

/// Two requests race for one new key: one request wins, and only the other one's callers hear of a conflict.
pub async fn a_herd_of_two_requests_makes_one_claim<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        let mut askers = herd(Promise::AtLeastOnce);
        for terms in askers.iter_mut().step_by(2) {
            terms.fingerprint = OTHER_REQUEST;
        }

        let answers = begin_at_once(bench, key, askers).await;

        let (mut claims, mut runs, mut conflicts) = (0, 0, Vec::new());
        for answer in answers {
            match answer {
                Begin::Claimed(_) => claims += 1,
                Begin::Running { .. } => runs += 1,
                Begin::Conflict { fingerprint } => conflicts.push(fingerprint),
                other @ (Begin::Completed { .. } | Begin::Indeterminate) => {
                    panic!("expected a claim, a running owner or a conflict, got {other:?}")
                }
            }
        }
        assert_eq!(
            (claims, runs, conflicts.len()),
            (1, CALLERS / 2 - 1, CALLERS / 2)
        );
        assert!(
            conflicts
                .iter()
                .all(|fingerprint| *fingerprint == conflicts[0]),
            "{conflicts:?}"
        );
        assert!([REQUEST, OTHER_REQUEST].contains(&conflicts[0]));
    }
}

/// One owner that asks many times at once holds one claim.
pub async fn an_owner_that_asks_many_times_at_once_holds_one_claim<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();

        let answers = begin_at_once(bench, key, vec![at_least_once(); CALLERS]).await;

        let mut claims = answers.into_iter().map(|answer| match answer {
            Begin::Claimed(claim) => claim,
            other @ (Begin::Completed { .. }
            | Begin::Conflict { .. }
            | Begin::Indeterminate
            | Begin::Running { .. }) => panic!("expected a claim, got {other:?}"),
        });
        let first = claims.next().expect("there are callers");
        assert_eq!(first.execution().get(), 1);
        assert!(claims.all(|claim| claim == first));
        applied(patient(bench).complete(&first, &answer("done")).await);
    }
}

/// A herd on an answered key: everyone gets the answer.
pub async fn a_herd_on_an_answered_key_gets_the_answer<B: Bench>(bench: &B) {
    let key = fresh_key();
    let claim = claimed(patient(bench).begin(&key, &at_least_once()).await);
    applied(patient(bench).complete(&claim, &answer("done")).await);

    for answer_to_one in begin_at_once(bench, key, herd(Promise::AtLeastOnce)).await {
        assert_eq!(
            answer_to_one,
            Begin::Completed {
                response: answer("done")
            }
        );
    }
}

/// A late completion and a takeover meet: either the answer is stored and the taker gets it, or the taker runs and it is fenced.
pub async fn a_late_completion_and_a_takeover_that_meet_agree<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS * 2 {
        let key = fresh_key();
        let first = lost_claim(bench, &key, at_least_once()).await;
        let (finisher, taker) = (patient(bench), patient(bench));

        let start = Arc::new(Barrier::new(2));
        let met = Arc::clone(&start);
        let completion = tokio::spawn(async move {
            met.wait().await;
            ok(finisher.complete(&first, &answer("first")).await)
        });
        start.wait().await;
        let begun = ok(taker.begin(&key, &at_least_once()).await);
        let completion = completion.await.expect("the completion does not panic");

        match (completion, begun) {
            (Transition::Applied, Begin::Completed { response }) => {
                assert_eq!(response, answer("first"));
            }
            (Transition::Fenced, Begin::Claimed(second)) => {
                assert_eq!(second.execution().get(), 2);
                applied(taker.complete(&second, &answer("second")).await);
            }
            (completion, begun) => panic!("the completion was {completion:?}, the taker {begun:?}"),
        }
    }
}

/// A late renewal and a takeover meet: one of them has the operation.
pub async fn a_late_renewal_and_a_takeover_that_meet_agree<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS * 2 {
        let key = fresh_key();
        let first = Arc::new(lost_claim(bench, &key, at_least_once()).await);
        let (renewer, taker) = (patient(bench), patient(bench));

        let start = Arc::new(Barrier::new(2));
        let (met, late) = (Arc::clone(&start), Arc::clone(&first));
        let renewal = tokio::spawn(async move {
            met.wait().await;
            ok(renewer.renew(&late, LONG).await)
        });
        start.wait().await;
        let begun = ok(taker.begin(&key, &at_least_once()).await);
        let renewal = renewal.await.expect("the renewal does not panic");

        match (renewal, begun) {
            (Transition::Applied, Begin::Running { .. }) => {
                applied(taker.complete(&first, &answer("first")).await);
            }
            (Transition::Fenced, Begin::Claimed(second)) => {
                applied(taker.complete(&second, &answer("second")).await);
            }
            (renewal, begun) => panic!("the renewal was {renewal:?}, the taker {begun:?}"),
        }
    }
}

/// Two completions of one owner meet: one of the answers stands, and stays.
pub async fn two_completions_that_meet_leave_one_answer<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        let claim = Arc::new(claimed(patient(bench).begin(&key, &at_least_once()).await));
        let calls = (0..4)
            .map(|number: u8| {
                let (store, claim) = (patient(bench), Arc::clone(&claim));
                async move {
                    applied(
                        store
                            .complete(&claim, &StoredResponse::new(1, vec![number]))
                            .await,
                    );
                    completed(store.begin(claim.key(), &at_least_once()).await)
                }
            })
            .collect();

        let answers = at_once(calls).await;

        assert!(answers.iter().all(|answer| *answer == answers[0]));
    }
}

/// Decisions and the late owner meet on an indeterminate operation: one of them decides.
pub async fn one_of_many_decisions_stands<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let store = patient(bench);
        let key = fresh_key();
        let lost = lost_claim(bench, &key, at_most_once()).await;
        indeterminate(store.begin(&key, &at_most_once()).await);
        let incident = incident(&store, &key).await;
        let calls = (0..4)
            .map(|number: u8| {
                let store = patient(bench);
                let response = StoredResponse::new(2, vec![number]);
                async move {
                    let resolution = Resolution::Complete {
                        resolver: fresh_owner(),
                        response: response.clone(),
                        retention: LONG,
                    };
                    (response, ok(store.resolve(&incident, &resolution).await))
                }
            })
            .collect();
        let late = patient(bench);
        let completion =
            tokio::spawn(async move { ok(late.complete(&lost, &answer("late")).await) });

        let mut winners: Vec<_> = at_once(calls)
            .await
            .into_iter()
            .filter(|(_, transition)| *transition == Transition::Applied)
            .map(|(response, _)| response)
            .collect();
        if completion.await.expect("the completion does not panic") == Transition::Applied {
            winners.push(answer("late"));
        }

        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(
            completed(store.begin(&key, &at_most_once()).await),
            winners[0]
        );
    }
}

/// Releases of one claimant meet with claims of others: the key is released once, and claimed once after that.
pub async fn releases_and_claims_that_meet_leave_one_owner<B: Bench>(bench: &B) {
    for _ in 0..ROUNDS {
        let key = fresh_key();
        let first = claimed(patient(bench).begin(&key, &at_least_once()).await);
        let claimant = *first.claimant();
        let releases = (0..4).map(|_| patient(bench)).collect::<Vec<_>>();
        let releasing = tokio::spawn(at_once(
            releases
                .into_iter()
                .map(|store| async move { ok(store.release(&claimant).await) })
                .collect(),
        ));

        let answers = begin_at_once(bench, key, herd(Promise::AtLeastOnce)).await;

        let released = releasing.await.expect("the releases do not panic");
        let released = released
            .into_iter()
            .filter(|transition| *transition == Transition::Applied)
            .count();
        assert_eq!(released, 1);
        let claims: Vec<_> = answers
            .iter()
            .filter_map(|answer| match answer {
                Begin::Claimed(claim) => Some(claim.execution().get()),
                Begin::Completed { .. }
                | Begin::Conflict { .. }
                | Begin::Indeterminate
                | Begin::Running { .. } => None,
            })
            .collect();
        assert!(claims.is_empty() || claims == [1], "{claims:?}");
        let standing = look_up(&patient(bench), &key).await;
        assert_eq!(
            matches!(standing, Standing::Running { .. }),
            claims.len() == 1,
            "{standing:?}"
        );
    }
}
