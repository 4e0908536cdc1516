//! Budgets against a slow obvious model, and the numbers of their rules.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*, sample::Index};
use steadfast_core::budget::{Budget, InvalidBudget, Withdrawal};

#[expect(
    clippy::disallowed_methods,
    reason = "any moment is as good as another, and there is no other way to one"
)]
fn origin() -> Instant {
    Instant::now()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Takes all there is.
fn drain(budget: &Budget, now: Instant) -> u32 {
    let mut granted = 0;
    while budget.withdraw(now).is_some() {
        granted += 1;
    }
    granted
}

fn deposit(budget: &Budget, originals: u32, now: Instant) {
    for _ in 0..originals {
        budget.deposit(now);
    }
}

// === Ratio ===

#[test]
fn the_floor_grants_ten_seconds_of_retries_on_a_cold_start() {
    let now = origin();
    assert_eq!(drain(&Budget::default(), now), 100);
    assert_eq!(drain(&Budget::ratio(0.0, 3).unwrap(), now), 30);
}

#[test]
fn the_defaults_are_a_fifth_and_ten_per_second() {
    let now = origin();
    let budget = Budget::default();
    deposit(&budget, 1_000, now);

    assert_eq!(drain(&budget, now), 200 + 100);
}

#[test]
fn a_ratio_is_exact_where_binary_fractions_are_not() {
    let now = origin();
    for (ratio, originals, retries) in [
        (0.1, 30, 3),
        (0.2, 5, 1),
        (0.2, 4, 0),
        (0.6, 5, 3),
        (0.75, 4, 3),
        (0.75, 1, 0),
        (0.999, 1_000, 999),
        (0.999, 999, 998),
        (0.001, 1_000, 1),
        (0.001, 999, 0),
        (0.333_333_333, 3, 0),
        (0.333_333_334, 3, 1),
        (0.000_000_002, 100, 0),
        (1.0, 7, 7),
        (1.3, 10, 13),
        (10.0, 3, 30),
    ] {
        let budget = Budget::ratio(ratio, 0).unwrap();
        deposit(&budget, originals, now);

        assert_eq!(drain(&budget, now), retries, "{ratio} of {originals}");
    }
}

#[test]
fn deposits_count_in_their_own_second_and_the_nine_after_it() {
    let start = origin();
    for (age, granted) in [
        (0, 1),
        (9_999, 1),
        (10_000, 0),
        (15_999, 0),
        (16_000, 0),
        (99_000, 0),
    ] {
        let budget = Budget::ratio(1.0, 0).unwrap();
        budget.deposit(start);

        assert_eq!(
            drain(&budget, start + millis(age)),
            granted,
            "after {age} ms"
        );
    }
}

#[test]
fn withdrawals_count_in_their_own_second_and_the_nine_after_it() {
    let start = origin();
    for (age, granted) in [(0, 0), (9_999, 0), (10_000, 10), (11_000, 10), (99_000, 10)] {
        let budget = Budget::ratio(0.0, 1).unwrap();
        assert_eq!(drain(&budget, start), 10);

        let now = start + millis(age);
        assert_eq!(budget.has_token(now), granted > 0, "after {age} ms");
        assert_eq!(drain(&budget, now), granted, "after {age} ms");
        assert!(!budget.has_token(now));
    }
}

#[test]
fn withdrawals_expire_second_by_second() {
    let start = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    for second in 0..5 {
        assert!(budget.withdraw(start + seconds(second)).is_some());
        assert!(budget.withdraw(start + seconds(second)).is_some());
    }

    for second in 10..15 {
        assert!(budget.has_token(start + seconds(second)), "{second}");
        assert_eq!(drain(&budget, start + seconds(second)), 2, "{second}");
    }
}

#[test]
fn asking_takes_nothing() {
    let now = origin();
    let budget = Budget::ratio(1.0, 0).unwrap();
    budget.deposit(now);

    assert!((0..9).all(|_| budget.has_token(now)));
    assert_eq!(drain(&budget, now), 1);
}

#[test]
fn a_retry_that_is_given_back_is_there_again_once() {
    let now = origin();
    let budget = Budget::ratio(1.0, 0).unwrap();
    budget.deposit(now);
    let withdrawal = budget.withdraw(now).unwrap();
    assert!(!budget.has_token(now));

    budget.give_back(withdrawal);

    assert!(budget.has_token(now));
    assert_eq!(drain(&budget, now), 1);
}

#[test]
fn a_retry_that_is_given_back_late_does_not_pay_for_a_newer_one() {
    let start = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    let withdrawal = budget.withdraw(start).unwrap();
    let later = start + seconds(10);
    assert_eq!(drain(&budget, later), 10);

    budget.give_back(withdrawal);

    assert!(!budget.has_token(later));
    assert!(budget.withdraw(later).is_none());
}

#[test]
fn a_retry_of_another_budget_does_no_harm() {
    let now = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    let other = Budget::ratio(0.0, 1).unwrap();
    let throttle = Budget::grpc_throttle(10, 0.1).unwrap();

    budget.give_back(other.withdraw(now).unwrap());
    budget.give_back(throttle.withdraw(now).unwrap());
    throttle.give_back(other.withdraw(now).unwrap());

    assert_eq!(drain(&budget, now), 10, "no more than there ever were");
    assert!(throttle.has_token(now));
}

#[test]
fn outcomes_do_not_move_a_ratio() {
    let now = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    for _ in 0..99 {
        budget.failed();
    }
    assert_eq!(drain(&budget, now), 10);

    budget.succeeded();
    assert!(!budget.has_token(now));
}

#[test]
fn moments_before_the_first_one_count_as_its_second() {
    let earlier = origin();
    let first = earlier + seconds(50);
    let budget = Budget::ratio(1.0, 0).unwrap();
    budget.deposit(first);

    budget.deposit(earlier);

    assert_eq!(drain(&budget, earlier), 2);
    assert!(!budget.has_token(first));
}

#[test]
fn a_clock_that_steps_back_grants_nothing_twice() {
    let start = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    budget.deposit(start);
    let late = start + seconds(30);
    assert_eq!(drain(&budget, late), 10);

    for second in 0..40 {
        let now = start + seconds(second);
        assert!(!budget.has_token(now), "{second}");
        assert_eq!(drain(&budget, now), 0, "{second}");
    }
}

#[test]
fn a_deposit_that_comes_late_counts_in_its_own_second() {
    let start = origin();
    let budget = Budget::ratio(1.0, 0).unwrap();
    budget.deposit(start);
    budget.deposit(start + seconds(9));

    budget.deposit(start + seconds(4));

    assert_eq!(drain(&budget, start + seconds(10)), 2);
    assert!(!budget.has_token(start + seconds(13)));
}

#[test]
fn a_deposit_that_comes_too_late_is_dropped() {
    let start = origin();
    for age in [10, 15, 16, 26, 32, 160] {
        let budget = Budget::ratio(1.0, 0).unwrap();
        budget.deposit(start);
        let now = start + seconds(age);
        budget.deposit(now);

        // the same cell as the newest, for some of the ages
        budget.deposit(start);

        assert_eq!(drain(&budget, now), 1, "{age} s old");
    }
}

#[test]
fn time_that_passes_for_centuries_does_no_harm() {
    let start = origin();
    let budget = Budget::ratio(1.0, 1).unwrap();
    deposit(&budget, 5, start);
    assert_eq!(drain(&budget, start), 15);

    let centuries = start + seconds(u64::from(u32::MAX) * 3);
    budget.deposit(centuries);

    assert_eq!(drain(&budget, centuries), 11);
    assert!(!budget.has_token(start));
}

#[test]
fn numbers_that_leave_no_retries_or_none_that_make_sense_are_refused() {
    for ratio in [-0.1, 10.001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refusal = Budget::ratio(ratio, 1).unwrap_err();
        assert!(matches!(refusal, InvalidBudget::Ratio { .. }), "{ratio}");
        assert!(
            refusal
                .to_string()
                .starts_with(&format!("budget of {ratio} retries per request: "))
        );
    }
    for ratio in [0.0, -0.0, 0.000_000_000_4] {
        let refusal = Budget::ratio(ratio, 0).unwrap_err();
        assert_eq!(refusal, InvalidBudget::NoRetries, "{ratio}");
        assert!(
            refusal
                .to_string()
                .starts_with("budget with a ratio and a floor of zero: ")
        );
    }
    Budget::ratio(0.0, 1).unwrap();
    Budget::ratio(10.0, 0).unwrap();
    Budget::ratio(0.000_000_001, 0).unwrap();
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let now = origin();
    let budget = Budget::ratio(10.0, u32::MAX).unwrap();
    budget.deposit(now);

    let withdrawal = budget.withdraw(now).unwrap();
    assert!(budget.has_token(now));
    budget.give_back(withdrawal);
}

#[test]
fn the_debug_form_tells_mode_and_numbers() {
    let now = origin();
    let budget = Budget::default();
    let _spent = budget.withdraw(now);
    assert_eq!(
        format!("{budget:?}"),
        r#"Budget { mode: "ratio", ratio: 0.2, floor: 10, charged: 1, .. }"#
    );

    let throttle = Budget::grpc_throttle(10, 0.1).unwrap();
    throttle.failed();
    assert_eq!(
        format!("{throttle:?}"),
        r#"Budget { mode: "grpc_throttle", max_tokens: 10.0, token_ratio: 0.1, tokens: 9.0 }"#
    );
}

// === gRPC's throttle ===

fn throttle(max_tokens: u32, token_ratio: f64) -> Budget {
    Budget::grpc_throttle(max_tokens, token_ratio).unwrap()
}

#[test]
fn the_throttle_starts_full_and_permits_while_more_than_half_is_left() {
    let now = origin();
    for (max_tokens, failures) in [(1, 1), (2, 1), (3, 2), (10, 5), (1_000, 500)] {
        let budget = throttle(max_tokens, 0.1);

        for failure in 0..failures {
            assert!(budget.has_token(now), "{failure} of {max_tokens}");
            budget.failed();
        }

        assert!(!budget.has_token(now), "{max_tokens}");
        assert!(budget.withdraw(now).is_none());
    }
}

#[test]
fn what_succeeds_brings_the_ratio_back_to_the_thousandth() {
    let now = origin();
    let budget = throttle(2, 0.001);
    budget.failed();
    assert!(!budget.has_token(now), "1 is half of 2, and not more");

    budget.succeeded();

    assert!(budget.has_token(now), "1.001 is more");
}

#[test]
fn the_throttle_never_holds_more_than_full_nor_less_than_nothing() {
    let now = origin();
    let budget = throttle(4, 1.0);
    for _ in 0..9 {
        budget.succeeded();
    }
    budget.failed();
    budget.failed();
    assert!(!budget.has_token(now), "4 - 2");

    for _ in 0..99 {
        budget.failed();
    }
    budget.succeeded();
    budget.succeeded();
    assert!(!budget.has_token(now), "0 + 2");
    budget.succeeded();
    assert!(budget.has_token(now), "0 + 3");
}

#[test]
fn retries_and_originals_do_not_move_the_throttle() {
    let now = origin();
    let budget = throttle(2, 0.5);
    for _ in 0..99 {
        let withdrawal = budget.withdraw(now).unwrap();
        budget.give_back(withdrawal);
        let _made = budget.withdraw(now).unwrap();
    }
    budget.failed();

    deposit(&budget, 99, now);

    assert!(!budget.has_token(now));
}

#[test]
fn decimals_beyond_the_third_are_ignored_and_the_third_is_exact() {
    let now = origin();
    // successes that bring one token back, and no fewer
    for (ratio, needed) in [
        (0.5, 2),
        (0.509_9, 2),
        (0.499_9, 3),
        (0.29, 4),
        (1.0, 1),
        (1.000_9, 1),
        (0.001_999, 1_000),
    ] {
        let budget = throttle(1, ratio);
        budget.failed();
        let half = |successes: u32| {
            (0..successes).for_each(|_| budget.succeeded());
            budget.has_token(now)
        };

        // strictly more than half of one token is there after more than half of the successes
        let (before, after) = (needed / 2, needed / 2 + 1);
        let enough = (ratio * 1e3).floor() * f64::from(before) > 500.0;
        assert_eq!(half(before), enough, "{ratio}");
        assert!(half(after - before), "{ratio}");
    }

    // binary fractions meet 1.005 from below
    let budget = throttle(3, 1.005);
    for _ in 0..3 {
        budget.failed();
    }
    budget.succeeded();
    assert!(format!("{budget:?}").contains("token_ratio: 1.005, tokens: 1.005"));
}

#[test]
fn numbers_that_a_throttle_cannot_have_are_refused() {
    for max_tokens in [0, 1_001, u32::MAX] {
        let refusal = Budget::grpc_throttle(max_tokens, 0.1).unwrap_err();
        assert_eq!(refusal, InvalidBudget::MaxTokens { max_tokens });
        assert_eq!(
            refusal.to_string(),
            format!("budget of {max_tokens} tokens: gRPC's throttle has 1 to 1000")
        );
    }
    for ratio in [
        0.0,
        -0.1,
        0.000_9,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        let refusal = Budget::grpc_throttle(10, ratio).unwrap_err();
        assert!(
            matches!(refusal, InvalidBudget::TokenRatio { .. }),
            "{ratio}"
        );
        assert!(
            refusal
                .to_string()
                .starts_with(&format!("token ratio of {ratio}: "))
        );
    }
    let _all_in_range = [throttle(1, 0.001), throttle(1_000, f64::MAX)];
}

// === Against the model ===

/// Keeps every event by its second, and works everything out anew.
struct Model {
    /// Billionths.
    ratio: u128,
    floor: u128,
    deposits: Vec<u64>,
    withdrawals: Vec<u64>,
    /// The latest second of a request to withdraw: time never goes back.
    latest: u64,
}

impl Model {
    fn has_token(&self, second: u64) -> bool {
        let now = second.max(self.latest);
        let counted = |events: &[u64]| {
            let counted = events
                .iter()
                .filter(|event| **event <= now && now - **event < 10)
                .count();
            counted as u128
        };
        // below zero where deposits have left the window, and what they paid for has not
        let income = self.ratio * counted(&self.deposits) + self.floor * 10 * 1_000_000_000;
        income >= (counted(&self.withdrawals) + 1) * 1_000_000_000
    }

    /// The second that was charged.
    fn withdraw(&mut self, second: u64) -> Option<u64> {
        self.latest = self.latest.max(second);
        let granted = self.has_token(second).then_some(self.latest);
        self.withdrawals.extend(granted);
        granted
    }

    fn give_back(&mut self, charged: u64) {
        let place = self.withdrawals.iter().position(|event| *event == charged);
        self.withdrawals.swap_remove(place.expect("withdrawn"));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    Deposit(u8),
    Drain,
    GiveBack(Index),
    Rewind(u64),
    Wait(u64),
    Withdraw,
}

/// `back` is how many milliseconds the clock may step back.
fn steps(back: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Ask),
        6 => (0..30_u8).prop_map(Step::Deposit),
        1 => Just(Step::Drain),
        3 => any::<Index>().prop_map(Step::GiveBack),
        2 => (0..=back).prop_map(Step::Rewind),
        4 => (0..2_500_u64).prop_map(Step::Wait),
        1 => (0..30_000_u64).prop_map(Step::Wait),
        6 => Just(Step::Withdraw),
    ];
    vec(step, 1..120)
}

