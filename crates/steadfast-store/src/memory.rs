use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast_core::idempotency::{
    Begun, Claim, Claimant, KeyDigest, Life, OwnerId, Place, Reap, StoreTime, Terms, Transition,
};
use tokio::time::Instant;

use crate::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Sharing, Stage, Standing,
    Store, StoreError, StoreId, StoredResponse,
};

/// Bounds of a [`MemoryStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStoreConfig {
    max_bytes: usize,
}

impl MemoryStoreConfig {
    /// What a store holds at most by default: 256 MiB, room for a hundred thousand answers of two kilobytes.
    pub const DEFAULT_MAX_BYTES: usize = 256 << 20;

    /// Takes the bytes that responses and records may hold together. Past it, new operations are refused.
    #[must_use]
    pub const fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes }
    }
}

impl Default for MemoryStoreConfig {
    fn default() -> Self {
        Self {
            max_bytes: Self::DEFAULT_MAX_BYTES,
        }
    }
}

/// The reference of the store contract, in memory, for tests and for services that may forget.
///
/// Its promises hold for the life of the process: a restart forgets every record. Time is tokio's clock, so a paused test moves
/// leases and retention.
///
/// It is bounded and never evicts what a request may still need. When it is full it reaps what is past its retention, and if
/// that is not enough it refuses new operations ([`StoreErrorKind::Refused`](crate::StoreErrorKind::Refused)). Operations that
/// run are always completed; their answers may take it past the bound.
#[derive(Clone)]
pub struct MemoryStore {
    id: StoreId,
    config: MemoryStoreConfig,
    epoch: Instant,
    // A std mutex: no await happens under it, and each step is short.
    records: Arc<Mutex<Records>>,
}

#[derive(Default)]
struct Records {
    places: HashMap<KeyDigest, Place<StoredResponse>>,
    response_bytes: usize,
    /// A full store does not look for room again before then.
    full_until: StoreTime,
}

/// What one record costs besides its response, rounded up: key, facts and the map's own share.
const RECORD_OVERHEAD: usize = 512;

/// How long a full store refuses before it looks for room again: a look visits every record.
const FULL_FOR: Duration = Duration::from_secs(1);

/// How long an indeterminate record is kept when a full store makes room by itself.
const INDETERMINATE_RETENTION: Duration = Duration::from_secs(30 * 86_400);

impl MemoryStore {
    /// An empty store within these bounds.
    #[must_use]
    pub fn new(config: MemoryStoreConfig) -> Self {
        Self {
            id: StoreId::new(),
            config,
            epoch: Instant::now(),
            records: Arc::default(),
        }
    }

