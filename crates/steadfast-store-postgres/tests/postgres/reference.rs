use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use steadfast_core::idempotency::{Claim, Claimant, Execution, Fingerprint, Promise, Terms};
use steadfast_store::{
    Begin, Incident, MemoryStore, RecordSummary, Resolution, Standing, Store, StoredResponse,
};

use crate::support::{HOUR, key, owner, store};

/// Chooses among few values, so that steps meet each other often.
struct Choice(u64);

impl Choice {
    fn below(&mut self, count: u8) -> u8 {
        // The constants of Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((self.0 >> 33) % u64::from(count)).unwrap()
    }

    /// Over at once, or not while the test runs: no step depends on how long another took.
    fn duration(&mut self) -> Duration {
        [Duration::ZERO, HOUR][usize::from(self.below(2))]
    }

    fn response(&mut self) -> StoredResponse {
        StoredResponse::new(u16::MAX, vec![self.below(250); 3])
    }

    fn terms(&mut self) -> Terms {
        Terms {
            owner: owner(self.below(4)),
            fingerprint: Fingerprint::new(1, [self.below(2); 32]),
            promise: [Promise::AtLeastOnce, Promise::AtMostOnce][usize::from(self.below(2))],
            lease: self.duration(),
            retention: self.duration(),
        }
    }
}

/// Makes one step and tells what came of it, without the times.
async fn step(store: &impl Store, mut choice: Choice) -> String {
    let key = key(choice.below(3));
    let claim = Claim::granted(
        Claimant {
            key,
            owner: owner(choice.below(4)),
        },
        Execution::FIRST,
        Promise::AtLeastOnce,
    );
    match choice.below(12) {
        0..=3 => begun(store.begin(&key, &choice.terms()).await.unwrap()),
        4 => {
            let lease = choice.duration();
            format!("renew {:?}", store.renew(&claim, lease).await)
        }
        5 => {
            let response = choice.response();
            format!("complete {:?}", store.complete(&claim, &response).await)
        }
        6 => {
            let successor = owner(choice.below(4));
            format!("abandon {:?}", store.abandon(&claim, successor).await)
        }
        7 => format!("release {:?}", store.release(claim.claimant()).await),
        8 => {
            let incident = Incident {
                key,
                owner: owner(choice.below(4)),
            };
            let resolution = if choice.below(2) == 0 {
                Resolution::Release
            } else {
                Resolution::Complete {
                    resolver: owner(choice.below(4)),
                    response: choice.response(),
                    retention: choice.duration(),
                }
            };
            format!("resolve {:?}", store.resolve(&incident, &resolution).await)
        }
        9 => {
            let retention = choice.duration();
            format!("reap {:?}", store.reap(100, retention).await)
        }
        _ => "look".into(),
    }
}

fn begun(begin: Begin) -> String {
    match begin {
        Begin::Running { lease_left } => format!("running, over: {}", lease_left.is_zero()),
        Begin::Completed { response } => format!("completed {:?}", response.bytes()),
        begin @ (Begin::Claimed(_) | Begin::Conflict { .. } | Begin::Indeterminate) => {
            format!("{begin:?}")
        }
    }
}

fn seen(record: &RecordSummary) -> String {
    let RecordSummary {
        key,
        owner,
        execution,
        promise,
        stage,
        ..
    } = record;
    format!("{key:?} {owner:?} {execution:?} {promise:?} {stage:?}")
}

async fn sight(store: &impl Store) -> String {
    let keys = [key(2), key(0), key(1), key(0)];
    let mut sight = String::new();
    for standing in store.look_up(&keys).await.unwrap() {
        sight += &match standing {
            Standing::Running { .. } => "running".into(),
            Standing::Completed {
                fingerprint,
                response,
            } => format!(
                "{fingerprint:?} {} {:?}",
                response.format(),
                response.bytes()
            ),
            standing @ (Standing::Absent | Standing::Indeterminate { .. } | Standing::Lapsed) => {
                format!("{standing:?}")
            }
        };
        sight += "\n";
    }
    for key in keys {
        let shown = store.show(&key).await.unwrap();
        sight += &format!("{:?}\n", shown.as_ref().map(seen));
    }
    let mut incidents: Vec<_> = store.list_indeterminate(9).await.unwrap();
    incidents.sort_by_key(|incident| incident.key);
    sight += &format!("{:?}", incidents.iter().map(seen).collect::<Vec<_>>());
    sight
}

#[tokio::test]
async fn every_step_answers_and_leaves_what_the_reference_does() {
    let (_database, store) = store().await;
    let reference = MemoryStore::default();
    let seed = RandomState::new().hash_one(());
    let mut seeds = Choice(seed);

    for round in 0..500 {
        seeds.below(2);
        let done = step(&store, Choice(seeds.0)).await;
        let expected = step(&reference, Choice(seeds.0)).await;
        assert_eq!(done, expected, "seed {seed}, step {round}");
        let (sight, expected) = (sight(&store).await, sight(&reference).await);
        assert_eq!(sight, expected, "after {done}; seed {seed}, step {round}");
    }
}
