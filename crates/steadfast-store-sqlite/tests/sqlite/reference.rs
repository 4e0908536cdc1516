//! The statements against core's reference of every transition: the same steps, the same answers.

use std::{collections::HashMap, time::Duration};

use sqlx::{Connection, SqliteConnection};
use steadfast_core::idempotency::{
    Begun, Claim, Claimant, Execution, Fingerprint, KeyDigest, Life, Place, Promise, Reap,
    StoreTime, Terms, Transition,
};
use steadfast_store::{
    Begin, Incident, Reaped, Resolution, Stage, Standing, Store, StoredResponse,
};
use steadfast_store_sqlite::SqliteStore;

use crate::support::{File, HOUR, key, owner};

/// Time that the test itself takes must stay far below the smallest step of store time.
const TOLERANCE: Duration = Duration::from_secs(600);

/// SplitMix64: seeded, so that a failure comes back.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(bound)).unwrap()
    }
}

struct Pair {
    chance: Chance,
    store: SqliteStore,
    /// Moves the store's time: the records go back instead of the clock going on.
    connection: SqliteConnection,
    model: HashMap<KeyDigest, Place<StoredResponse>>,
    now: StoreTime,
    step: u32,
}

fn close(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) < TOLERANCE
}

impl Pair {
    fn place(&mut self, key: &KeyDigest) -> &mut Place<StoredResponse> {
        self.model.entry(*key).or_default()
    }

    fn key(&mut self) -> KeyDigest {
        key(self.chance.below(3))
    }

    /// The present owner's claim half of the time: what only an owner may do must happen often enough.
    fn claim(&mut self) -> Claim {
        let key = self.key();
        let present = self.place(&key).life().map(|life| life.facts().owner);
        let owner = match present {
            Some(present) if self.chance.below(2) == 0 => present,
            _ => owner(self.chance.below(3)),
        };
        Claim::granted(
            Claimant { key, owner },
            Execution::FIRST,
            Promise::AtLeastOnce,
        )
    }

    fn hours(&mut self, most: u32) -> Duration {
        HOUR * self.chance.below(most + 1)
    }

    fn response(&self) -> StoredResponse {
        StoredResponse::new(u16::MAX, format!("answer of step {}", self.step))
    }

    async fn begin(&mut self) {
        let key = self.key();
        let terms = Terms {
            owner: owner(self.chance.below(3)),
            fingerprint: Fingerprint::new(1, [u8::from(self.chance.below(5) == 0); 32]),
            promise: match self.chance.below(2) {
                0 => Promise::AtLeastOnce,
                _ => Promise::AtMostOnce,
            },
            lease: self.hours(2),
            retention: self.hours(5),
        };
        let now = self.now;
        let expected = self.place(&key).begin(&terms, now);

        let got = self.store.begin(&key, &terms).await.unwrap();

        let agree = match (&expected, &got) {
            (Begun::Claimed(execution), Begin::Claimed(claim)) => {
                claim.execution() == *execution
                    && *claim.key() == key
                    && *claim.owner() == terms.owner
            }
            (Begun::Completed(left), Begin::Completed { response }) => left == response,
            (Begun::Conflict(left), Begin::Conflict { fingerprint }) => left == fingerprint,
            (Begun::Indeterminate, Begin::Indeterminate) => true,
            (Begun::Running { lease_left: left }, Begin::Running { lease_left }) => {
                close(*left, *lease_left)
            }
            _ => false,
        };
        assert!(agree, "step {}: {expected:?}, {got:?}", self.step);
    }

    async fn transition(&mut self, which: u32) {
        let claim = self.claim();
        let (key, asker) = (*claim.key(), *claim.owner());
        let now = self.now;
        let (expected, got) = match which {
            0 => {
                let lease = self.hours(2);
                (
                    self.place(&key).renew(&asker, lease, now),
                    self.store.renew(&claim, lease).await,
                )
            }
            1 => {
                let answer = self.response();
                (
                    self.place(&key).complete(&asker, answer.clone()),
                    self.store.complete(&claim, &answer).await,
                )
            }
            2 => {
                let successor = owner(100 + self.step);
                (
                    self.place(&key).abandon(&asker, successor, now),
                    self.store.abandon(&claim, successor).await,
                )
            }
            _ => (
                self.place(&key).release(&asker),
                self.store.release(claim.claimant()).await,
            ),
        };
        assert_eq!(
            got.unwrap(),
            expected,
            "step {}, transition {which}",
            self.step
        );
    }

    async fn resolve(&mut self) {
        let key = self.key();
        // The present owner most of the time: abandoned records belong to owners that no claim has.
        let present = self.place(&key).life().map(|life| life.facts().owner);
        let lost = match present {
            Some(present) if self.chance.below(4) > 0 => present,
            _ => owner(self.chance.below(3)),
        };
        let incident = Incident { key, owner: lost };
        let now = self.now;
        let answer = (self.chance.below(2) == 0).then(|| self.response());
        let resolver = owner(200_000 + self.step);
        let retention = self.hours(5);
        let expected = self
            .place(&key)
            .resolve(&lost, resolver, answer.clone(), retention, now);
        let resolution = match answer {
            Some(response) => Resolution::Complete {
                resolver,
                response,
                retention,
            },
            None => Resolution::Release,
        };

        let got = self.store.resolve(&incident, &resolution).await.unwrap();

        assert_eq!(got, expected, "step {}", self.step);
    }

