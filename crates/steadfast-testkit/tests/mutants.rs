//! The suite is worth what it catches: a small store with one defect at a time, and the clause that finds it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_core::idempotency::{
    Claim, Claimant, Execution, Fingerprint, KeyDigest, OwnerId, Promise, Terms, Transition,
};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Sharing, Stage, Standing,
    Store, StoreError, StoreId, StoredResponse,
};
use steadfast_testkit::conformance::{
    self, Bench, claim, completion, conflict, durability, expiry, giving_up, indeterminate,
    interruption, lease, limits, look_up, race, reap, resolution, show, stress, takeover,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};

/// A defect that somebody's store has had, or could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    AbandonIgnoresTheSuccessor,
    AbandonKeepsTheLease,
    AgeCountsFromTheTakeover,
    AnswerChanges,
    AnswerLosesItsFormat,
    BeginForgetsItsOwner,
    BeginIsTwoSteps,
    BeginRenewsALiveLease,
    ClaimIsLostWhenDropped,
    CompletionIsNotFenced,
    CompletionIsRefusedWhenSentAgain,
    CompletionMakesARecord,
    ConflictTellsTheAskersFingerprint,
    ExpiredAnswerIsReplayed,
    ForgetsWhenReopened,
    IndeterminateExpires,
    IndeterminateIsClaimedByItsOwner,
    LapseFencesTheOwner,
    LapseIsSeenOnlyWhenAsked,
    ListIsUnordered,
    ListIgnoresItsLimit,
    LookUpForgetsDuplicates,
    LookUpIsUnordered,
    MismatchLosesToALapse,
    MismatchLosesToAnAnswer,
    NewLifeKeepsThePromise,
    OverflowsOnHugeDurations,
    PromiseIsTheAskers,
    ReaperIgnoresItsLimit,
    ReaperIgnoresTheLease,
    ReaperTakesIndeterminateOnRetention,
    ReleaseIsNotFenced,
    ReleaseTakesAnswers,
    RenewalDoesNotReviveIndeterminate,
    RenewalIsNotFenced,
    RenewalMovesRetention,
    ResolutionDoesNotFence,
    ResolutionIgnoresTheIncident,
    ResolutionKeepsTheRetention,
    ResolvesALiveClaim,
    TakeoverDoesNotCount,
    TakeoverKeepsTheRetention,
}

const NO_RETENTION_IS_THIS_LONG: Duration = Duration::from_secs(1 << 40);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Completed,
    Indeterminate,
}

#[derive(Clone)]
struct Row {
    owner: OwnerId,
    fingerprint: Fingerprint,
    promise: Promise,
    execution: u32,
    state: State,
    since: Duration,
    lease_until: Duration,
    expires_at: Duration,
    response: Option<StoredResponse>,
    is_acknowledged: bool,
}

/// Rows as a database would keep them, and one defect.
#[derive(Clone)]
struct Rows {
    defect: Defect,
    id: StoreId,
    epoch: Instant,
    rows: Arc<Mutex<HashMap<KeyDigest, Row>>>,
}

