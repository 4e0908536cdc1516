//! The life of one record, as a type per stage and a place that guards every transition.
//!
//! This is the reference of what a store does in one atomic statement. `MemoryStore` runs it as it stands; the SQL stores are
//! held against it by the conformance suite.
//!
//! ```text
//!             begin                        complete
//!   absent ──────────▶ Running ──────────────────────────▶ Completed
//!     ▲                 │   ▲ ▲                                ▲ │
//!     │ release         │   │ └── renew ◀── Indeterminate ─────┘ │
//!     └─────────────────┤   │                 ▲    complete,     │
//!                       │   └─ takeover       │    resolve       │
//!                       │      (at least once)│                  │
//!                       └─────────────────────┘                  │
//!             lease over or abandoned (at most once)             │
//!     ▲                                                          │
//!     └───────────────────────── retention over ─────────────────┘
//! ```

use std::{num::NonZeroU32, time::Duration};

use super::{Fingerprint, KeyDigest, OwnerId, Promise};

/// A moment on the store's clock, as the time since a beginning that the store chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(Duration);

impl StoreTime {
    /// The moment this long after the store's beginning.
    #[must_use]
    pub const fn after_epoch(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The moment `duration` later; saturates.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How much later `self` is than `earlier`; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Which run of a record: 1 for the first, one more with each takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Execution(NonZeroU32);

impl Execution {
    /// The first run.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The run with this number; `None` for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, 1 or more.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Whether a transition took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a fenced owner has lost its operation"]
pub enum Transition {
    /// It did.
    Applied,
    /// It did not, and nothing changed: the record is gone, or has another owner or stage.
    Fenced,
}

/// Who asks to execute which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// The operation.
    pub key: KeyDigest,
    /// The execution that asks, drawn at random for it alone.
    pub owner: OwnerId,
}

/// The exclusive right to execute an operation.
///
/// Only a store's `begin` grants one, and only a claim can be renewed, completed or abandoned: what was never claimed cannot be
/// completed. It is not `Clone`; an execution has one.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    claimant: Claimant,
    execution: Execution,
    promise: Promise,
}

impl Claim {
    /// States that the store has recorded `claimant` as the owner of a running record, which holds this promise.
    ///
    /// For the authors of stores; nothing else knows it to be true.
    #[must_use]
    pub const fn granted(claimant: Claimant, execution: Execution, promise: Promise) -> Self {
        Self {
            claimant,
            execution,
            promise,
        }
    }

    /// Who holds the claim, on what.
    #[must_use]
    pub const fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// The operation.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.claimant.key
    }

    /// The owner that every transition is compared with.
    #[must_use]
    pub const fn owner(&self) -> &OwnerId {
        &self.claimant.owner
    }

    /// Which run of the record this is.
    #[must_use]
    pub const fn execution(&self) -> Execution {
        self.execution
    }

    /// What is promised of the operation: what the first claim of its life froze, which need not be what this one asked for.
    #[must_use]
    pub const fn promise(&self) -> Promise {
        self.promise
    }
}

/// What a claim asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The execution that asks.
    pub owner: OwnerId,
    /// What its request asks for.
    pub fingerprint: Fingerprint,
    /// What becomes of the operation if its owner is lost. A takeover keeps the promise of the record.
    pub promise: Promise,
    /// How long the claim lives without renewal.
    pub lease: Duration,
    /// How long the record answers replays, counted from now.
    pub retention: Duration,
}

/// What a record knows at every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the request asked for; constant within a life.
    pub fingerprint: Fingerprint,
    /// Frozen by the first claim of the life.
    pub promise: Promise,
    /// The present owner.
    pub owner: OwnerId,
    /// The present run.
    pub execution: Execution,
    /// When the first claim of the life was made.
    pub since: StoreTime,
    /// The claim lives until then without renewal.
    pub lease_until: StoreTime,
    /// The record answers replays until then.
    pub expires_at: StoreTime,
}

/// An owner executes the operation, or is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running(Facts);

/// The operation has its answer. Nothing changes it until its retention is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed<R> {
    facts: Facts,
    response: R,
}

/// The owner is lost and nobody may run the operation again until it is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indeterminate(Facts);

impl Running {
    fn claimed(terms: &Terms, execution: Execution, now: StoreTime) -> Self {
        Self(Facts {
            fingerprint: terms.fingerprint,
            promise: terms.promise,
            owner: terms.owner,
            execution,
            since: now,
            lease_until: now.plus(terms.lease),
            expires_at: now.plus(terms.retention),
        })
    }

    fn lease_is_over(&self, now: StoreTime) -> bool {
        self.0.lease_until <= now
    }

    fn renewed(self, lease: Duration, now: StoreTime) -> Self {
        Self(Facts {
            lease_until: now.plus(lease),
            ..self.0
        })
    }

