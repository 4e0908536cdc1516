//! Every interleaving of what a few threads tell the statistics.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p steadfast-core --lib --target-dir target/loom loom`

use std::time::{Duration, Instant};

use loom::{model, sync::Arc, thread};

use super::{
    config::{RateRule, Window},
    state::Counts,
    window::{RateWindow, Run},
};
use crate::sync::{AtomicU64, Ordering};

const SPAN: Duration = Duration::from_secs(10);

#[expect(
    clippy::disallowed_methods,
    reason = "any moment is as good as another, and there is no other way to one"
)]
fn origin() -> Instant {
    Instant::now()
}

const fn counts(calls: u64, failures: u64) -> Counts {
    Counts { calls, failures }
}

/// Runs both on threads of their own.
fn at_once<T: 'static, A: 'static, B: 'static>(
    shared: &Arc<T>,
    mine: impl FnOnce(&T) -> A,
    other: impl FnOnce(&T) -> B + 'static,
) -> (A, B) {
    // Of those who touched a thing, loom looks back at the last one alone: where the other thread reads before it writes, it does
    // not find that a read of mine could come later. So it is shown both orders.
    let start = Arc::new(AtomicU64::new(0));
    let thread = {
        let (shared, start) = (shared.clone(), Arc::clone(&start));
        thread::spawn(move || {
            start.fetch_add(1, Ordering::Relaxed);
            other(&shared)
        })
    };
    start.fetch_add(1, Ordering::Relaxed);
    let mine = mine(shared);
    (mine, thread.join().unwrap())
}

// === Failures in a row ===

#[test]
fn of_two_failures_that_reach_the_limit_the_second_sees_it() {
    model(|| {
        let run = Arc::new(Run::new(2));

        let (mine, others) = at_once(&run, |run| run.failed(1), |run| run.failed(1));

        assert!(matches!((mine, others), (Some(2), None) | (None, Some(2))));
        assert_eq!(run.length(1), 2);
    });
}

#[test]
fn a_late_failure_neither_lengthens_nor_shortens_the_run_of_a_new_generation() {
    model(|| {
        let run = Arc::new(Run::new(2));
        run.failed(1);

        let (mine, _) = at_once(&run, |run| run.failed(2), |run| run.failed(1));

        assert_eq!(mine, None);
        assert_eq!((run.length(1), run.length(2)), (0, 1));
    });
}

#[test]
fn a_late_success_does_not_end_the_run_of_a_new_generation() {
    model(|| {
        let run = Arc::new(Run::new(2));
        run.failed(1);

        let (mine, ()) = at_once(
            &run,
            |run| (run.failed(2), run.failed(2)),
            |run| run.succeeded(1),
        );

        assert_eq!(mine, (None, Some(2)));
        assert_eq!(run.length(2), 2);
    });
}

#[test]
fn a_late_failure_amid_a_new_generations_success_leaves_it_no_run() {
    model(|| {
        let run = Arc::new(Run::new(2));
        run.failed(2);

        let ((), others) = at_once(&run, |run| run.succeeded(2), |run| run.failed(1));

        assert_eq!(others, None);
        assert_eq!(run.length(2), 0);
    });
}

#[test]
fn a_success_amid_a_failure_ends_the_run_before_or_after_it() {
    model(|| {
        let run = Arc::new(Run::new(2));
        run.failed(1);

        let ((), others) = at_once(&run, |run| run.succeeded(1), |run| run.failed(1));

        let left = if others == Some(2) { 0 } else { 1 };
        assert_eq!(run.length(1), left);
    });
}

// === Windows of calls ===

fn of_calls(calls: u32, rate: f64, minimum: u32) -> Arc<RateWindow> {
    let rule = RateRule {
        rate,
        window: Window::Calls(calls),
        minimum,
    };
    Arc::new(RateWindow::new(&rule, origin()))
}

/// In a window of calls, nobody looks at lanes or at the time.
fn call(window: &RateWindow, generation: u64, failed: bool) -> Option<Counts> {
    window.record(generation, failed, || unreachable!("no clock is needed"))
}

fn held(window: &RateWindow, generation: u64) -> Counts {
    window.counts(generation, origin())
}

/// Bad calls fill the window to its last place: the counts are those of the places.
fn assert_counts_are_those_of_the_places(window: &RateWindow, generation: u64, size: u32) {
    for _ in 0..size {
        call(window, generation, true);
    }
    let size = u64::from(size);
    assert_eq!(held(window, generation), counts(size, size));
}

#[test]
fn of_two_calls_that_reach_the_rate_one_sees_it() {
    for mine_failed in [true, false] {
        model(move || {
            let window = of_calls(2, 0.5, 2);

            let (mine, others) = at_once(
                &window,
                |window| call(window, 1, mine_failed),
                |window| call(window, 1, true),
            );

            let both = counts(2, 1 + u64::from(mine_failed));
            assert!(mine == Some(both) || others == Some(both));
            assert_eq!(held(&window, 1), both);
        });
    }
}

#[test]
fn a_late_call_is_not_in_the_window_of_a_new_generation() {
    for late_failed in [true, false] {
        model(move || {
            let window = of_calls(2, 1.0, 2);
            call(&window, 1, true);

            at_once(
                &window,
                |window| assert_eq!(call(window, 2, true), None),
                move |window| call(window, 1, late_failed),
            );

            assert_eq!(held(&window, 1), counts(0, 0));
            assert_eq!(held(&window, 2), counts(1, 1));
            assert_eq!(call(&window, 2, true), Some(counts(2, 2)));
        });
    }
}