impl Rows {
    fn new(defect: Defect) -> Self {
        Self {
            defect,
            id: StoreId::new(),
            epoch: Instant::now(),
            rows: Arc::default(),
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn after(&self, duration: Duration) -> Duration {
        if self.has(Defect::OverflowsOnHugeDurations) && duration > NO_RETENTION_IS_THIS_LONG {
            return self.now();
        }
        self.now().saturating_add(duration)
    }

    fn fresh(&self, terms: &Terms) -> Row {
        Row {
            owner: terms.owner,
            fingerprint: terms.fingerprint,
            promise: terms.promise,
            execution: 1,
            state: State::Running,
            since: self.now(),
            lease_until: self.after(terms.lease),
            expires_at: self.after(terms.retention),
            response: None,
            is_acknowledged: false,
        }
    }

    fn is_over(&self, row: &Row) -> bool {
        row.state == State::Running && row.lease_until <= self.now()
    }

    fn is_expired(&self, row: &Row) -> bool {
        row.expires_at <= self.now()
    }

    fn is_lost(&self, row: &Row) -> bool {
        row.state == State::Indeterminate
            || (row.promise == Promise::AtMostOnce
                && self.is_over(row)
                && !self.has(Defect::LapseIsSeenOnlyWhenAsked))
    }

    fn step(&self, row: &mut Row, terms: &Terms) {
        let same = row.fingerprint == terms.fingerprint;
        let may_take = same || self.has(Defect::MismatchLosesToALapse);
        let over = self.is_over(row);
        let is_dead = self.is_expired(row)
            && match row.state {
                State::Completed => !self.has(Defect::ExpiredAnswerIsReplayed),
                State::Running => over && row.promise == Promise::AtLeastOnce,
                State::Indeterminate => self.has(Defect::IndeterminateExpires),
            };
        let promise = if self.has(Defect::PromiseIsTheAskers) {
            terms.promise
        } else {
            row.promise
        };
        if over && same && row.owner == terms.owner {
            row.lease_until = self.after(terms.lease);
        } else if is_dead {
            let kept = row.promise;
            *row = self.fresh(terms);
            if self.has(Defect::NewLifeKeepsThePromise) {
                row.promise = kept;
            }
        } else if over && may_take && promise == Promise::AtLeastOnce {
            let old = row.clone();
            *row = Row {
                fingerprint: old.fingerprint,
                promise,
                since: old.since,
                execution: old.execution + 1,
                ..self.fresh(terms)
            };
            if self.has(Defect::TakeoverDoesNotCount) {
                row.execution = old.execution;
            }
            if self.has(Defect::TakeoverKeepsTheRetention) {
                row.expires_at = old.expires_at;
            }
            if self.has(Defect::AgeCountsFromTheTakeover) {
                row.since = self.now();
            }
        } else if over && same {
            row.state = State::Indeterminate;
        } else if same && row.owner == terms.owner {
            if self.has(Defect::BeginRenewsALiveLease) && row.state == State::Running {
                row.lease_until = self.after(terms.lease);
            }
            if self.has(Defect::IndeterminateIsClaimedByItsOwner)
                && row.state == State::Indeterminate
            {
                row.state = State::Running;
                row.lease_until = self.after(terms.lease);
            }
        }
    }

    fn answer(&self, key: &KeyDigest, row: &Row, terms: &Terms) -> Begin {
        let is_answered = row.state == State::Completed;
        if row.fingerprint != terms.fingerprint
            && !(is_answered && self.has(Defect::MismatchLosesToAnAnswer))
        {
            let fingerprint = if self.has(Defect::ConflictTellsTheAskersFingerprint) {
                terms.fingerprint
            } else {
                row.fingerprint
            };
            return Begin::Conflict { fingerprint };
        }
        match row.state {
            State::Completed => Begin::Completed {
                response: row.response.clone().unwrap(),
            },
            State::Indeterminate => Begin::Indeterminate,
            State::Running
                if row.owner == terms.owner
                    && !(self.has(Defect::BeginForgetsItsOwner) && row.is_acknowledged) =>
            {
                let claimant = Claimant {
                    key: *key,
                    owner: terms.owner,
                };
                Begin::Claimed(Claim::granted(
                    claimant,
                    Execution::new(row.execution).unwrap(),
                    row.promise,
                ))
            }
            State::Running => Begin::Running {
                lease_left: row.lease_until.saturating_sub(self.now()),
            },
        }
    }

    /// Changes the unfinished row of this owner.
    fn change(
        &self,
        key: &KeyDigest,
        owner: &OwnerId,
        unfenced: Option<Defect>,
        change: impl FnOnce(&mut Row) -> Option<()>,
    ) -> Transition {
        let mut rows = self.rows.lock().unwrap();
        let Some(row) = rows.get_mut(key) else {
            return Transition::Fenced;
        };
        let fenced = row.owner != *owner && !unfenced.is_some_and(|defect| self.has(defect));
        let lapsed = self.has(Defect::LapseFencesTheOwner) && self.is_over(row);
        if fenced || lapsed || row.state == State::Completed {
            return Transition::Fenced;
        }
        if change(row).is_none() {
            rows.remove(key);
        }
        Transition::Applied
    }

    fn standing(&self, row: Option<&Row>) -> Standing {
        let Some(row) = row else {
            return Standing::Absent;
        };
        let fingerprint = row.fingerprint;
        if self.is_lost(row) {
            return Standing::Indeterminate { fingerprint };
        }
        match (&row.response, self.is_expired(row)) {
            (Some(response), false) => Standing::Completed {
                fingerprint,
                response: response.clone(),
            },
            (None, _) if !self.is_over(row) => Standing::Running {
                lease_left: row.lease_until - self.now(),
            },
            (_, true) => Standing::Absent,
            (None, false) => Standing::Lapsed,
        }
    }

    fn summary(&self, key: &KeyDigest, row: &Row) -> RecordSummary {
        let stage = match row.state {
            State::Completed => Stage::Completed,
            State::Running | State::Indeterminate if self.is_lost(row) => Stage::Indeterminate,
            State::Running | State::Indeterminate => Stage::Running,
        };
        let execution = Execution::new(row.execution).unwrap();
        RecordSummary::new(*key, row.owner, execution, row.promise, stage).with_times(
            self.now() - row.since,
            self.now().saturating_sub(row.lease_until),
        )
    }
}

impl Store for Rows {
    fn capabilities(&self) -> Capabilities {
        let durable = self.has(Defect::ForgetsWhenReopened);
        Capabilities::new(durable, Sharing::Process, true)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        let dropped = Arc::clone(&self.rows);
        if self.has(Defect::ClaimIsLostWhenDropped) {
            // A dropped caller leaves the row in the hands of nobody.
            let nobody = Row {
                owner: OwnerId::from_bytes([0; 16]),
                ..self.fresh(terms)
            };
            let was_there = dropped.lock().unwrap().contains_key(key);
            if !was_there {
                dropped.lock().unwrap().insert(*key, nobody);
                tokio::task::yield_now().await;
                dropped.lock().unwrap().remove(key);
            }
        }
        if self.has(Defect::BeginIsTwoSteps) {
            let seen = self.rows.lock().unwrap().get(key).cloned();
            tokio::task::yield_now().await;
            let mut row = seen.unwrap_or_else(|| self.fresh(terms));
            self.step(&mut row, terms);
            let answer = self.answer(key, &row, terms);
            self.rows.lock().unwrap().insert(*key, row);
            return Ok(answer);
        }
        let mut rows = self.rows.lock().unwrap();
        let row = rows.entry(*key).or_insert_with(|| self.fresh(terms));
        self.step(row, terms);
        let answer = self.answer(key, row, terms);
        row.is_acknowledged = true;
        Ok(answer)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        let until = self.after(lease);
        let mut is_stuck = false;
        let changed = self.change(
            claim.key(),
            claim.owner(),
            Some(Defect::RenewalIsNotFenced),
            |row| {
                if row.state == State::Indeterminate
                    && self.has(Defect::RenewalDoesNotReviveIndeterminate)
                {
                    is_stuck = true;
                    return Some(());
                }
                row.state = State::Running;
                row.lease_until = until;
                if self.has(Defect::RenewalMovesRetention) {
                    row.expires_at = until;
                }
                Some(())
            },
        );
        Ok(if is_stuck {
            Transition::Fenced
        } else {
            changed
        })
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        let stored = if self.has(Defect::AnswerLosesItsFormat) {
            StoredResponse::new(1, response.bytes().clone())
        } else {
            response.clone()
        };
        let mut rows = self.rows.lock().unwrap();
        if let Some(row) = rows.get_mut(claim.key())
            && row.state == State::Completed
            && row.owner == *claim.owner()
        {
            if self.has(Defect::AnswerChanges) {
                row.response = Some(stored);
            }
            return Ok(if self.has(Defect::CompletionIsRefusedWhenSentAgain) {
                Transition::Fenced
            } else {
                Transition::Applied
            });
        }
        if self.has(Defect::CompletionMakesARecord) && !rows.contains_key(claim.key()) {
            let terms = Terms {
                owner: *claim.owner(),
                fingerprint: Fingerprint::new(1, [7; 32]),
                promise: Promise::AtLeastOnce,
                lease: Duration::ZERO,
                retention: NO_RETENTION_IS_THIS_LONG,
            };
            rows.insert(*claim.key(), self.fresh(&terms));
        }
        drop(rows);
        Ok(self.change(
            claim.key(),
            claim.owner(),
            Some(Defect::CompletionIsNotFenced),
            |row| {
                row.state = State::Completed;
                row.response = Some(stored);
                Some(())
            },
        ))
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        Ok(self.change(claim.key(), claim.owner(), None, |row| {
            if !self.has(Defect::AbandonIgnoresTheSuccessor) {
                row.owner = successor;
            }
            if !self.has(Defect::AbandonKeepsTheLease) {
                row.lease_until = self.now();
            }
            if row.promise == Promise::AtMostOnce {
                row.state = State::Indeterminate;
            }
            Some(())
        }))
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        if self.has(Defect::ReleaseTakesAnswers) {
            return Ok(match self.rows.lock().unwrap().remove(&claimant.key) {
                Some(row) if row.owner == claimant.owner => Transition::Applied,
                Some(_) | None => Transition::Fenced,
            });
        }
        Ok(self.change(
            &claimant.key,
            &claimant.owner,
            Some(Defect::ReleaseIsNotFenced),
            |_| None,
        ))
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        let rows = self.rows.lock().unwrap();
        let mut keys = keys.to_vec();
        if self.has(Defect::LookUpIsUnordered) {
            keys.sort();
        }
        if self.has(Defect::LookUpForgetsDuplicates) {
            let mut seen = Vec::new();
            keys.retain(|key| {
                let is_new = !seen.contains(key);
                seen.push(*key);
                is_new
            });
        }
        let standings = keys.iter().map(|key| self.standing(rows.get(key)));
        Ok(standings.collect())
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        let rows = self.rows.lock().unwrap();
        Ok(rows.get(key).map(|row| self.summary(key, row)))
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        let rows = self.rows.lock().unwrap();
        let mut listed: Vec<_> = rows
            .iter()
            .filter(|(_, row)| self.is_lost(row))
            .map(|(key, row)| self.summary(key, row))
            .collect();
        listed.sort_by_key(|record| record.lapsed_for);
        if !self.has(Defect::ListIsUnordered) {
            listed.reverse();
        }
        if !self.has(Defect::ListIgnoresItsLimit) {
            listed.truncate(limit as usize);
        }
        Ok(listed)
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        let is_lost = {
            let rows = self.rows.lock().unwrap();
            rows.get(&incident.key)
                .is_some_and(|row| self.is_lost(row) || self.has(Defect::ResolvesALiveClaim))
        };
        if !is_lost {
            return Ok(Transition::Fenced);
        }
        let unfenced = Some(Defect::ResolutionIgnoresTheIncident);
        Ok(
            self.change(&incident.key, &incident.owner, unfenced, |row| {
                let Resolution::Complete {
                    resolver,
                    response,
                    retention,
                } = resolution
                else {
                    return None;
                };
                row.state = State::Completed;
                row.response = Some(response.clone());
                if !self.has(Defect::ResolutionDoesNotFence) {
                    row.owner = *resolver;
                }
                if !self.has(Defect::ResolutionKeepsTheRetention) {
                    row.expires_at = self.after(*retention);
                }
                Some(())
            }),
        )
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        let mut rows = self.rows.lock().unwrap();
        let mut reaped = Reaped::default();
        let due: Vec<_> = rows
            .iter()
            .filter(|(_, row)| self.is_expired(row))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            if reaped.deleted + reaped.lapsed >= limit.into()
                && !self.has(Defect::ReaperIgnoresItsLimit)
            {
                break;
            }
            let row = rows.get_mut(&key).unwrap();
            let kept_until = row.lease_until.saturating_add(indeterminate_retention);
            let is_done = match row.state {
                State::Completed => true,
                State::Indeterminate => {
                    kept_until <= self.now()
                        || self.has(Defect::ReaperTakesIndeterminateOnRetention)
                }
                State::Running if self.has(Defect::ReaperIgnoresTheLease) => true,
                State::Running if !self.is_over(row) => false,
                State::Running if row.promise == Promise::AtMostOnce => {
                    row.state = State::Indeterminate;
                    reaped.lapsed += 1;
                    false
                }
                State::Running => true,
            };
            if is_done {
                rows.remove(&key);
                reaped.deleted += 1;
            }
        }
        Ok(reaped)
    }
}

thread_local! {
    static DEFECT: Cell<Defect> = const { Cell::new(Defect::None) };
}

struct Defective(Rows);

impl Bench for Defective {
    type Store = Rows;