    fn taken_over(self, terms: &Terms, now: StoreTime) -> Self {
        Self(Facts {
            promise: self.0.promise,
            since: self.0.since,
            ..Self::claimed(terms, self.0.execution.next(), now).0
        })
    }

    fn lapsed(self) -> Indeterminate {
        Indeterminate(self.0)
    }

    fn completed<R>(self, response: R) -> Completed<R> {
        Completed {
            facts: self.0,
            response,
        }
    }
}

impl Indeterminate {
    fn revived(self) -> Running {
        Running(self.0)
    }
}

impl<R> Completed<R> {
    /// The answer.
    #[must_use]
    pub const fn response(&self) -> &R {
        &self.response
    }

    fn is_over(&self, now: StoreTime) -> bool {
        self.facts.expires_at <= now
    }
}

/// A record, by its stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life<R> {
    /// See [`Running`].
    Running(Running),
    /// See [`Completed`].
    Completed(Completed<R>),
    /// See [`Indeterminate`].
    Indeterminate(Indeterminate),
}

impl<R> Life<R> {
    /// What the record knows whatever its stage.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        match self {
            Self::Running(Running(facts)) | Self::Indeterminate(Indeterminate(facts)) => facts,
            Self::Completed(completed) => &completed.facts,
        }
    }

    /// The answer, if there is one.
    #[must_use]
    pub const fn response(&self) -> Option<&R> {
        match self {
            Self::Completed(completed) => Some(completed.response()),
            Self::Running(_) | Self::Indeterminate(_) => None,
        }
    }
}

/// What [`Place::begin`] found, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun<R> {
    /// The asker owns the running record.
    Claimed(Execution),
    /// The operation has its answer.
    Completed(R),
    /// The record belongs to another request; it wins over every other verdict.
    Conflict(Fingerprint),
    /// The owner is lost and the operation waits for its resolution.
    Indeterminate,
    /// Another owner executes it.
    Running {
        /// What is left of its lease.
        lease_left: Duration,
    },
}

/// What [`Place::reap`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// The record is gone.
    Deleted,
    /// The record of a lost owner became indeterminate.
    Lapsed,
    /// The record is still needed.
    Kept,
}

/// The place of one key in a store: empty, or holding a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<R>(Option<Life<R>>);

impl<R> Default for Place<R> {
    fn default() -> Self {
        Self(None)
    }
}

impl<R> Place<R> {
    /// The record, if there is one; it may be past its retention.
    #[must_use]
    pub const fn life(&self) -> Option<&Life<R>> {
        self.0.as_ref()
    }

    /// Claims the operation, or says why not.
    ///
    /// Idempotent for its owner: asked again by the owner of the running record, it answers as before, and gives a lapsed lease
    /// its length again.
    pub fn begin(&mut self, terms: &Terms, now: StoreTime) -> Begun<R>
    where
        R: Clone,
    {
        let life = match self.0.take() {
            None => Life::Running(Running::claimed(terms, Execution::FIRST, now)),
            Some(life) => Self::ask(life, terms, now),
        };
        let begun = Self::answer(&life, terms, now);
        self.0 = Some(life);
        begun
    }

    fn ask(life: Life<R>, terms: &Terms, now: StoreTime) -> Life<R> {
        match life {
            // expired -> Running (a new life); else unchanged
            Life::Completed(completed) => {
                if completed.is_over(now) {
                    Life::Running(Running::claimed(terms, Execution::FIRST, now))
                } else {
                    Life::Completed(completed)
                }
            }
            // never left by itself, not even past its retention
            Life::Indeterminate(indeterminate) => Life::Indeterminate(indeterminate),
            // lease over -> Running (own claim, new life or takeover) | Indeterminate; else unchanged
            Life::Running(running) => {
                let same = running.0.fingerprint == terms.fingerprint;
                if !running.lease_is_over(now) {
                    return Life::Running(running);
                }
                match running.0.promise {
                    _ if same && running.0.owner == terms.owner => {
                        Life::Running(running.renewed(terms.lease, now))
                    }
                    Promise::AtLeastOnce if running.0.expires_at <= now => {
                        Life::Running(Running::claimed(terms, Execution::FIRST, now))
                    }
                    Promise::AtLeastOnce if same => Life::Running(running.taken_over(terms, now)),
                    Promise::AtMostOnce if same => Life::Indeterminate(running.lapsed()),
                    Promise::AtLeastOnce | Promise::AtMostOnce => Life::Running(running),
                }
            }
        }
    }

    fn answer(life: &Life<R>, terms: &Terms, now: StoreTime) -> Begun<R>
    where
        R: Clone,
    {
        let facts = life.facts();
        if facts.fingerprint != terms.fingerprint {
            return Begun::Conflict(facts.fingerprint);
        }
        match life {
            Life::Completed(completed) => Begun::Completed(completed.response.clone()),
            Life::Indeterminate(_) => Begun::Indeterminate,
            Life::Running(_) if facts.owner == terms.owner => Begun::Claimed(facts.execution),
            Life::Running(_) => Begun::Running {
                lease_left: facts.lease_until.since(now),
            },
        }
    }

