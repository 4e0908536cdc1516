//! Stress: workers that crash, oversleep and come back, and a checker that reads what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{
    Begin, Standing, Store, StoreError, StoreErrorKind, StoredResponse, Transition,
};
use tokio::task::JoinSet;

use super::{
    Bench,
    actors::{LONG, SHORT, applied, completed, fresh_key, fresh_owner, look_up, ok, terms},
    chance::Chance,
    patient::{Patient, patient},
};

const WORKERS: u64 = 10;
const STEPS: u64 = 60;
const KEYS: usize = 6;

/// What the store acknowledged about one key.
#[derive(Debug, Default)]
struct Ledger {
    /// Claims by execution number.
    claims: BTreeMap<u32, u64>,
    /// The owner and answer of each completion that was applied.
    completions: Vec<(OwnerId, StoredResponse)>,
    /// Answers that an owner sent, applied or fenced.
    sent: BTreeSet<Vec<u8>>,
    /// Answers that were replayed.
    replays: Vec<StoredResponse>,
    releases: u64,
    /// Steps that may have been taken although no answer came: each may be a claim or a release that nobody counted.
    doubts: u64,
    fenced: u64,
    indeterminate: u64,
}

type Ledgers = Arc<Vec<(KeyDigest, Mutex<Ledger>)>>;

