//! One budget, many threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use steadfast_core::budget::Budget;

const THREADS: u32 = 8;

#[expect(
    clippy::disallowed_methods,
    reason = "any moment is as good as another, and there is no other way to one"
)]
fn origin() -> Instant {
    Instant::now()
}

/// Runs `work` on all threads at once, and adds up what they return.
fn together(work: impl Fn(u32) -> u32 + Sync) -> u32 {
    let ready = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ready, work) = (&ready, &work);
                scope.spawn(move || {
                    ready.wait();
                    work(thread)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    })
}

#[test]
fn of_a_fixed_balance_exactly_all_is_granted() {
    const ROUNDS: u32 = 50;
    let now = origin();

    for round in 0..ROUNDS {
        let budget = Budget::ratio(0.0, 20).unwrap();

        let granted =
            together(|_| (0..100).filter(|_| budget.withdraw(now).is_some()).count() as u32);

        assert_eq!(granted, 200, "round {round}");
    }
}

#[test]
fn deposits_of_all_threads_are_kept() {
    let now = origin();
    let budget = Budget::ratio(0.5, 0).unwrap();

    together(|_| {
        (0..10_000).for_each(|_| budget.deposit(now));
        0
    });

    let granted = (0..).take_while(|_| budget.withdraw(now).is_some()).count();
    assert_eq!(granted, 40_000);
}

#[test]
fn no_moment_sees_more_granted_than_deposits_allow() {
    const ORIGINALS: u32 = 20_000;
    let now = origin();
    let budget = Budget::ratio(0.2, 1).unwrap();
    let deposits = AtomicU32::new(0);
    let granted = AtomicU32::new(0);

    together(|thread| {
        for request in 0..ORIGINALS {
            // counted before it is there, and a grant after it was made: what is read is never too strict
            deposits.fetch_add(1, Ordering::SeqCst);
            budget.deposit(now);
            if budget.withdraw(now).is_some() {
                let granted = granted.fetch_add(1, Ordering::SeqCst) + 1;
                let allowed = deposits.load(Ordering::SeqCst) / 5 + 10;
                assert!(
                    granted <= allowed,
                    "{granted} of {allowed}, thread {thread}, request {request}"
                );
            }
        }
        0
    });

    let rest = (0..).take_while(|_| budget.withdraw(now).is_some()).count() as u32;
    assert_eq!(
        granted.into_inner() + rest,
        ORIGINALS * THREADS / 5 + 10,
        "nothing is lost either"
    );
}

#[test]
fn what_is_given_back_is_granted_again_and_no_more() {
    let now = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    let held = AtomicU32::new(0);

    together(|_| {
        for _ in 0..20_000 {
            if let Some(withdrawal) = budget.withdraw(now) {
                let before = held.fetch_add(1, Ordering::SeqCst);
                assert!(before < 10);
                held.fetch_sub(1, Ordering::SeqCst);
                budget.give_back(withdrawal);
            }
        }
        0
    });

    let left = (0..).take_while(|_| budget.withdraw(now).is_some()).count();
    assert_eq!(left, 10);
}

#[test]
fn seconds_that_change_while_threads_work_grant_nothing_twice() {
    const SECONDS: u64 = 300;
    let start = origin();
    let budget = Budget::ratio(0.0, 1).unwrap();
    budget.deposit(start);

    // each thread has a clock of its own pace, and the furthest one ends after SECONDS
    let granted = together(|thread| {
        let pace = Duration::from_secs(SECONDS) / 3_000 / THREADS * (thread + 1);
        (0..3_000)
            .filter(|step| budget.withdraw(start + pace * *step).is_some())
            .count() as u32
    });

    // 10 in each window, and there are that many windows without a second in common, the last one begun
    let windows = SECONDS.div_ceil(10) as u32;
    assert!(granted <= windows * 10, "{granted}");
    assert!(granted >= 10);
}

#[test]
fn the_throttle_counts_the_outcomes_of_all_threads() {
    let now = origin();
    let budget = Budget::grpc_throttle(1_000, 0.5).unwrap();

    // 8 * 62 failures leave 504 of 1000 tokens
    together(|_| {
        (0..62).for_each(|_| budget.failed());
        0
    });
    assert!(budget.has_token(now));
    (0..4).for_each(|_| budget.failed());
    assert!(!budget.has_token(now));

    // 400 are left; 8 * 25 successes bring 100 back
    (0..100).for_each(|_| budget.failed());
    together(|_| {
        (0..25).for_each(|_| budget.succeeded());
        0
    });
    assert!(!budget.has_token(now), "half is not more than half");
    budget.succeeded();
    assert!(budget.has_token(now));
}
