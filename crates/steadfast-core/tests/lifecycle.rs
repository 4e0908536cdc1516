//! Simulations of one record's place against a history of what was accepted, from which every answer is worked out anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*};
use steadfast_core::idempotency::{
    Begun, Fingerprint, KeyDigest, Life, OwnerId, Place, Promise, Reap, StoreTime, Terms,
    Transition,
};

/// Owners that ask; an abandoned or resolved record goes to a fresh one.
const OWNERS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Begin {
        owner: u8,
        fingerprint: u8,
        promise: Promise,
        lease: u64,
        retention: u64,
    },
    Renew {
        owner: u8,
        lease: u64,
    },
    Complete {
        owner: u8,
        answer: u8,
    },
    Abandon {
        owner: u8,
    },
    Release {
        owner: u8,
    },
    Resolve {
        /// Decide about the present owner, and not about this one.
        present: bool,
        owner: u8,
        answer: Option<u8>,
        retention: u64,
    },
    Reap {
        indeterminate_retention: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = 0..OWNERS;
    let promise = prop_oneof![Just(Promise::AtLeastOnce), Just(Promise::AtMostOnce)];
    let lease = prop_oneof![4 => 0_u64..8, 1 => Just(u64::MAX)];
    let retention = prop_oneof![4 => 0_u64..24, 1 => Just(u64::MAX)];
    let step = prop_oneof![
        4 => (0_u64..6).prop_map(Step::Wait),
        // two requests, one of them rare, so that most claims meet their own record
        6 => (owner.clone(), prop_oneof![6 => Just(0_u8), 1 => Just(1)], promise, lease.clone(), retention.clone())
            .prop_map(|(owner, fingerprint, promise, lease, retention)| Step::Begin {
                owner, fingerprint, promise, lease, retention,
            }),
        3 => (owner.clone(), lease).prop_map(|(owner, lease)| Step::Renew { owner, lease }),
        2 => (owner.clone(), any::<u8>()).prop_map(|(owner, answer)| Step::Complete { owner, answer }),
        1 => owner.clone().prop_map(|owner| Step::Abandon { owner }),
        1 => owner.clone().prop_map(|owner| Step::Release { owner }),
        2 => (any::<bool>(), owner, any::<Option<u8>>(), retention.clone())
            .prop_map(|(present, owner, answer, retention)| Step::Resolve {
                present, owner, answer, retention,
            }),
        2 => retention.prop_map(|indeterminate_retention| Step::Reap { indeterminate_retention }),
    ];
    vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_answer_is_the_one_that_the_history_gives(steps in steps()) {
        let mut place = Place::default();
        let mut model = History::default();
        let mut now = 0;
        for (number, step) in steps.iter().enumerate() {
            let fresh = OwnerId::from_bytes(fresh_bytes(number));
            if let Step::Wait(duration) = step {
                now += duration;
            }

            let told = take(&mut place, step, fresh, now);
            let expected = model.take(step, fresh, now);

            prop_assert_eq!(told, expected, "step {} of {:?}", number, &steps);
            let life = place.life().map(summary);
            prop_assert_eq!(life, model.summary(), "after step {} of {:?}", number, &steps);
            prop_assert_eq!(place.is_indeterminate(at(now)), model.is_indeterminate(now));
        }
    }

    #[test]
    fn what_is_promised_holds_after_every_step(steps in steps()) {
        let mut place = Place::default();
        let mut witness = Witness::default();
        let mut now = 0;
        for (number, step) in steps.iter().enumerate() {
            let fresh = OwnerId::from_bytes(fresh_bytes(number));
            if let Step::Wait(duration) = step {
                now += duration;
            }
            let before = place.clone();

            let told = take(&mut place, step, fresh, now);

            witness.check(&before, &place, step, &told, now)?;
        }
    }
}

// === The place under test ===

/// What a step told, in one type for all steps.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Begun(Begun<u8>),
    Moved(Transition),
    Reaped(Reap),
}