    /// Gives the owner's lease its length again; revives the owner's own lapsed record, also from indeterminate.
    pub fn renew(&mut self, owner: &OwnerId, lease: Duration, now: StoreTime) -> Transition {
        let Some(running) = self.take_unfinished_of(owner) else {
            return Transition::Fenced;
        };
        self.0 = Some(Life::Running(running.renewed(lease, now)));
        Transition::Applied
    }

    /// Gives the operation its answer. Sent again by the same owner it is applied again and changes nothing.
    pub fn complete(&mut self, owner: &OwnerId, response: R) -> Transition {
        if let Some(Life::Completed(completed)) = &self.0 {
            return if completed.facts.owner == *owner {
                Transition::Applied
            } else {
                Transition::Fenced
            };
        }
        let Some(running) = self.take_unfinished_of(owner) else {
            return Transition::Fenced;
        };
        self.0 = Some(Life::Completed(running.completed(response)));
        Transition::Applied
    }

    /// Gives the claim up without knowing what happened. The record goes to `successor`, an owner nobody is, so that a renewal
    /// under way is fenced.
    pub fn abandon(&mut self, owner: &OwnerId, successor: OwnerId, now: StoreTime) -> Transition {
        let Some(Running(facts)) = self.take_unfinished_of(owner) else {
            return Transition::Fenced;
        };
        let abandoned = Running(Facts {
            owner: successor,
            lease_until: now,
            ..facts
        });
        self.0 = Some(match facts.promise {
            Promise::AtLeastOnce => Life::Running(abandoned),
            Promise::AtMostOnce => Life::Indeterminate(abandoned.lapsed()),
        });
        Transition::Applied
    }

    /// Removes the owner's unfinished record: nothing happened.
    pub fn release(&mut self, owner: &OwnerId) -> Transition {
        match self.take_unfinished_of(owner) {
            Some(_) => Transition::Applied,
            None => Transition::Fenced,
        }
    }

    /// Decides an indeterminate operation: gives it an answer, or with `None` releases it. `owner` is the lost owner that the
    /// decision was made about, so that a decision about an earlier life changes nothing. The record goes to `resolver`, which
    /// fences the lost owner.
    pub fn resolve(
        &mut self,
        owner: &OwnerId,
        resolver: OwnerId,
        answer: Option<R>,
        retention: Duration,
        now: StoreTime,
    ) -> Transition {
        if !self.is_indeterminate(now) {
            return Transition::Fenced;
        }
        let Some(Running(facts)) = self.take_unfinished_of(owner) else {
            return Transition::Fenced;
        };
        self.0 = answer.map(|response| {
            Life::Completed(Completed {
                facts: Facts {
                    owner: resolver,
                    expires_at: now.plus(retention),
                    ..facts
                },
                response,
            })
        });
        Transition::Applied
    }

    /// Whether nobody may run the operation again until it is resolved: the record says so, or its lost owner promised at most
    /// once and nobody has asked since.
    #[must_use]
    pub fn is_indeterminate(&self, now: StoreTime) -> bool {
        match &self.0 {
            Some(Life::Indeterminate(_)) => true,
            Some(Life::Running(running)) => {
                running.0.promise == Promise::AtMostOnce && running.lease_is_over(now)
            }
            Some(Life::Completed(_)) | None => false,
        }
    }

    /// Removes what no request needs any more; never a live lease. An indeterminate record stays for `indeterminate_retention`
    /// from the end of its lease, and never less than its own retention.
    pub fn reap(&mut self, indeterminate_retention: Duration, now: StoreTime) -> Reap {
        let Some(life) = &self.0 else {
            return Reap::Kept;
        };
        let facts = *life.facts();
        if facts.expires_at > now {
            return Reap::Kept;
        }
        let needed = match life {
            Life::Completed(_) => false,
            Life::Indeterminate(_) => facts.lease_until.plus(indeterminate_retention) > now,
            Life::Running(running) if !running.lease_is_over(now) => true,
            Life::Running(running) => match facts.promise {
                Promise::AtLeastOnce => false,
                Promise::AtMostOnce => {
                    self.0 = Some(Life::Indeterminate(running.lapsed()));
                    return Reap::Lapsed;
                }
            },
        };
        if needed {
            Reap::Kept
        } else {
            self.0 = None;
            Reap::Deleted
        }
    }

    /// Takes the record out if it is unfinished and this owner's, as running.
    fn take_unfinished_of(&mut self, owner: &OwnerId) -> Option<Running> {
        let running = match self.0.as_ref()? {
            Life::Running(running) => *running,
            Life::Indeterminate(indeterminate) => indeterminate.revived(),
            Life::Completed(_) => return None,
        };
        (running.0.owner == *owner).then(|| {
            self.0 = None;
            running
        })
    }
}