    fn now(&self) -> StoreTime {
        StoreTime::after_epoch(self.epoch.elapsed())
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // A panic under the lock is a defect of this file; each step leaves the map whole all the same.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryStoreConfig::default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Records {
    fn has_room(&self, max_bytes: usize) -> bool {
        let record_bytes = (self.places.len() + 1) * RECORD_OVERHEAD;
        self.response_bytes + record_bytes <= max_bytes
    }

    fn make_room(&mut self, max_bytes: usize, now: StoreTime) -> bool {
        if self.has_room(max_bytes) {
            return true;
        }
        if now < self.full_until {
            return false;
        }
        self.reap(u64::MAX, INDETERMINATE_RETENTION, now);
        let room = self.has_room(max_bytes);
        if !room {
            self.full_until = now.plus(FULL_FOR);
        }
        room
    }

    /// Makes one step on the place of `key`, keeps the count of bytes, and forgets the place if it is empty then.
    fn step<T>(
        &mut self,
        key: &KeyDigest,
        step: impl FnOnce(&mut Place<StoredResponse>) -> T,
    ) -> T {
        let place = self.places.entry(*key).or_default();
        let before = response_len(place);
        let answer = step(place);
        let after = response_len(place);
        if place.life().is_none() {
            self.places.remove(key);
        }
        self.response_bytes = self.response_bytes - before + after;
        answer
    }

    fn reap(&mut self, limit: u64, indeterminate_retention: Duration, now: StoreTime) -> Reaped {
        let due: Vec<_> = self
            .places
            .iter()
            .filter(|(_, place)| {
                place
                    .life()
                    .is_some_and(|life| life.facts().expires_at <= now)
            })
            .map(|(key, _)| *key)
            .collect();

        let mut reaped = Reaped::default();
        for key in due {
            if reaped.deleted + reaped.lapsed >= limit {
                break;
            }
            match self.step(&key, |place| place.reap(indeterminate_retention, now)) {
                Reap::Deleted => reaped.deleted += 1,
                Reap::Lapsed => reaped.lapsed += 1,
                Reap::Kept => {}
            }
        }
        reaped
    }
}

fn response_len(place: &Place<StoredResponse>) -> usize {
    place
        .life()
        .and_then(Life::response)
        .map_or(0, |response| response.bytes().len())
}

fn stage(place: &Place<StoredResponse>, life: &Life<StoredResponse>, now: StoreTime) -> Stage {
    match life {
        Life::Completed(_) => Stage::Completed,
        Life::Indeterminate(_) => Stage::Indeterminate,
        Life::Running(_) if place.is_indeterminate(now) => Stage::Indeterminate,
        Life::Running(_) => Stage::Running,
    }
}

fn summary(key: KeyDigest, place: &Place<StoredResponse>, now: StoreTime) -> Option<RecordSummary> {
    let life = place.life()?;
    let facts = life.facts();
    Some(
        RecordSummary::new(
            key,
            facts.owner,
            facts.execution,
            facts.promise,
            stage(place, life, now),
        )
        .with_times(now.since(facts.since), now.since(facts.lease_until)),
    )
}

fn standing(place: &Place<StoredResponse>, now: StoreTime) -> Standing {
    let Some(life) = place.life() else {
        return Standing::Absent;
    };
    let facts = life.facts();
    match (stage(place, life, now), life.response()) {
        (Stage::Indeterminate, _) => Standing::Indeterminate {
            fingerprint: facts.fingerprint,
        },
        (_, Some(response)) if now < facts.expires_at => Standing::Completed {
            fingerprint: facts.fingerprint,
            response: response.clone(),
        },
        (_, Some(_)) => Standing::Absent,
        (_, None) if now < facts.lease_until => Standing::Running {
            lease_left: facts.lease_until.since(now),
        },
        (_, None) if facts.expires_at <= now => Standing::Absent,
        (_, None) => Standing::Lapsed,
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, Sharing::Process, true)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        let now = self.now();
        let mut records = self.records();
        if !records.places.contains_key(key) && !records.make_room(self.config.max_bytes, now) {
            return Err(StoreError::refused("the memory store is full"));
        }
        let (begun, promise) = records.step(key, |place| {
            let begun = place.begin(terms, now);
            let promise = place
                .life()
                .map_or(terms.promise, |life| life.facts().promise);
            (begun, promise)
        });
        Ok(match begun {
            Begun::Claimed(execution) => {
                let claimant = Claimant {
                    key: *key,
                    owner: terms.owner,
                };
                Begin::Claimed(Claim::granted(claimant, execution, promise))
            }
            Begun::Completed(response) => Begin::Completed { response },
            Begun::Conflict(fingerprint) => Begin::Conflict { fingerprint },
            Begun::Indeterminate => Begin::Indeterminate,
            Begun::Running { lease_left } => Begin::Running { lease_left },
        })
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        let now = self.now();
        Ok(self
            .records()
            .step(claim.key(), |place| place.renew(claim.owner(), lease, now)))
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        Ok(self.records().step(claim.key(), |place| {
            place.complete(claim.owner(), response.clone())
        }))
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        let now = self.now();
        Ok(self.records().step(claim.key(), |place| {
            place.abandon(claim.owner(), successor, now)
        }))
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        Ok(self
            .records()
            .step(&claimant.key, |place| place.release(&claimant.owner)))
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        let now = self.now();
        let records = self.records();
        Ok(keys
            .iter()
            .map(|key| match records.places.get(key) {
                Some(place) => standing(place, now),
                None => Standing::Absent,
            })
            .collect())
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        let now = self.now();
        Ok(self
            .records()
            .places
            .get(key)
            .and_then(|place| summary(*key, place, now)))
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        let now = self.now();
        let mut incidents: Vec<_> = self
            .records()
            .places
            .iter()
            .filter(|(_, place)| place.is_indeterminate(now))
            .filter_map(|(key, place)| summary(*key, place, now))
            .collect();
        incidents.sort_by_key(|incident| std::cmp::Reverse(incident.lapsed_for));
        incidents.truncate(limit as usize);
        Ok(incidents)
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        let now = self.now();
        let (resolver, answer, retention) = match resolution {
            Resolution::Complete {
                resolver,
                response,
                retention,
            } => (*resolver, Some(response.clone()), *retention),
            Resolution::Release => (incident.owner, None, Duration::ZERO),
        };
        Ok(self.records().step(&incident.key, |place| {
            place.resolve(&incident.owner, resolver, answer, retention, now)
        }))
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        let now = self.now();
        Ok(self
            .records()
            .reap(limit.into(), indeterminate_retention, now))
    }
}