fn billionths() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 1..2_000_000_000_u64,
        3 => (1..1_000_u64).prop_map(|thousandths| thousandths * 1_000_000),
        1 => Just(0),
        1 => 0..=10_000_000_000_u64,
    ]
}

/// One budget beside its model.
struct Pair {
    start: Instant,
    budget: Budget,
    model: Model,
    /// Not yet given back.
    withdrawn: Vec<(Withdrawal, u64)>,
}

impl Pair {
    fn new(billionths: u64, floor: u32) -> Option<Self> {
        let start = origin();
        let budget = Budget::ratio(billionths as f64 / 1e9, floor).ok()?;
        let model = Model {
            ratio: billionths.into(),
            floor: floor.into(),
            deposits: vec![0],
            withdrawals: Vec::new(),
            latest: 0,
        };
        // sets the origin
        budget.deposit(start);
        Some(Self {
            start,
            budget,
            model,
            withdrawn: Vec::new(),
        })
    }

    fn deposit(&mut self, originals: u8, now: u64) {
        for _ in 0..originals {
            self.budget.deposit(self.start + millis(now));
            self.model.deposits.push(now / 1_000);
        }
    }

    fn give_back(&mut self, which: Index) {
        if self.withdrawn.is_empty() {
            return;
        }
        let place = which.index(self.withdrawn.len());
        let (withdrawal, charged) = self.withdrawn.swap_remove(place);
        self.budget.give_back(withdrawal);
        self.model.give_back(charged);
    }
}

