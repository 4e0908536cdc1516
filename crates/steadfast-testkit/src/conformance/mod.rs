//! One test for each clause of the store contract.
//!
//! A store's author writes a [`Bench`] and stamps every clause as a test of its own with [`conformance!`](crate::conformance!).
//! Each clause is also a public function, grouped by theme, for those who want to run one by hand: it takes a bench whose
//! records are empty, panics if the clause does not hold, and leaves its records behind.
//!
//! No clause needs anything to happen within a short time: what must be alive has a lease of an hour, and what must be over is
//! waited for; a herd asks again where the store says that it is unavailable. So a slow machine makes the suite slow, and never
//! red.
//!
//! The clauses are written in the words of [`Store`], and held against
//! [`Place`](steadfast_core::idempotency::Place), the reference of every transition.

mod actors;
mod chance;
mod patient;

pub mod claim;
pub mod completion;
pub mod conflict;
pub mod durability;
pub mod expiry;
pub mod giving_up;
pub mod indeterminate;
pub mod interruption;
pub mod lease;
pub mod limits;
pub mod look_up;
pub mod race;
pub mod reap;
pub mod resolution;
pub mod show;
pub mod stress;
pub mod takeover;

use std::{future::Future, time::Duration};

use steadfast_store::Store;
use tokio::runtime::{Builder, Runtime};

/// How long one clause may take before it counts as hung.
///
/// The slowest takes seconds on an idle machine; the rest is for machines that are not.
pub const TIME_LIMIT: Duration = Duration::from_secs(180);

/// What a store's author supplies: a way to set up empty records, and handles on them.
pub trait Bench: Sized + Send + Sync + 'static {
    /// The store under test.
    type Store: Store;

    /// Makes a bench whose records are empty and nobody else's.
    fn set_up() -> impl Future<Output = Self> + Send;

    /// A handle on the bench's records.
    ///
    /// Where the store has handles that share nothing but the records (connection pools, processes), the bench deals them out
    /// in turn, so that the races run between them.
    fn store(&self) -> Self::Store;

    /// Opens the records anew, as a process started later would. `None` if the store cannot: right only for a store that is
    /// not [durable](steadfast_store::Capabilities::durable).
    ///
    /// # Cancel safety
    ///
    /// Never dropped early.
    fn reopen(&self) -> impl Future<Output = Option<Self::Store>> + Send {
        async { None }
    }

    /// Returns when this much of the store's time has passed. Sleeps, by default.
    ///
    /// # Cancel safety
    ///
    /// Never dropped early.
    fn advance(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    /// The runtime each clause gets: two workers, by default, so that races are real.
    ///
    /// # Panics
    ///
    /// If the threads cannot be started.
    #[must_use]
    fn runtime() -> Runtime {
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts")
    }
}

/// Runs one clause on a bench of its own.
///
/// # Panics
///
/// If the clause does not hold, or is not through after [`TIME_LIMIT`].
pub fn run<B: Bench>(clause: impl AsyncFnOnce(&B)) {
    let runtime = B::runtime();
    runtime.block_on(async {
        let bench = B::set_up().await;
        tokio::time::timeout(TIME_LIMIT, clause(&bench))
            .await
            .expect("the clause is through within its time limit");
    });
}

/// The name of every clause, as `theme::clause`.
pub const CLAUSES: &[&str] = crate::conformance!(@clauses names []);