    async fn reap(&mut self) {
        let retention = self.hours(3);
        let now = self.now;
        let mut expected = Reaped::default();
        for place in self.model.values_mut() {
            match place.reap(retention, now) {
                Reap::Deleted => expected.deleted += 1,
                Reap::Lapsed => expected.lapsed += 1,
                Reap::Kept => {}
            }
        }

        let got = self.store.reap(1_000, retention).await.unwrap();

        assert_eq!(got, expected, "step {}", self.step);
    }

    async fn advance(&mut self) {
        let elapsed = HOUR * (1 + self.chance.below(2));
        self.now = self.now.plus(elapsed);
        sqlx::query(
            "UPDATE steadfast_idempotency SET since = since - ?1, lease_until = lease_until - ?1, expires_at = expires_at - ?1",
        )
        .bind(i64::try_from(elapsed.as_micros()).unwrap())
        .execute(&mut self.connection)
        .await
        .unwrap();
    }

    fn stage(&self, key: &KeyDigest) -> Option<Stage> {
        let place = self.model.get(key)?;
        Some(match place.life()? {
            Life::Completed(_) => Stage::Completed,
            Life::Indeterminate(_) => Stage::Indeterminate,
            Life::Running(_) if place.is_indeterminate(self.now) => Stage::Indeterminate,
            Life::Running(_) => Stage::Running,
        })
    }

    /// Everything that can be read agrees.
    async fn compare(&self) {
        let keys = [key(2), key(0), key(1), key(0)];
        let standings = self.store.look_up(&keys).await.unwrap();
        assert_eq!(standings.len(), keys.len());

        let mut indeterminate = Vec::new();
        for (key, standing) in keys.iter().zip(&standings) {
            let step = self.step;
            let stage = self.stage(key);
            let shown = self.store.show(key).await.unwrap();
            assert_eq!(
                shown.as_ref().map(|record| record.stage),
                stage,
                "step {step}"
            );
            let Some(life) = self.model.get(key).and_then(Place::life) else {
                assert_eq!(*standing, Standing::Absent, "step {step}");
                continue;
            };

            let facts = life.facts();
            let shown = shown.unwrap();
            assert_eq!(shown.key, *key);
            assert_eq!(
                (shown.owner, shown.execution, shown.promise),
                (facts.owner, facts.execution, facts.promise),
                "step {step}"
            );
            assert!(close(shown.age, self.now.since(facts.since)), "step {step}");
            let lapsed_for = self.now.since(facts.lease_until);
            assert!(close(shown.lapsed_for, lapsed_for), "step {step}");

            let live = facts.expires_at > self.now;
            let agree = match (stage, standing) {
                (
                    Some(Stage::Completed),
                    Standing::Completed {
                        fingerprint,
                        response,
                    },
                ) => live && *fingerprint == facts.fingerprint && life.response() == Some(response),
                (Some(Stage::Completed), Standing::Absent) => !live,
                (Some(Stage::Indeterminate), Standing::Indeterminate { fingerprint }) => {
                    *fingerprint == facts.fingerprint
                }
                (Some(Stage::Running), Standing::Running { lease_left }) => {
                    facts.lease_until > self.now
                        && close(*lease_left, facts.lease_until.since(self.now))
                }
                (Some(Stage::Running), Standing::Lapsed) => live && facts.lease_until <= self.now,
                (Some(Stage::Running), Standing::Absent) => !live && facts.lease_until <= self.now,
                _ => false,
            };
            assert!(agree, "step {step}: {life:?}, {standing:?}");
            if stage == Some(Stage::Indeterminate) {
                indeterminate.push(*key);
            }
        }

        let listed = self.store.list_indeterminate(10).await.unwrap();
        assert!(listed.is_sorted_by(|left, right| left.lapsed_for >= right.lapsed_for));
        let mut listed: Vec<_> = listed.into_iter().map(|record| record.key).collect();
        listed.sort();
        indeterminate.sort();
        indeterminate.dedup();
        assert_eq!(listed, indeterminate, "step {}", self.step);
    }
}

async fn random_walk(seed: u64) {
    let file = File::new();
    let store = file.store().await;
    let mut pair = Pair {
        chance: Chance(seed),
        store,
        connection: file.connection().await,
        model: HashMap::new(),
        now: StoreTime::default(),
        step: 0,
    };
    for step in 0..400 {
        pair.step = step;
        match pair.chance.below(14) {
            0..=4 => pair.begin().await,
            5 => pair.transition(0).await,
            6 => pair.transition(1).await,
            7 => pair.transition(2).await,
            8 => pair.transition(3).await,
            9 => pair.resolve().await,
            10 => pair.reap().await,
            _ => pair.advance().await,
        }
        pair.compare().await;
    }
    pair.connection.close().await.unwrap();
}

#[tokio::test]
async fn every_step_of_a_random_walk_agrees_with_the_reference() {
    for seed in 1..=4 {
        random_walk(seed).await;
    }
}

#[tokio::test]
async fn a_completion_never_makes_a_record() {
    let file = File::new();
    let store = file.store().await;
    let claimant = Claimant {
        key: key(1),
        owner: owner(1),
    };
    let claim = Claim::granted(claimant, Execution::FIRST, Promise::AtLeastOnce);

    let answer = StoredResponse::new(1, "made up");
    assert_eq!(
        store.complete(&claim, &answer).await.unwrap(),
        Transition::Fenced
    );

    assert_eq!(store.show(&key(1)).await.unwrap(), None);
}