proptest! {
    /// Clocks of threads differ by far less than the 6 s that the budget takes without forgetting a deposit.
    #[test]
    fn a_budget_answers_as_its_model_does(
        billionths in billionths(),
        floor in 0_u32..4,
        steps in steps(6_000),
    ) {
        let Some(mut pair) = Pair::new(billionths, floor) else {
            return Ok(());
        };
        let mut now = 0_u64;
        let mut newest = 0_u64;
        for step in steps {
            match step {
                Step::Ask => {}
                Step::Deposit(originals) => pair.deposit(originals, now),
                Step::Drain => {
                    let granted = drain(&pair.budget, pair.start + millis(now));
                    for _ in 0..granted {
                        prop_assert!(pair.model.withdraw(now / 1_000).is_some());
                    }
                    prop_assert!(pair.model.withdraw(now / 1_000).is_none());
                }
                Step::GiveBack(which) => pair.give_back(which),
                Step::Rewind(back) => {
                    // in whole seconds, which are what counts
                    let earliest = (newest / 1_000).saturating_sub(6) * 1_000;
                    now = now.saturating_sub(back).max(earliest);
                }
                Step::Wait(wait) => now += wait,
                Step::Withdraw => {
                    let withdrawal = pair.budget.withdraw(pair.start + millis(now));
                    let charged = pair.model.withdraw(now / 1_000);
                    prop_assert_eq!(withdrawal.is_some(), charged.is_some());
                    pair.withdrawn.extend(withdrawal.zip(charged));
                }
            }
            newest = newest.max(now);
            prop_assert_eq!(
                pair.budget.has_token(pair.start + millis(now)),
                pair.model.has_token(now / 1_000)
            );
        }
    }

    #[test]
    fn however_far_a_clock_steps_back_no_more_is_granted_than_the_model_allows(
        billionths in billionths(),
        floor in 0_u32..4,
        steps in steps(90_000),
    ) {
        let Some(mut pair) = Pair::new(billionths, floor) else {
            return Ok(());
        };
        let mut now = 0_u64;
        for step in steps {
            match step {
                Step::Ask => {
                    let asked = pair.budget.has_token(pair.start + millis(now));
                    prop_assert!(!asked || pair.model.has_token(now / 1_000));
                }
                Step::Deposit(originals) => pair.deposit(originals, now),
                Step::GiveBack(which) => pair.give_back(which),
                Step::Rewind(back) => now = now.saturating_sub(back),
                Step::Wait(wait) => now += wait,
                Step::Drain | Step::Withdraw => {
                    let at = pair.start + millis(now);
                    let asked = pair.budget.has_token(at);
                    let withdrawal = pair.budget.withdraw(at);
                    prop_assert_eq!(asked, withdrawal.is_some(), "who asks is told the truth");
                    if let Some(withdrawal) = withdrawal {
                        let charged = pair.model.withdraw(now / 1_000);
                        prop_assert!(charged.is_some());
                        pair.withdrawn.push((withdrawal, charged.unwrap()));
                    } else {
                        pair.model.latest = pair.model.latest.max(now / 1_000);
                    }
                }
            }
        }
    }

    #[test]
    fn a_throttle_answers_as_arithmetic_does(
        max_tokens in 1_u32..=1_000,
        thousandths in 1_u32..3_000,
        outcomes in vec(any::<bool>(), 0..1_500),
    ) {
        let now = origin();
        let budget = throttle(max_tokens, f64::from(thousandths) / 1e3);
        let full = max_tokens * 1_000;
        let mut tokens = full;
        for succeeded in outcomes {
            if succeeded {
                budget.succeeded();
                tokens = (tokens + thousandths).min(full);
            } else {
                budget.failed();
                tokens = tokens.saturating_sub(1_000);
            }
            prop_assert_eq!(budget.has_token(now), tokens * 2 > full);
        }
    }
}
