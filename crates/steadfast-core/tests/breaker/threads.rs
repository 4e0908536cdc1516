//! One breaker's statistics, many threads.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use steadfast_core::breaker::{
    BreakerConfig, Counts, Outcome, Report, Rules, Statistics, Trip, Window,
};

use crate::support::{config, millis, origin};

const GOOD: Report = Report::new(Outcome::Success);
const BAD: Report = Report::new(Outcome::Failure);
const WINDOWS: [Window; 2] = [
    Window::Calls(100_000),
    Window::Time(Duration::from_secs(30)),
];

fn statistics(config: BreakerConfig, now: Instant) -> Statistics {
    Statistics::new(&Rules::new(config).unwrap(), now)
}

/// Runs `work` on all threads at once, and returns how often they were told to stop.
fn together(threads: u32, work: impl Fn(u32) -> u32 + Sync) -> u32 {
    let ready = Barrier::new(threads as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
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

fn told(trip: Option<Trip>) -> u32 {
    u32::from(trip.is_some())
}

#[test]
fn no_call_is_lost() {
    const CALLS: u32 = 20_000;
    let now = origin();
    for threads in [2, 4] {
        for window in WINDOWS {
            let statistics = statistics(config().with_failure_rate(1.0, window, 100_000), now);

            together(threads, |_| {
                (0..CALLS)
                    .map(|call| {
                        let report = if call % 4 == 0 { &BAD } else { &GOOD };
                        told(statistics.record(1, report, || now))
                    })
                    .sum()
            });

            let counts = Counts {
                calls: (threads * CALLS).into(),
                failures: (threads * CALLS / 4).into(),
            };
            assert_eq!(statistics.failures(1, now), Some(counts), "{window:?}");
        }
    }
}

#[test]
fn a_window_that_is_lapped_by_many_has_the_last_calls() {
    const SIZE: u32 = 7;
    let now = origin();
    for round in 0..50 {
        let config = config()
            .with_consecutive_failures(u32::MAX)
            .with_failure_rate(1.0, Window::Calls(SIZE), SIZE);
        let statistics = statistics(config, now);

        together(4, |thread| {
            (0..2_000)
                .map(|call| {
                    let report = if (call + thread) % 3 == 0 {
                        &BAD
                    } else {
                        &GOOD
                    };
                    told(statistics.record(1, report, || now))
                })
                .sum()
        });

        let counts = statistics.failures(1, now).unwrap();
        assert_eq!(counts.calls, SIZE.into(), "round {round}");
        for good in 1..=SIZE {
            statistics.record(1, &GOOD, || now);
            let left = statistics.failures(1, now).unwrap();
            assert_eq!(left.calls, SIZE.into());
            assert!(left.failures <= u64::from(SIZE - good), "round {round}");
        }
        for bad in 1..=SIZE {
            statistics.record(1, &BAD, || now);
            let counts = statistics.failures(1, now).unwrap();
            assert_eq!(counts.failures, bad.into(), "round {round}");
        }
    }
}

#[test]
fn who_brings_the_rate_to_its_limit_is_told() {
    const EACH: u32 = 25;
    let now = origin();
    for threads in [2, 4] {
        for window in WINDOWS {
            for round in 0..200 {
                let config = config().without_consecutive_failures().with_failure_rate(
                    0.5,
                    window,
                    threads * EACH,
                );
                let statistics = statistics(config, now);

                let told = together(threads, |thread| {
                    let report = if thread % 2 == 0 { &BAD } else { &GOOD };
                    (0..EACH)
                        .map(|_| told(statistics.record(1, report, || now)))
                        .sum()
                });

                assert!(told > 0, "{threads} threads, {window:?}, round {round}");
            }
        }
    }
}

#[test]
fn of_a_run_of_failures_exactly_those_beyond_the_limit_are_told() {
    const EACH: u32 = 1_000;
    let now = origin();
    for threads in [2, 4] {
        let limit = threads * EACH - 10;
        let config = config().without_failure_rate();
        let statistics = statistics(config.with_consecutive_failures(limit), now);

        let told = together(threads, |_| {
            (0..EACH)
                .map(|_| told(statistics.record(1, &BAD, || now)))
                .sum()
        });

        assert_eq!(told, 11);
        assert_eq!(statistics.consecutive_failures(1), threads * EACH);
    }
}

#[test]
fn late_calls_of_other_threads_change_nothing() {
    const CALLS: u32 = 20_000;
    let now = origin();
    for window in WINDOWS {
        let config = config()
            .with_consecutive_failures(u32::MAX)
            .with_failure_rate(1.0, window, 100_000);
        let statistics = statistics(config, now);
        statistics.record(2, &BAD, || now);

        together(4, |thread| {
            let generation = u64::from(thread % 2 + 1);
            let outcome = if generation == 1 { &GOOD } else { &BAD };
            for _ in 0..CALLS {
                statistics.record(generation, outcome, || now);
            }
            0
        });

        let failures = u64::from(2 * CALLS + 1);
        let counts = Counts {
            calls: failures,
            failures,
        };
        assert_eq!(statistics.failures(2, now), Some(counts), "{window:?}");
        assert_eq!(statistics.consecutive_failures(2), 2 * CALLS + 1);
    }
}

#[test]
fn slots_that_pass_under_many_threads_lose_no_call_of_the_last_ones() {
    let now = origin();
    let window = Window::Time(millis(10));
    let statistics = statistics(config().with_failure_rate(1.0, window, u32::MAX), now);

    together(4, |_| {
        for slot in 0..2_000 {
            for call in 0..5 {
                let report = if call == 0 { &BAD } else { &GOOD };
                statistics.record(1, report, || now + millis(slot));
            }
        }
        0
    });

    // whatever comes late, nothing is newer than these
    let last = statistics.failures(1, now + millis(1_999)).unwrap();
    assert_eq!(last.calls, 4 * 10 * 5);
    assert_eq!(last.failures, 4 * 10);
}