    async fn set_up() -> Self {
        Self(Rows::new(DEFECT.get()))
    }

    fn store(&self) -> Rows {
        self.0.clone()
    }

    /// Only the defective store says that it is durable.
    async fn reopen(&self) -> Option<Rows> {
        let defect = DEFECT.get();
        (defect == Defect::ForgetsWhenReopened).then(|| Rows::new(defect))
    }

    /// One thread, so that it is the one that names the defect.
    fn runtime() -> Runtime {
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    }
}

fn holds(defect: Defect, clause: impl AsyncFnOnce(&Defective)) -> bool {
    DEFECT.set(defect);
    catch_unwind(AssertUnwindSafe(|| conformance::run(clause))).is_ok()
}

macro_rules! caught {
    ($($defect:ident by $($clause:path),+;)*) => {
        /// Defects that have a line.
        const COVERED: &[Defect] = &[$(Defect::$defect),*];

        #[test]
        fn each_defect_is_caught_by_its_clauses() {
            let mut missed = Vec::new();
            $($(
                if holds(Defect::$defect, $clause) {
                    missed.push(concat!(stringify!($defect), " by ", stringify!($clause)));
                }
                assert!(
                    holds(Defect::None, $clause),
                    concat!(stringify!($clause), " fails a store without defects")
                );
            )+)*
            assert!(missed.is_empty(), "not caught: {missed:#?}");
        }
    };
}

caught! {
    AbandonIgnoresTheSuccessor by giving_up::an_owner_that_abandoned_is_fenced,
        giving_up::an_abandoned_record_goes_to_the_successor;
    AbandonKeepsTheLease by giving_up::an_abandoned_operation_has_lost_its_owner_at_once,
        takeover::an_abandoned_operation_is_taken_over_at_once,
        show::an_abandoned_record_has_lapsed_since_then;
    AgeCountsFromTheTakeover by show::the_age_counts_through_takeovers;
    AnswerChanges by completion::a_stored_answer_never_changes,
        race::two_completions_that_meet_leave_one_answer;
    AnswerLosesItsFormat by limits::every_format_version_survives;
    BeginForgetsItsOwner by claim::a_claim_asked_again_by_its_owner_is_the_same_claim;
    BeginIsTwoSteps by race::a_herd_on_a_new_key_makes_one_claim,
        race::a_herd_on_a_lapsed_key_makes_one_takeover,
        stress::one_answer_for_each_key_under_at_least_once,
        stress::one_start_for_each_key_under_at_most_once;
    BeginRenewsALiveLease by claim::asking_again_does_not_lengthen_a_live_lease;
    ClaimIsLostWhenDropped by interruption::an_interrupted_claim_can_be_asked_again;
    CompletionIsNotFenced by takeover::an_owner_that_was_taken_over_is_fenced,
        completion::a_completion_is_fenced_by_a_release_and_a_new_claim,
        stress::one_answer_for_each_life;
    CompletionIsRefusedWhenSentAgain by completion::a_completion_may_be_sent_again;
    CompletionMakesARecord by completion::a_completion_never_makes_a_record;
    ConflictTellsTheAskersFingerprint by conflict::a_mismatch_wins_over_a_live_claim;
    ExpiredAnswerIsReplayed by expiry::past_retention_an_answered_key_starts_a_new_life;
    ForgetsWhenReopened by durability::an_acknowledged_transition_is_there_when_reopened;
    IndeterminateExpires by
        indeterminate::an_indeterminate_operation_is_not_claimed_past_retention;
    IndeterminateIsClaimedByItsOwner by
        claim::an_owner_whose_operation_is_indeterminate_is_not_claimed_by_asking;
    LapseFencesTheOwner by lease::a_lapse_alone_fences_nobody,
        completion::a_late_completion_of_a_lapsed_claim_is_applied;
    LapseIsSeenOnlyWhenAsked by indeterminate::a_lapse_shows_before_anybody_asks,
        resolution::a_lapsed_operation_is_resolved_before_anybody_asks;
    ListIgnoresItsLimit by indeterminate::a_list_keeps_to_its_limit;
    ListIsUnordered by indeterminate::the_longest_lapsed_is_listed_first;
    LookUpForgetsDuplicates by look_up::a_key_asked_twice_is_answered_twice;
    LookUpIsUnordered by look_up::standings_come_in_the_order_asked;
    MismatchLosesToALapse by conflict::a_mismatch_wins_over_a_lapsed_claim;
    MismatchLosesToAnAnswer by conflict::a_mismatch_wins_over_an_answer;
    NewLifeKeepsThePromise by expiry::past_retention_an_answered_key_starts_a_new_life;
    OverflowsOnHugeDurations by limits::huge_durations_saturate,
        limits::huge_durations_of_resolutions_and_reapers_saturate;
    PromiseIsTheAskers by takeover::a_promise_of_at_most_once_is_not_weakened_by_who_asks;
    ReaperIgnoresItsLimit by reap::a_reap_keeps_to_its_limit;
    ReaperIgnoresTheLease by reap::a_live_lease_is_not_reaped,
        reap::a_revived_record_is_not_reaped;
    ReaperTakesIndeterminateOnRetention by
        reap::an_indeterminate_operation_is_kept_for_its_own_retention;
    ReleaseIsNotFenced by giving_up::a_stranger_gives_nothing_up,
        giving_up::an_owner_that_released_is_fenced_from_the_next_life;
    ReleaseTakesAnswers by
        completion::a_completed_operation_is_not_renewed_abandoned_or_released;
    RenewalDoesNotReviveIndeterminate by lease::a_renewal_revives_an_indeterminate_operation;
    RenewalIsNotFenced by lease::a_fenced_renewal_changes_no_lease;
    RenewalMovesRetention by lease::a_renewal_does_not_lengthen_retention;
    ResolutionDoesNotFence by
        resolution::a_resolved_operation_answers_everyone_and_fences_the_lost_owner,
        resolution::a_resolved_record_belongs_to_its_resolver;
    ResolutionIgnoresTheIncident by resolution::a_stale_incident_resolves_nothing;
    ResolutionKeepsTheRetention by resolution::a_resolution_counts_retention_from_now;
    ResolvesALiveClaim by resolution::only_an_indeterminate_operation_is_resolved;
    TakeoverDoesNotCount by takeover::each_takeover_is_one_execution_more;
    TakeoverKeepsTheRetention by takeover::a_takeover_may_shorten_retention,
        takeover::a_takeover_may_lengthen_retention;
}

#[test]
fn every_defect_has_a_clause_that_catches_it() {
    assert_eq!(COVERED.len(), Defect::TakeoverKeepsTheRetention as usize);
}
