//! Every interleaving of what two threads do to one budget.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p steadfast-core --lib --target-dir target/loom loom`

use std::time::{Duration, Instant};

use loom::{model, sync::Arc, thread};

use super::{Budget, Withdrawal};

#[expect(
    clippy::disallowed_methods,
    reason = "any moment is as good as another, and there is no other way to one"
)]
fn origin() -> Instant {
    Instant::now()
}

/// Withdraws on two threads at once.
fn withdraw_twice(
    budget: &Arc<Budget>,
    mine: Instant,
    other: Instant,
) -> (Option<Withdrawal>, Option<Withdrawal>) {
    let thread = {
        let budget = budget.clone();
        thread::spawn(move || budget.withdraw(other))
    };
    let withdrawn = budget.withdraw(mine);
    (withdrawn, thread.join().unwrap())
}

#[test]
fn of_two_who_want_the_last_retry_one_gets_it() {
    let now = origin();

    model(move || {
        let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
        budget.deposit(now);

        let (mine, others) = withdraw_twice(&budget, now, now);

        assert!(mine.is_some() ^ others.is_some());
        assert!(!budget.has_token(now));
    });
}

#[test]
fn clocks_that_differ_do_not_grant_the_last_retry_twice() {
    let now = origin();
    let later = now + Duration::from_secs(1);

    model(move || {
        let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
        budget.deposit(now);

        let (mine, others) = withdraw_twice(&budget, now, later);

        assert!(mine.is_some() ^ others.is_some());
        assert!(!budget.has_token(now) && !budget.has_token(later));
    });
}

#[test]
fn two_deposits_at_once_are_both_kept() {
    let now = origin();

    model(move || {
        let budget = Arc::new(Budget::ratio(0.5, 0).unwrap());
        let thread = {
            let budget = budget.clone();
            thread::spawn(move || budget.deposit(now))
        };

        budget.deposit(now);
        thread.join().unwrap();

        assert!(budget.withdraw(now).is_some());
        assert!(budget.withdraw(now).is_none());
    });
}

#[test]
fn two_deposits_at_once_in_a_reused_cell_are_both_kept_and_the_old_ones_are_gone() {
    let now = origin();
    let reused = now + Duration::from_secs(super::window::KEPT as u64);

    model(move || {
        let budget = Arc::new(Budget::ratio(0.5, 0).unwrap());
        budget.deposit(now);
        let thread = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.deposit(reused);
                // comes too late for its cell
                budget.deposit(now);
            })
        };

        budget.deposit(reused);
        thread.join().unwrap();

        assert!(budget.withdraw(reused).is_some());
        assert!(budget.withdraw(reused).is_none());
    });
}

#[test]
fn a_deposit_amid_a_withdrawal_pays_for_it_or_for_the_next() {
    let now = origin();

    model(move || {
        let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
        // sets the origin
        assert!(!budget.has_token(now));
        let thread = {
            let budget = budget.clone();
            thread::spawn(move || budget.deposit(now))
        };

        let granted = budget.withdraw(now).is_some();
        thread.join().unwrap();

        assert_eq!(budget.has_token(now), !granted);
        assert_eq!(budget.withdraw(now).is_some(), !granted);
        assert!(!budget.has_token(now));
    });
}

#[test]
fn a_retry_given_back_amid_a_withdrawal_is_there_once() {
    let now = origin();

    model(move || {
        let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
        budget.deposit(now);
        let withdrawal = budget.withdraw(now).unwrap();
        let thread = {
            let budget = budget.clone();
            thread::spawn(move || budget.give_back(withdrawal))
        };

        let granted = budget.withdraw(now).is_some();
        thread.join().unwrap();

        assert_eq!(budget.has_token(now), !granted);
        assert_eq!(budget.withdraw(now).is_some(), !granted);
    });
}

#[test]
fn who_only_asks_amid_the_others_is_right_as_soon_as_they_are_done() {
    let now = origin();
    let expired = now + Duration::from_secs(10);

    model(move || {
        let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
        budget.deposit(now);
        let withdraws = {
            let budget = budget.clone();
            thread::spawn(move || {
                let withdrawal = budget.withdraw(now).unwrap();
                budget.give_back(withdrawal);
                budget.withdraw(now).is_some()
            })
        };

        // either answer is right meanwhile
        let _ = budget.has_token(now);
        budget.deposit(expired);
        assert!(withdraws.join().unwrap());

        assert!(!budget.has_token(now));
        assert!(budget.has_token(expired), "what was withdrawn has expired");
    });
}

#[test]
fn the_throttle_loses_no_outcome() {
    model(|| {
        let budget = Arc::new(Budget::grpc_throttle(2, 0.5).unwrap());
        let thread = {
            let budget = budget.clone();
            thread::spawn(move || budget.failed())
        };

        budget.failed();
        thread.join().unwrap();
        assert!(!budget.has_token(origin()), "of 2 tokens, 0 are left");

        let thread = {
            let budget = budget.clone();
            thread::spawn(move || budget.succeeded())
        };
        budget.succeeded();
        thread.join().unwrap();
        assert!(!budget.has_token(origin()), "1 is half of 2, and not more");

        budget.succeeded();
        assert!(budget.has_token(origin()));
    });
}