/// Stamps every clause of the store contract as a `#[test]`, in one module per theme.
///
/// Takes a [`Bench`](crate::conformance::Bench) type. Invoke it in a module of its own.
///
/// ```
/// # fn main() {}
/// mod memory {
///     use steadfast_store::MemoryStore;
///     use steadfast_testkit::conformance::Bench;
///
///     struct Memory(MemoryStore);
///
///     impl Bench for Memory {
///         type Store = MemoryStore;
///
///         async fn set_up() -> Self {
///             Self(MemoryStore::default())
///         }
///
///         fn store(&self) -> MemoryStore {
///             self.0.clone()
///         }
///     }
///
///     steadfast_testkit::conformance!(Memory);
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    ($bench:ty) => {
        $crate::conformance! { @clauses tests [$bench] }
    };
    (@clauses $made:ident [$($argument:tt)*]) => {
        $crate::conformance! {
            @$made [$($argument)*]
            claim {
                a_new_key_is_claimed_as_its_first_execution
                a_claim_asked_again_by_its_owner_is_the_same_claim
                asking_again_does_not_lengthen_a_live_lease
                asking_again_revives_the_lapsed_claim_of_the_owner
                asking_again_past_retention_keeps_the_execution
                another_owner_finds_a_live_claim_running
                an_owner_that_was_taken_over_is_not_claimed_again
                an_owner_that_completed_finds_its_answer
                an_owner_whose_operation_is_indeterminate_is_not_claimed_by_asking
                keys_that_differ_in_one_bit_are_two_operations
                one_owner_may_hold_claims_on_several_keys
                every_handle_sees_an_acknowledged_claim
            }
            completion {
                a_completed_operation_answers_everyone_the_same
                a_completion_may_be_sent_again
                a_stored_answer_never_changes
                a_completed_operation_is_not_renewed_abandoned_or_released
                a_completion_never_makes_a_record
                a_late_completion_of_a_lapsed_claim_is_applied
                a_late_completion_of_an_indeterminate_operation_is_applied
                a_completion_is_fenced_by_a_release_and_a_new_claim
            }
            conflict {
                a_mismatch_wins_over_a_live_claim
                a_mismatch_wins_over_the_owner_itself
                a_mismatch_wins_over_the_lapsed_owner_itself
                a_mismatch_wins_over_an_answer
                a_mismatch_wins_over_an_indeterminate_operation
                a_mismatch_wins_over_a_lapsed_claim
                a_mismatch_wins_over_a_claim_lapsed_under_at_most_once
                a_conflict_tells_the_stored_fingerprint_and_its_version
            }
            durability {
                an_acknowledged_transition_is_there_when_reopened
            }
            expiry {
                past_retention_an_answered_key_starts_a_new_life
                a_new_life_keeps_nothing_of_the_old_answer
                the_owner_of_an_expired_answer_starts_a_new_life
                past_retention_a_lapsed_key_starts_a_new_life
                an_answer_outlives_its_lease
                retention_counts_from_the_claim
                a_retention_of_no_length_leaves_the_live_claim
            }
            giving_up {
                an_abandoned_operation_has_lost_its_owner_at_once
                an_owner_that_abandoned_is_fenced
                an_abandoned_record_goes_to_the_successor
                an_indeterminate_operation_can_be_abandoned_by_its_owner
                a_released_operation_leaves_nothing
                a_release_forgets_the_takeovers
                a_claimant_without_its_claim_can_release
                an_indeterminate_operation_can_be_released_by_its_owner
                a_stranger_gives_nothing_up
                giving_up_never_makes_a_record
                an_owner_that_released_is_fenced_from_the_next_life
                an_abandoned_operation_keeps_its_fingerprint
            }
            indeterminate {
                a_lapsed_operation_is_not_claimed_again
                an_indeterminate_operation_is_not_claimed_past_retention
                a_lapse_shows_before_anybody_asks
                only_indeterminate_operations_are_listed
                the_longest_lapsed_is_listed_first
                a_list_keeps_to_its_limit
                a_revived_operation_is_not_listed
                a_stranger_does_not_end_an_indeterminate_operation
            }
            interruption {
                an_interrupted_claim_can_be_asked_again
                an_interrupted_completion_can_be_sent_again
                an_interrupted_renewal_can_be_sent_again
                an_interrupted_release_can_be_sent_again
                an_interrupted_abandonment_was_made_or_not
                a_store_survives_a_hundred_interrupted_calls
            }
            lease {
                a_renewal_counts_the_lease_from_now
                a_renewal_revives_a_lapsed_claim
                a_renewal_revives_an_indeterminate_operation
                a_revived_operation_lapses_again
                a_renewal_does_not_lengthen_retention
                a_lapse_alone_fences_nobody
                a_live_lease_outlives_retention
                a_lease_of_no_length_is_over_at_once
                a_renewal_never_makes_a_record
                a_fenced_renewal_changes_no_lease
            }
            limits {
                huge_durations_saturate
                huge_durations_of_resolutions_and_reapers_saturate
                durations_finer_than_a_microsecond_are_taken
                an_empty_answer_is_an_answer
                every_byte_value_survives
                every_format_version_survives
                an_answer_of_megabytes_survives
                extreme_keys_and_owners_are_kept
                the_store_says_that_it_is_fenced
            }
            look_up {
                standings_come_in_the_order_asked
                a_key_asked_twice_is_answered_twice
                nothing_asked_is_nothing_answered
                a_thousand_keys_are_looked_up_at_once
                a_running_operation_tells_what_is_left_of_its_lease
                past_retention_only_what_is_over_stands_as_absent
                a_look_changes_nothing
            }
            race {
                a_herd_on_a_new_key_makes_one_claim
                a_herd_on_a_lapsed_key_makes_one_takeover
                a_herd_on_an_abandoned_key_makes_one_takeover
                a_herd_on_an_expired_key_makes_one_claim
                a_herd_on_a_key_lapsed_under_at_most_once_makes_no_claim
                a_herd_of_two_requests_makes_one_claim
                an_owner_that_asks_many_times_at_once_holds_one_claim
                a_herd_on_an_answered_key_gets_the_answer
                a_late_completion_and_a_takeover_that_meet_agree
                a_late_renewal_and_a_takeover_that_meet_agree
                two_completions_that_meet_leave_one_answer
                one_of_many_decisions_stands
                releases_and_claims_that_meet_leave_one_owner
            }
            reap {
                an_empty_store_has_nothing_to_reap
                an_answer_past_retention_is_reaped
                an_answer_within_retention_is_not_reaped
                a_live_lease_is_not_reaped
                a_lapsed_claim_within_retention_is_not_reaped
                a_lapsed_claim_past_retention_is_reaped_under_at_least_once
                a_lapsed_claim_past_retention_turns_indeterminate_under_at_most_once
                an_indeterminate_operation_is_kept_for_its_own_retention
                an_indeterminate_operation_within_retention_is_not_reaped
                an_abandoned_operation_past_retention_is_reaped
                a_revived_record_is_not_reaped
                a_reap_keeps_to_its_limit
                many_reapers_reap_each_record_once
                a_renewal_and_a_reaper_that_meet_agree
                a_claim_that_meets_a_reaper_is_kept
            }
            resolution {
                a_resolved_operation_answers_everyone_and_fences_the_lost_owner
                a_resolved_record_belongs_to_its_resolver
                a_released_operation_runs_again_and_fences_the_lost_owner
                a_lapsed_operation_is_resolved_before_anybody_asks
                an_abandoned_operation_is_resolved_by_its_successors_name
                only_an_indeterminate_operation_is_resolved
                a_stale_incident_resolves_nothing
                a_decision_that_the_owner_forestalled_changes_nothing
                an_operation_is_resolved_once
                a_resolution_counts_retention_from_now
                a_resolution_of_no_retention_is_over_at_once
            }
            show {
                a_record_is_shown_as_it_stands
                a_lapsed_record_shows_for_how_long
                an_abandoned_record_has_lapsed_since_then
                the_age_counts_through_takeovers
                a_new_life_starts_its_age_anew
            }
            stress {
                one_answer_for_each_key_under_at_least_once
                one_start_for_each_key_under_at_most_once
                one_answer_for_each_life
                one_answer_for_each_life_among_reapers
            }
            takeover {
                each_takeover_is_one_execution_more
                a_takeover_gets_the_lease_it_asked_for
                a_takeover_may_shorten_retention
                a_takeover_may_lengthen_retention
                an_owner_that_was_taken_over_is_fenced
                an_owner_that_was_taken_over_stays_fenced_when_its_successor_is_lost
                a_takeover_keeps_the_promise_of_the_first_claim
                a_promise_of_at_most_once_is_not_weakened_by_who_asks
                an_abandoned_operation_is_taken_over_at_once
                a_takeover_is_idempotent_for_its_owner
            }
        }
    };
    (@tests [$bench:ty] $($theme:ident { $($clause:ident)* })*) => {
        $(
            mod $theme {
                use super::*;

                $(
                    #[test]
                    fn $clause() {
                        $crate::conformance::run::<$bench>($crate::conformance::$theme::$clause);
                    }
                )*
            }
        )*
    };
    (@names [] $($theme:ident { $($clause:ident)* })*) => {
        &[$($(concat!(stringify!($theme), "::", stringify!($clause)),)*)*]
    };
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::CLAUSES;

    /// The public functions of the themes, as the source names them.
    fn written() -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance");
        let mut names = BTreeSet::new();
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let theme = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if theme == "mod" {
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                if let Some(rest) = line.strip_prefix("pub async fn ") {
                    let name = rest.split(['<', '(']).next().unwrap();
                    names.insert(format!("{theme}::{name}"));
                }
            }
        }
        names
    }

    #[test]
    fn every_clause_that_is_written_is_stamped() {
        let stamped: BTreeSet<_> = CLAUSES.iter().map(|name| (*name).to_owned()).collect();

        assert_eq!(stamped.len(), CLAUSES.len(), "a clause is listed twice");
        assert_eq!(stamped, written());
    }
}
