//! The operations that this process asks for, executes or waits for: a duplicate of one joins it, and asks the store nothing.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use steadfast_core::idempotency::{Fingerprint, KeyDigest};
use steadfast_http::problem::Problem;
use steadfast_store::StoredResponse;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::record::Record;

/// What this process does for each key now.
// A std mutex: it is held for a look into the map, never over an await, and nobody is woken under it.
#[derive(Default)]
pub(crate) struct Joins(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    made: u64,
    by_key: HashMap<KeyDigest, Entry>,
}

struct Entry {
    /// No other entry has it.
    number: u64,
    fingerprint: Fingerprint,
    stage: Stage,
    /// Past it nobody joins, and nobody waits for a claim: whoever should go on with the operation does not, and the store knows
    /// who may.
    until: Instant,
    /// Made for the first who joins.
    told: Option<watch::Sender<Stage>>,
}

#[derive(Clone)]
enum Stage {
    // -> Elsewhere, Ended, Executing
    Claiming,
    // -> Claiming, Ended
    Elsewhere,
    // -> Ended
    Executing,
    Ended(Ending),
}

/// What those who joined get.
#[derive(Clone)]
pub(crate) enum Ending {
    /// Nothing: they ask for the operation themselves.
    Again,
    /// The answer of the execution, and whether the store has acknowledged it.
    Answered { record: Arc<Record>, stored: bool },
    /// Nothing yet: another owner executes the operation.
    Elsewhere,
    /// The same refusal.
    Refused(Arc<Problem>),
    /// The answer that the operation had before.
    Stored(StoredResponse),
}

/// How a request takes part in its operation.
pub(crate) enum Part {
    /// It asks for the operation, also for those who join it.
    Lead(Lead),
    /// Another request asks for it, or executes it.
    Joined(Joined),
}