fn take(place: &mut Place<u8>, step: &Step, fresh: OwnerId, now: u64) -> Told {
    let now = at(now);
    match *step {
        Step::Wait(_) => Told::Nothing,
        Step::Begin {
            owner,
            fingerprint,
            promise,
            lease,
            retention,
        } => {
            let terms = Terms {
                owner: owner_id(owner),
                fingerprint: fingerprint_of(fingerprint),
                promise,
                lease: seconds(lease),
                retention: seconds(retention),
            };
            Told::Begun(place.begin(&terms, now))
        }
        Step::Renew { owner, lease } => {
            Told::Moved(place.renew(&owner_id(owner), seconds(lease), now))
        }
        Step::Complete { owner, answer } => Told::Moved(place.complete(&owner_id(owner), answer)),
        Step::Abandon { owner } => Told::Moved(place.abandon(&owner_id(owner), fresh, now)),
        Step::Release { owner } => Told::Moved(place.release(&owner_id(owner))),
        Step::Resolve {
            present,
            owner,
            answer,
            retention,
        } => {
            let about = match place.life() {
                Some(life) if present => life.facts().owner,
                Some(_) | None => owner_id(owner),
            };
            Told::Moved(place.resolve(&about, fresh, answer, seconds(retention), now))
        }
        Step::Reap {
            indeterminate_retention,
        } => Told::Reaped(place.reap(seconds(indeterminate_retention), now)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Completed(u8),
    Indeterminate,
}

/// Everything that can be seen of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    stage: Stage,
    owner: OwnerId,
    fingerprint: Fingerprint,
    promise: Promise,
    execution: u32,
    since: StoreTime,
    lease_until: StoreTime,
    expires_at: StoreTime,
}

fn summary(life: &Life<u8>) -> Summary {
    let facts = life.facts();
    Summary {
        stage: match life {
            Life::Running(_) => Stage::Running,
            Life::Completed(completed) => Stage::Completed(*completed.response()),
            Life::Indeterminate(_) => Stage::Indeterminate,
        },
        owner: facts.owner,
        fingerprint: facts.fingerprint,
        promise: facts.promise,
        execution: facts.execution.get(),
        since: facts.since,
        lease_until: facts.lease_until,
        expires_at: facts.expires_at,
    }
}

fn at(now: u64) -> StoreTime {
    StoreTime::after_epoch(seconds(now))
}

fn seconds(seconds: u64) -> Duration {
    match seconds {
        u64::MAX => Duration::MAX,
        seconds => Duration::from_secs(seconds),
    }
}

fn owner_id(number: u8) -> OwnerId {
    OwnerId::from_bytes([number; 16])
}

fn fingerprint_of(number: u8) -> Fingerprint {
    Fingerprint::new(1, [number; 32])
}

fn fresh_bytes(number: usize) -> [u8; 16] {
    let mut bytes = [0xff; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

// === The model: a history, and questions about it ===

#[derive(Clone, Copy, Debug)]
enum Event {
    Claimed {
        owner: OwnerId,
        fingerprint: Fingerprint,
        promise: Promise,
        lease_until: StoreTime,
        expires_at: StoreTime,
        now: StoreTime,
    },
    Renewed {
        until: StoreTime,
    },
    Abandoned {
        successor: OwnerId,
        now: StoreTime,
    },
    /// Somebody noticed that the owner is lost.
    Noticed,
    Answered(u8),
    Resolved {
        resolver: OwnerId,
        answer: u8,
        expires_at: StoreTime,
    },
}

/// What was accepted in the present life, oldest first. Every question is answered by reading it again.
#[derive(Clone, Debug, Default)]
struct History(Vec<Event>);

impl History {
    fn answer(&self) -> Option<u8> {
        self.0.iter().find_map(|event| match event {
            Event::Answered(answer) | Event::Resolved { answer, .. } => Some(*answer),
            Event::Claimed { .. }
            | Event::Renewed { .. }
            | Event::Abandoned { .. }
            | Event::Noticed => None,
        })
    }

    fn first_claim(&self) -> Option<(Fingerprint, Promise, StoreTime)> {
        self.0.iter().find_map(|event| match event {
            Event::Claimed {
                fingerprint,
                promise,
                now,
                ..
            } => Some((*fingerprint, *promise, *now)),
            Event::Renewed { .. }
            | Event::Abandoned { .. }
            | Event::Noticed
            | Event::Answered(_)
            | Event::Resolved { .. } => None,
        })
    }

    fn executions(&self) -> u32 {
        let claims = self
            .0
            .iter()
            .filter(|event| matches!(event, Event::Claimed { .. }));
        u32::try_from(claims.count()).unwrap()
    }

    fn owner(&self) -> Option<OwnerId> {
        self.0.iter().rev().find_map(|event| match event {
            Event::Claimed { owner, .. }
            | Event::Abandoned {
                successor: owner, ..
            }
            | Event::Resolved {
                resolver: owner, ..
            } => Some(*owner),
            Event::Renewed { .. } | Event::Noticed | Event::Answered(_) => None,
        })
    }

    fn lease_until(&self) -> Option<StoreTime> {
        self.0.iter().rev().find_map(|event| match event {
            Event::Claimed { lease_until, .. } => Some(*lease_until),
            Event::Renewed { until } => Some(*until),
            Event::Abandoned { now, .. } => Some(*now),
            Event::Noticed | Event::Answered(_) | Event::Resolved { .. } => None,
        })
    }

    fn expires_at(&self) -> Option<StoreTime> {
        self.0.iter().rev().find_map(|event| match event {
            Event::Claimed { expires_at, .. } | Event::Resolved { expires_at, .. } => {
                Some(*expires_at)
            }
            Event::Renewed { .. }
            | Event::Abandoned { .. }
            | Event::Noticed
            | Event::Answered(_) => None,
        })
    }

    /// Somebody has noticed that the owner is lost, under at most once, and the owner has not come back since.
    fn is_marked(&self) -> bool {
        let at_most_once = self
            .first_claim()
            .is_some_and(|(_, promise, _)| promise == Promise::AtMostOnce);
        let mark = self
            .0
            .iter()
            .rev()
            .take_while(|event| !matches!(event, Event::Renewed { .. }))
            .any(|event| matches!(event, Event::Noticed | Event::Abandoned { .. }));
        at_most_once && mark && self.answer().is_none()
    }

    fn lease_is_over(&self, now: u64) -> bool {
        self.lease_until().is_some_and(|until| until <= at(now))
    }

    fn retention_is_over(&self, now: u64) -> bool {
        self.expires_at().is_some_and(|until| until <= at(now))
    }

    fn is_indeterminate(&self, now: u64) -> bool {
        let Some((_, promise, _)) = self.first_claim() else {
            return false;
        };
        self.answer().is_none() && promise == Promise::AtMostOnce && {
            self.is_marked() || self.lease_is_over(now)
        }
    }

    fn is_unfinished_of(&self, owner: OwnerId) -> bool {
        self.owner() == Some(owner) && self.answer().is_none()
    }

    fn summary(&self) -> Option<Summary> {
        let (fingerprint, promise, since) = self.first_claim()?;
        Some(Summary {
            stage: match self.answer() {
                Some(answer) => Stage::Completed(answer),
                None if self.is_marked() => Stage::Indeterminate,
                None => Stage::Running,
            },
            owner: self.owner()?,
            fingerprint,
            promise,
            execution: self.executions(),
            since,
            lease_until: self.lease_until()?,
            expires_at: self.expires_at()?,
        })
    }

    fn take(&mut self, step: &Step, fresh: OwnerId, now: u64) -> Told {
        match *step {
            Step::Wait(_) => Told::Nothing,
            Step::Begin {
                owner,
                fingerprint,
                promise,
                lease,
                retention,
            } => {
                let claim = Event::Claimed {
                    owner: owner_id(owner),
                    fingerprint: fingerprint_of(fingerprint),
                    promise,
                    lease_until: at(now).plus(seconds(lease)),
                    expires_at: at(now).plus(seconds(retention)),
                    now: at(now),
                };
                let revival = Event::Renewed {
                    until: at(now).plus(seconds(lease)),
                };
                Told::Begun(self.begin(owner_id(owner), fingerprint, claim, revival, now))
            }
            Step::Renew { owner, lease } => {
                let until = at(now).plus(seconds(lease));
                self.accept_if(
                    self.is_unfinished_of(owner_id(owner)),
                    Event::Renewed { until },
                )
            }
            Step::Complete { owner, answer } => {
                if self.answer().is_some() {
                    return Told::Moved(if self.owner() == Some(owner_id(owner)) {
                        Transition::Applied
                    } else {
                        Transition::Fenced
                    });
                }
                self.accept_if(
                    self.is_unfinished_of(owner_id(owner)),
                    Event::Answered(answer),
                )
            }
            Step::Abandon { owner } => self.accept_if(
                self.is_unfinished_of(owner_id(owner)),
                Event::Abandoned {
                    successor: fresh,
                    now: at(now),
                },
            ),
            Step::Release { owner } => self.end_if(self.is_unfinished_of(owner_id(owner))),
            Step::Resolve {
                present,
                owner,
                answer,
                retention,
            } => {
                let about = match self.owner() {
                    Some(owner) if present => owner,
                    Some(_) | None => owner_id(owner),
                };
                let right = self.is_indeterminate(now) && self.is_unfinished_of(about);
                match answer {
                    None => self.end_if(right),
                    Some(answer) => self.accept_if(
                        right,
                        Event::Resolved {
                            resolver: fresh,
                            answer,
                            expires_at: at(now).plus(seconds(retention)),
                        },
                    ),
                }
            }
            Step::Reap {
                indeterminate_retention,
            } => Told::Reaped(self.reap(indeterminate_retention, now)),
        }
    }

    fn begin(
        &mut self,
        owner: OwnerId,
        fingerprint: u8,
        claim: Event,
        revival: Event,
        now: u64,
    ) -> Begun<u8> {
        let Some((stored, promise, _)) = self.first_claim() else {
            self.0.push(claim);
            return Begun::Claimed(steadfast_core::idempotency::Execution::FIRST);
        };
        let same = stored == fingerprint_of(fingerprint);
        let is_own = self.is_unfinished_of(owner);

        let has_ended = match self.answer() {
            Some(_) => self.retention_is_over(now),
            None => {
                promise == Promise::AtLeastOnce
                    && self.lease_is_over(now)
                    && self.retention_is_over(now)
                    && !(same && is_own)
            }
        };
        if has_ended {
            self.0.clear();
            self.0.push(claim);
        } else if !same {
            return Begun::Conflict(stored);
        } else if self.answer().is_none() && !self.is_marked() && self.lease_is_over(now) {
            self.0.push(if is_own {
                revival
            } else if promise == Promise::AtMostOnce {
                Event::Noticed
            } else {
                claim
            });
        }

        if let Some(answer) = self.answer() {
            Begun::Completed(answer)
        } else if self.is_marked() {
            Begun::Indeterminate
        } else if self.owner() == Some(owner) {
            let number = self.executions();
            Begun::Claimed(steadfast_core::idempotency::Execution::new(number).unwrap())
        } else {
            let until = self.lease_until().unwrap();
            Begun::Running {
                lease_left: until.since(at(now)),
            }
        }
    }

    fn reap(&mut self, indeterminate_retention: u64, now: u64) -> Reap {
        if self.0.is_empty() || !self.retention_is_over(now) {
            return Reap::Kept;
        }
        if self.answer().is_none() {
            let (_, promise, _) = self.first_claim().unwrap();
            let lease_until = self.lease_until().unwrap();
            if self.is_marked() {
                if at(now) < lease_until.plus(seconds(indeterminate_retention)) {
                    return Reap::Kept;
                }
            } else if !self.lease_is_over(now) {
                return Reap::Kept;
            } else if promise == Promise::AtMostOnce {
                self.0.push(Event::Noticed);
                return Reap::Lapsed;
            }
        }
        self.0.clear();
        Reap::Deleted
    }

    fn accept_if(&mut self, right: bool, event: Event) -> Told {
        if right {
            self.0.push(event);
            Told::Moved(Transition::Applied)
        } else {
            Told::Moved(Transition::Fenced)
        }
    }

    fn end_if(&mut self, right: bool) -> Told {
        if right {
            self.0.clear();
            Told::Moved(Transition::Applied)
        } else {
            Told::Moved(Transition::Fenced)
        }
    }
}

// === The witness: what was promised, from what owners were told ===

/// Remembers what each owner and each client was told, and nothing of how records work.
#[derive(Debug, Default)]
struct Witness {
    /// Until when each owner was told that it holds the operation.
    holds_until: BTreeMap<OwnerId, StoreTime>,
    /// The answer that was told, and until when it must not change.
    answer: Option<(u8, StoreTime)>,
}

impl Witness {
    fn check(
        &mut self,
        before: &Place<u8>,
        after: &Place<u8>,
        step: &Step,
        told: &Told,
        now: u64,
    ) -> Result<(), TestCaseError> {
        self.hear(step, told, now);

        let live = self.holds_until.values().filter(|until| **until > at(now));
        prop_assert!(live.count() <= 1, "two owners hold the operation: {self:?}");

        self.check_answer(before, after, now)?;
        check_life(before, after, step, told, now)?;

        if *told == Told::Moved(Transition::Fenced) {
            prop_assert_eq!(before, after, "a fenced owner changed something");
        }
        if let (Some(life), Some(owner)) = (before.life(), asker(step)) {
            let is_own = life.facts().owner == owner && life.response().is_none();
            if is_own && !matches!(step, Step::Begin { .. } | Step::Resolve { .. }) {
                prop_assert_eq!(
                    told,
                    &Told::Moved(Transition::Applied),
                    "an owner was fenced though nobody took over"
                );
            }
        }
        Ok(())
    }

    fn hear(&mut self, step: &Step, told: &Told, now: u64) {
        let applied = *told == Told::Moved(Transition::Applied);
        match *step {
            Step::Begin { owner, lease, .. } => {
                if let Told::Begun(Begun::Claimed(_)) = told {
                    let until = at(now).plus(seconds(lease));
                    // A live claim that is asked again keeps the end it had.
                    let held = self.holds_until.entry(owner_id(owner)).or_insert(until);
                    if *held <= at(now) {
                        *held = until;
                    }
                }
            }
            Step::Renew { owner, lease } if applied => {
                let until = at(now).plus(seconds(lease));
                self.holds_until.insert(owner_id(owner), until);
            }
            Step::Complete { owner, .. } | Step::Abandon { owner } | Step::Release { owner }
                if applied =>
            {
                self.holds_until.remove(&owner_id(owner));
            }
            Step::Wait(_)
            | Step::Renew { .. }
            | Step::Complete { .. }
            | Step::Abandon { .. }
            | Step::Release { .. }
            | Step::Resolve { .. }
            | Step::Reap { .. } => {}
        }
    }

    /// A stored answer stays as it is until its retention is over.
    fn check_answer(
        &mut self,
        before: &Place<u8>,
        after: &Place<u8>,
        now: u64,
    ) -> Result<(), TestCaseError> {
        if let Some((answer, until)) = self.answer
            && at(now) < until
        {
            let stored = after.life().and_then(Life::response);
            prop_assert_eq!(
                stored,
                Some(&answer),
                "an answer changed, from {:?}",
                before
            );
        } else {
            self.answer = None;
        }
        if let Some(life) = after.life()
            && let Some(answer) = life.response()
        {
            self.answer = Some((*answer, life.facts().expires_at));
        }
        Ok(())
    }
}

fn asker(step: &Step) -> Option<OwnerId> {
    match step {
        Step::Begin { owner, .. }
        | Step::Renew { owner, .. }
        | Step::Complete { owner, .. }
        | Step::Abandon { owner }
        | Step::Release { owner }
        | Step::Resolve { owner, .. } => Some(owner_id(*owner)),
        Step::Wait(_) | Step::Reap { .. } => None,
    }
}

/// What one step may do to a life.
fn check_life(
    before: &Place<u8>,
    after: &Place<u8>,
    step: &Step,
    told: &Told,
    now: u64,
) -> Result<(), TestCaseError> {
    let Some(old) = before.life() else {
        return Ok(());
    };
    let facts = old.facts();
    let was_claimed_anew = matches!(
        told,
        Told::Begun(Begun::Claimed(execution)) if execution.get() == 1 && asker(step) != Some(facts.owner)
    );
    let ends_life = was_claimed_anew
        || after.life().is_none_or(|new| {
            let (old, new) = (facts, new.facts());
            (old.since, old.fingerprint, old.promise) != (new.since, new.fingerprint, new.promise)
        });

    if ends_life {
        let resolved_or_released = matches!(step, Step::Release { .. } | Step::Resolve { .. });
        let live = old.response().is_none() && at(now) < facts.lease_until;
        let is_owner_done = resolved_or_released && *told == Told::Moved(Transition::Applied);
        prop_assert!(
            is_owner_done || !live,
            "{step:?} ended a life whose lease lives: {old:?}"
        );
        prop_assert!(
            is_owner_done || facts.expires_at <= at(now),
            "{step:?} ended a life within its retention: {old:?}"
        );
        if facts.promise == Promise::AtMostOnce && old.response().is_none() && !is_owner_done {
            let Step::Reap {
                indeterminate_retention,
            } = step
            else {
                return Err(TestCaseError::fail(format!(
                    "{step:?} ended an unresolved life: {old:?}"
                )));
            };
            let kept_until = facts.lease_until.plus(seconds(*indeterminate_retention));
            prop_assert!(kept_until <= at(now), "reaped too early: {old:?}");
        }
    } else if let (Step::Begin { owner, .. }, Told::Begun(Begun::Claimed(execution))) = (step, told)
        && owner_id(*owner) != facts.owner
    {
        prop_assert_eq!(facts.promise, Promise::AtLeastOnce, "taken over: {:?}", old);
        prop_assert_eq!(execution.get(), facts.execution.get() + 1);
        prop_assert!(
            facts.lease_until <= at(now),
            "a live lease was taken: {old:?}"
        );
    }
    Ok(())
}

#[test]
fn a_thousand_takeovers_count_up() {
    let mut place: Place<()> = Place::default();
    for execution in 1..=1000_u32 {
        let mut owner = [0; 16];
        owner[..4].copy_from_slice(&execution.to_be_bytes());
        let terms = Terms {
            owner: OwnerId::from_bytes(owner),
            fingerprint: fingerprint_of(0),
            promise: Promise::AtLeastOnce,
            lease: seconds(1),
            retention: seconds(10),
        };

        let begun = place.begin(&terms, at(u64::from(execution)));

        assert!(matches!(begun, Begun::Claimed(claim) if claim.get() == execution));
    }
}

#[test]
fn digests_order_and_compare_by_their_bytes() {
    let low = KeyDigest::from_bytes([1; 32]);
    let high = KeyDigest::from_bytes([2; 32]);

    assert!(low < high);
    assert_eq!(low, KeyDigest::from_bytes(*low.as_bytes()));
}