fn note<T>(ledger: &Mutex<Ledger>, entry: impl FnOnce(&mut Ledger) -> T) -> T {
    entry(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn work<S: Store>(store: Patient<S>, ledgers: Ledgers, terms: Terms, mut chance: Chance) {
    for _ in 0..STEPS {
        let place = usize::try_from(chance.below(KEYS as u64)).expect("a key's place is small");
        let (key, ledger) = &ledgers[place];
        let asker = Terms {
            owner: fresh_owner(),
            ..terms
        };
        let doubts = store.doubts();
        let begun = ok(store.begin(key, &asker).await);
        note(ledger, |ledger| ledger.doubts += store.doubts() - doubts);
        match begun {
            Begin::Claimed(claim) => {
                note(ledger, |ledger| {
                    *ledger.claims.entry(claim.execution().get()).or_default() += 1;
                });
                run(&store, ledger, &claim, &mut chance).await;
            }
            Begin::Completed { response } => {
                note(ledger, |ledger| ledger.replays.push(response));
                tokio::task::yield_now().await;
            }
            Begin::Conflict { fingerprint } => {
                panic!("all ask the same, and yet {fingerprint:?} conflicts")
            }
            Begin::Indeterminate => note(ledger, |ledger| ledger.indeterminate += 1),
            Begin::Running { lease_left } => {
                tokio::time::sleep(lease_left.min(Duration::from_millis(3))).await;
            }
        }
    }
}

/// What an owner does with its claim: finishes, dies, oversleeps and comes back, gives up.
async fn run<S: Store>(store: &S, ledger: &Mutex<Ledger>, claim: &Claim, chance: &mut Chance) {
    match chance.below(8) {
        // dies
        0 | 1 => {}
        // finishes
        2 => complete(store, ledger, claim).await,
        // renews, and finishes
        3 => {
            let _ = ok(store.renew(claim, SHORT).await);
            complete(store, ledger, claim).await;
        }
        // oversleeps its lease and comes back as if nothing had been
        4 | 5 => {
            tokio::time::sleep(SHORT).await;
            complete(store, ledger, claim).await;
        }
        // gives up
        6 => {
            let _either = unless_in_doubt(store.abandon(claim, fresh_owner()).await);
            complete(store, ledger, claim).await;
        }
        // releases, perhaps too late
        _ => {
            tokio::time::sleep(Duration::from_millis(chance.below(30))).await;
            match unless_in_doubt(store.release(claim.claimant()).await) {
                Some(Transition::Applied) => note(ledger, |ledger| ledger.releases += 1),
                Some(Transition::Fenced) => {}
                None => note(ledger, |ledger| ledger.doubts += 1),
            }
            complete(store, ledger, claim).await;
        }
    }
}

async fn complete<S: Store>(store: &S, ledger: &Mutex<Ledger>, claim: &Claim) {
    let response = StoredResponse::new(1, claim.owner().as_bytes().to_vec());
    note(ledger, |ledger| {
        ledger.sent.insert(response.bytes().to_vec())
    });
    match ok(store.complete(claim, &response).await) {
        Transition::Applied => note(ledger, |ledger| {
            ledger.completions.push((*claim.owner(), response));
        }),
        Transition::Fenced => note(ledger, |ledger| ledger.fenced += 1),
    }
}

/// `None` where the store could not tell whether the step was taken, and sending it again would not tell either.
fn unless_in_doubt<T>(result: Result<T, StoreError>) -> Option<T> {
    if let Err(error) = &result
        && error.kind() == StoreErrorKind::Unavailable
        && error.may_have_applied()
    {
        return None;
    }
    Some(ok(result))
}

async fn stress<B: Bench>(bench: &B, terms: Terms, seed: u64) -> Vec<(KeyDigest, Ledger)> {
    let ledgers: Ledgers = Arc::new((0..KEYS).map(|_| (fresh_key(), Mutex::default())).collect());
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let chance = Chance::seeded(seed << 32 | worker);
        workers.spawn(work(patient(bench), Arc::clone(&ledgers), terms, chance));
    }
    workers.join_all().await;

    Arc::into_inner(ledgers)
        .expect("every worker is through")
        .into_iter()
        .map(|(key, ledger)| {
            (
                key,
                ledger.into_inner().unwrap_or_else(PoisonError::into_inner),
            )
        })
        .collect()
}

fn brief(promise: Promise) -> Terms {
    Terms {
        lease: Duration::from_millis(8),
        ..terms(promise)
    }
}

/// Under at least once, whatever the workers do: each key gets one answer, zombies are fenced, nothing acknowledged is lost, and
/// every key can still be brought to its end.
pub async fn one_answer_for_each_key_under_at_least_once<B: Bench>(bench: &B) {
    for seed in 0..3 {
        for (key, mut ledger) in stress(bench, brief(Promise::AtLeastOnce), seed).await {
            assert_eq!(ledger.indeterminate, 0, "{ledger:?}");
            for claims in ledger.claims.values() {
                assert!(*claims <= 1 + ledger.releases + ledger.doubts, "{ledger:?}");
            }
            finish(bench, &key, &mut ledger).await;

            assert_eq!(ledger.completions.len(), 1, "{ledger:?}");
            let (_, answer) = &ledger.completions[0];
            assert!(ledger.replays.iter().all(|replay| replay == answer));
            assert_eq!(
                completed(
                    patient(bench)
                        .begin(&key, &terms(Promise::AtLeastOnce))
                        .await
                ),
                *answer
            );
        }
    }
}

/// Completes what no worker completed.
async fn finish<B: Bench>(bench: &B, key: &KeyDigest, ledger: &mut Ledger) {
    let store = patient(bench);
    for _ in 0..3000 {
        match ok(store.begin(key, &terms(Promise::AtLeastOnce)).await) {
            Begin::Claimed(claim) => {
                let response = StoredResponse::new(1, claim.owner().as_bytes().to_vec());
                applied(store.complete(&claim, &response).await);
                ledger.completions.push((*claim.owner(), response));
                return;
            }
            Begin::Completed { .. } => return,
            Begin::Running { .. } => bench.advance(Duration::from_millis(5)).await,
            other @ (Begin::Conflict { .. } | Begin::Indeterminate) => {
                panic!("expected an end, got {other:?}")
            }
        }
    }
    panic!("{key:?} does not come to an end");
}

/// Under at most once, whatever the workers do: an operation is started once, and again only after a release.
pub async fn one_start_for_each_key_under_at_most_once<B: Bench>(bench: &B) {
    for seed in 3..6 {
        for (key, ledger) in stress(bench, brief(Promise::AtMostOnce), seed).await {
            let starts: u64 = ledger.claims.values().sum();
            assert!(
                (ledger.releases..=ledger.releases + 1 + ledger.doubts).contains(&starts),
                "{ledger:?}"
            );
            assert!(ledger.claims.keys().all(|execution| *execution == 1));
            assert!(ledger.completions.len() <= 1, "{ledger:?}");
            if let Some((_, answer)) = ledger.completions.first() {
                assert!(ledger.replays.iter().all(|replay| replay == answer));
                assert!(matches!(
                    look_up(&patient(bench), &key).await,
                    Standing::Completed { response, .. } if response == *answer
                ));
            } else {
                assert_eq!(ledger.replays, Vec::new());
            }
        }
    }
}

/// Across many lives of a key, whatever the workers do: one answer for each life at most, and no answer that nobody sent.
pub async fn one_answer_for_each_life<B: Bench>(bench: &B) {
    for seed in 6..9 {
        for (_, ledger) in stress(bench, short_lived(), seed).await {
            one_answer_a_life(&ledger);
        }
    }
}

/// Reapers at work among the workers change nothing of that.
pub async fn one_answer_for_each_life_among_reapers<B: Bench>(bench: &B) {
    let mut reapers = JoinSet::new();
    for _ in 0..2 {
        let reaper = patient(bench);
        reapers.spawn(async move {
            loop {
                let _ = unless_in_doubt(reaper.reap(3, LONG).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    for seed in 9..12 {
        for (_, ledger) in stress(bench, short_lived(), seed).await {
            one_answer_a_life(&ledger);
        }
    }

    assert!(reapers.try_join_next().is_none(), "a reaper failed");
}

fn short_lived() -> Terms {
    Terms {
        retention: Duration::from_millis(30),
        ..brief(Promise::AtLeastOnce)
    }
}

/// Each life begins with one first execution, and ends with one answer, one release, or neither.
fn one_answer_a_life(ledger: &Ledger) {
    let lives = ledger.claims.get(&1).copied().unwrap_or_default();
    let answers = ledger.completions.len() as u64;
    assert!(
        answers + ledger.releases <= lives + ledger.doubts,
        "{ledger:?}"
    );
    let owners: BTreeSet<_> = ledger.completions.iter().map(|(owner, _)| owner).collect();
    assert_eq!(owners.len(), ledger.completions.len(), "{ledger:?}");
    for replay in &ledger.replays {
        assert!(ledger.sent.contains(&replay.bytes()[..]), "{ledger:?}");
    }
}