impl Joins {
    /// Joins the request of this process that asks for the same operation, or becomes that request, whose claim may take until
    /// `until`. One with this key and another fingerprint is for the store to judge.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: &KeyDigest,
        fingerprint: &Fingerprint,
        until: Instant,
    ) -> Part {
        let mut entries = self.lock();
        let number = entries.made;
        match entries.by_key.get_mut(key) {
            None => {
                let entry = Entry {
                    number,
                    fingerprint: *fingerprint,
                    stage: Stage::Claiming,
                    until,
                    told: None,
                };
                entries.made += 1;
                entries.by_key.insert(*key, entry);
                Part::Lead(Lead(Tie(Some((Arc::clone(self), *key, number)))))
            }
            Some(entry) if entry.fingerprint == *fingerprint && Instant::now() < entry.until => {
                let stage = &entry.stage;
                let told = entry
                    .told
                    .get_or_insert_with(|| watch::Sender::new(stage.clone()));
                Part::Joined(Joined {
                    told: told.subscribe(),
                    until: entry.until,
                })
            }
            Some(_) => Part::Lead(Lead::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads those who join an operation; the default leads nobody. Dropped, it sends them to the store.
#[derive(Default)]
#[must_use]
pub(crate) struct Lead(Tie);

impl Lead {
    /// Tells those who joined that the operation is asked for again, which may take until `until`.
    pub(crate) fn claims(&self, until: Instant) {
        self.0.advance(Stage::Claiming, until);
    }

    /// Tells those who joined that the operation is executed here; nobody else may take it over before `until`.
    pub(crate) fn executes(&self, until: Instant) {
        self.0.advance(Stage::Executing, until);
    }

    /// Tells those who joined that another owner executes the operation; who leads waits for it until `until` at most.
    pub(crate) fn waits(&self, until: Instant) {
        self.0.advance(Stage::Elsewhere, until);
    }

    /// What the renewals of the lease know of those who joined.
    pub(crate) fn tie(&self) -> Tie {
        self.0.clone()
    }

    /// Whether somebody waits for the ending.
    pub(crate) fn is_joined(&self) -> bool {
        let joined = self.0.with_entry(|entry| {
            let told = entry.told.as_ref();
            told.is_some_and(|told| told.receiver_count() > 0)
        });
        joined.unwrap_or(false)
    }

    /// Gives those who joined their ending. Who comes later asks the store.
    pub(crate) fn end(self, ending: Ending) {
        self.0.end(ending);
    }

    pub(crate) fn refuse(self, problem: &Problem) {
        if self.is_joined() {
            self.end(Ending::Refused(Arc::new(problem.clone())));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.end(Ending::Again);
    }
}

/// The one entry that a lead made, for as long as it is there.
#[derive(Clone, Default)]
pub(crate) struct Tie(Option<(Arc<Joins>, KeyDigest, u64)>);

impl Tie {
    /// The claim stands: nobody else may take the operation over before `until`.
    pub(crate) fn stands(&self, until: Instant) {
        self.with_entry(|entry| entry.until = until);
    }

    /// The claim is lost: those who joined ask the store.
    pub(crate) fn cut(&self) {
        self.end(Ending::Again);
    }

    fn advance(&self, next: Stage, until: Instant) {
        let told = self.with_entry(|entry| {
            entry.stage = next.clone();
            entry.until = until;
            entry.told.clone()
        });
        if let Some(told) = told.flatten() {
            told.send_replace(next);
        }
    }

    fn end(&self, ending: Ending) {
        let Some((joins, key, number)) = &self.0 else {
            return;
        };
        let mut entries = joins.lock();
        let entry = match entries.by_key.entry(*key) {
            hash_map::Entry::Occupied(entry) if entry.get().number == *number => entry.remove(),
            hash_map::Entry::Occupied(_) | hash_map::Entry::Vacant(_) => return,
        };
        drop(entries);
        if let Some(told) = entry.told {
            told.send_replace(Stage::Ended(ending));
        }
    }

    fn with_entry<T>(&self, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let (joins, key, number) = self.0.as_ref()?;
        let mut entries = joins.lock();
        let entry = entries.by_key.get_mut(key)?;
        (entry.number == *number).then(|| look(entry))
    }
}

/// A request that joined another's.
pub(crate) struct Joined {
    told: watch::Receiver<Stage>,
    /// How long the claim may take.
    until: Instant,
}

/// What the claim found.
pub(crate) enum Claimed {
    Ended(Ending),
    /// The operation is executed in this process.
    Here,
}

impl Claimed {
    fn of(stage: &Stage) -> Option<Self> {
        match stage {
            Stage::Claiming => None,
            Stage::Elsewhere => Some(Self::Ended(Ending::Elsewhere)),
            Stage::Ended(ending) => Some(Self::Ended(ending.clone())),
            Stage::Executing => Some(Self::Here),
        }
    }
}

impl Joined {
    /// The verdict of the claim, if there is one.
    pub(crate) fn verdict(&self) -> Option<Claimed> {
        Claimed::of(&self.told.borrow())
    }

    /// Waits for the verdict of the claim.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn claimed(&mut self) -> Claimed {
        let verdict = self
            .told
            .wait_for(|stage| !matches!(stage, Stage::Claiming));
        match timeout_at(self.until, verdict).await {
            Ok(Ok(stage)) => Claimed::of(&stage),
            // A lead tells before it goes; and a claim that takes so long is not waited for.
            Ok(Err(_)) | Err(_) => None,
        }
        .unwrap_or(Claimed::Ended(Ending::Again))
    }

    /// Waits for the end of the execution.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&mut self) -> Ending {
        let ended = self.told.wait_for(|stage| matches!(stage, Stage::Ended(_)));
        match ended.await.as_deref() {
            Ok(Stage::Ended(ending)) => ending.clone(),
            Ok(Stage::Claiming | Stage::Elsewhere | Stage::Executing) | Err(_) => Ending::Again,
        }
    }
}