#[test]
fn two_who_begin_a_generation_at_once_are_both_counted() {
    model(|| {
        let window = of_calls(2, 1.0, 2);
        call(&window, 1, true);
        call(&window, 1, true);

        let (mine, others) = at_once(
            &window,
            |window| call(window, 2, true),
            |window| call(window, 2, true),
        );

        assert!(mine.is_some() || others.is_some());
        assert_eq!(held(&window, 2), counts(2, 2));
    });
}

#[test]
fn a_writer_that_is_lapped_leaves_the_counts_right() {
    for (mine_failed, other_failed) in [(true, true), (true, false), (false, false)] {
        model(move || {
            let window = of_calls(1, 1.0, 1);
            call(&window, 1, true);

            at_once(
                &window,
                |window| call(window, 1, mine_failed),
                move |window| call(window, 1, other_failed),
            );

            let present = held(&window, 1);
            assert_eq!(present.calls, 1);
            if mine_failed == other_failed {
                assert_eq!(present.failures, u64::from(mine_failed));
            }
            assert_counts_are_those_of_the_places(&window, 1, 1);
        });
    }
}

#[test]
fn a_writer_that_is_lapped_by_a_new_generation_leaves_the_counts_right() {
    model(|| {
        let window = of_calls(1, 1.0, 1);
        call(&window, 1, true);

        at_once(
            &window,
            |window| {
                call(window, 2, true);
                call(window, 2, false)
            },
            |window| call(window, 1, true),
        );

        assert_eq!(held(&window, 2), counts(1, 0));
        assert_counts_are_those_of_the_places(&window, 2, 1);
    });
}

#[test]
fn a_good_call_that_is_left_out_hides_no_bad_one() {
    model(|| {
        let window = of_calls(2, 0.5, 2);
        call(&window, 1, false);
        call(&window, 1, false);

        let (mine, others) = at_once(
            &window,
            |window| call(window, 1, true),
            |window| call(window, 1, false),
        );

        assert!(mine == Some(counts(2, 1)) || others == Some(counts(2, 1)));
        assert_eq!(held(&window, 1), counts(2, 1));
        assert_counts_are_those_of_the_places(&window, 1, 2);
    });
}

// === Windows of time ===

fn of_time(now: Instant, lanes: usize, rate: f64, minimum: u32) -> Arc<RateWindow> {
    let rule = RateRule {
        rate,
        window: Window::Time(SPAN),
        minimum,
    };
    let window = RateWindow::new(&rule, now).with_lanes(SPAN, now, lanes);
    // Of `SeqCst`, loom knows no order between a load and the value that a word began with.
    for lane in 0..lanes {
        window.record_in(lane, 1, true, now);
        window.record_in(lane, 1, false, now);
    }
    Arc::new(window)
}

#[test]
fn of_two_failures_that_reach_the_rate_one_sees_it() {
    let now = origin();

    for lanes in [1, 2] {
        model(move || {
            let window = of_time(now, lanes, 1.0, 2);

            let (mine, others) = at_once(
                &window,
                |window| window.record_in(0, 2, true, now),
                move |window| window.record_in(1, 2, true, now),
            );

            let both = Some(counts(2, 2));
            assert!(mine == both || others == both);
            assert_eq!(window.counts(2, now), counts(2, 2));
        });
    }
}

#[test]
fn of_a_failure_and_a_success_that_reach_the_rate_one_sees_it() {
    let now = origin();

    for lanes in [1, 2] {
        model(move || {
            let window = of_time(now, lanes, 0.5, 2);

            let (mine, others) = at_once(
                &window,
                |window| window.record_in(0, 2, false, now),
                move |window| window.record_in(1, 2, true, now),
            );

            let both = Some(counts(2, 1));
            assert!(mine == both || others == both);
            assert_eq!(window.counts(2, now), counts(2, 1));
        });
    }
}

#[test]
fn a_late_call_is_in_no_slot_of_a_new_generation() {
    let now = origin();

    for late_failed in [true, false] {
        model(move || {
            let window = of_time(now, 1, 1.0, 2);

            let (mine, _) = at_once(
                &window,
                |window| window.record_in(0, 2, true, now),
                move |window| window.record_in(0, 1, late_failed, now),
            );

            assert_eq!(mine, None);
            assert_eq!(window.counts(2, now), counts(1, 1));
        });
    }
}

#[test]
fn two_who_reuse_the_place_of_a_slot_are_both_counted_and_the_old_ones_are_gone() {
    let now = origin();
    let reused = now + SPAN / 10 * 16;

    model(move || {
        let window = of_time(now, 1, 1.0, 2);

        let (mine, others) = at_once(
            &window,
            |window| window.record_in(0, 1, true, reused),
            move |window| {
                let told = window.record_in(0, 1, true, reused);
                // comes too late for its place
                window.record_in(0, 1, true, now);
                told
            },
        );

        assert!(mine.is_some() || others.is_some());
        assert_eq!(window.counts(1, reused), counts(2, 2));
    });
}
