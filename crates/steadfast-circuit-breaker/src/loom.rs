//! Every interleaving of what two threads do to one breaker.
//!
//! What they share of the breaker itself is watched. A record of the statistics is one step here: core watches those.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p steadfast-circuit-breaker --lib --target-dir target/loom loom`

use std::{
    iter,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Waker},
    time::Duration,
};

use loom::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use metrics::set_default_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use steadfast_core::breaker::{Machine, Refusal};
use tokio::{runtime, time};

use crate::{
    BreakerConfig, Cause, CircuitBreaker, Failure, Permit, SafetyClass, State, Transition, Verdict,
};

const OPEN: Duration = Duration::from_secs(30);
const FAILURE: Verdict = Verdict::Failure(Failure::new(SafetyClass::Permanent, Cause::Fault));

/// Explores it, in a time that goes on only where it says so: what it does must not depend on anything else.
fn model(explored: impl Fn() + Send + Sync + 'static) {
    let paused = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a clock needs nothing that could be missing");
    let _entered = paused.enter();
    loom::model(explored);
}

fn pass(span: Duration) {
    let before = time::Instant::now();
    // The first poll moves the clock; the others let tasks run, and there are none.
    let _ = pin!(time::advance(span)).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(before.elapsed(), span);
}

/// One that opens with a failure, and closes with a probe that succeeds.
fn touchy() -> BreakerConfig {
    BreakerConfig::default()
        .with_consecutive_failures(1)
        .without_failure_rate()
        .with_open_for(OPEN)
        .with_open_jitter(0.0)
        .with_probes(1, 1)
}

fn breaker(config: BreakerConfig) -> CircuitBreaker {
    CircuitBreaker::with_config("db", config).expect("numbers that work")
}

/// One whose open time is over.
fn to_be_probed(config: BreakerConfig) -> CircuitBreaker {
    let breaker = breaker(config);
    admitted(&breaker).record(FAILURE);
    pass(OPEN);
    breaker
}

fn admitted(breaker: &CircuitBreaker) -> Permit {
    breaker.admit(None).expect("a call that may pass")
}

/// Runs both on threads of their own.
fn at_once<A, B: 'static>(
    breaker: &CircuitBreaker,
    mine: impl FnOnce(&CircuitBreaker) -> A,
    other: impl FnOnce(&CircuitBreaker) -> B + 'static,
) -> (A, B) {
    // Of those who touched a thing, loom looks back at the last one alone: where the other thread reads before it writes, it does
    // not find that a read of mine could come later. So it is shown both orders.
    let start = Arc::new(AtomicU64::new(0));
    let thread = {
        let (breaker, start) = (breaker.clone(), Arc::clone(&start));
        thread::spawn(move || {
            start.fetch_add(1, Ordering::Relaxed);
            other(&breaker)
        })
    };
    start.fetch_add(1, Ordering::Relaxed);
    let mine = mine(breaker);
    (
        mine,
        thread.join().expect("a failed thread fails the model"),
    )
}

/// What the machine itself says.
fn of_machine<T>(breaker: &CircuitBreaker, look: impl FnOnce(&Machine) -> T) -> T {
    let mut seen = None;
    breaker.shared.command(|machine, _| {
        seen = Some(look(machine));
        None
    });
    seen.expect("a command looks once")
}

/// Whom a breaker tells of its transitions.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Transition>>>);

impl Heard {
    fn from(breaker: &CircuitBreaker) -> Self {
        let heard = Self::default();
        let told = heard.clone();
        breaker.on_transition(move |_, transition| told.lock().push(*transition));
        heard
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Transition>> {
        self.0.lock().expect("no hook panics while it writes")
    }

    /// That each began where the one before it ended, the last one in the state in which all see the breaker; and where they led.
    fn chain(&self, breaker: &CircuitBreaker, before: State) -> Vec<State> {
        let heard = self.lock();
        let mut state = before;
        for transition in &*heard {
            assert_eq!(transition.from(), state, "{heard:?}");
            state = transition.to();
        }
        assert_eq!(of_machine(breaker, Machine::state), state, "{heard:?}");
        assert_eq!(breaker.state(), state);
        assert_eq!(*breaker.subscribe().borrow(), state);
        let generation = of_machine(breaker, Machine::generation);
        assert_eq!(breaker.shared.gate().generation(), generation);
        heard.iter().map(Transition::to).collect()
    }
}

// === Trips ===

#[test]
fn two_failures_at_once_open_it_once() {
    model(|| {
        let breaker = breaker(touchy());
        let heard = Heard::from(&breaker);
        let (mine, others) = (admitted(&breaker), admitted(&breaker));

        at_once(
            &breaker,
            |_| mine.record(FAILURE),
            |_| others.record(FAILURE),
        );

        assert_eq!(heard.chain(&breaker, State::Closed), [State::Open]);
    });
}

#[test]
fn who_sees_that_it_is_open_sees_for_how_long() {
    model(|| {
        let breaker = breaker(touchy());
        let permit = admitted(&breaker);

        let (snapshot, ()) = at_once(&breaker, CircuitBreaker::snapshot, |_| {
            permit.record(FAILURE)
        });

        let is_open = snapshot.state() == State::Open;
        let open_left = if is_open { OPEN } else { Duration::ZERO };
        assert_eq!(snapshot.open_left(), open_left);
    });
}

#[test]
fn a_failure_amid_a_reset_opens_it_before_the_reset_or_not_at_all() {
    model(|| {
        let breaker = breaker(touchy());
        let heard = Heard::from(&breaker);
        let permit = admitted(&breaker);

        at_once(&breaker, CircuitBreaker::reset, |_| permit.record(FAILURE));

        let heard = heard.chain(&breaker, State::Closed);
        assert!(matches!(&*heard, [] | [State::Open, State::Closed]));
        assert_eq!(breaker.snapshot().consecutive_failures(), 0);
    });
}

#[test]
fn a_late_failure_does_not_open_what_was_closed_since() {
    model(|| {
        let breaker = breaker(touchy());
        let heard = Heard::from(&breaker);
        let late = admitted(&breaker);

        at_once(
            &breaker,
            |breaker| {
                breaker.force_open();
                breaker.force_closed();
            },
            |_| late.record(FAILURE),
        );

        let heard = heard.chain(&breaker, State::Closed);
        assert!(heard.ends_with(&[State::ForcedOpen, State::Closed]));
        assert_eq!(breaker.snapshot().consecutive_failures(), 0);
    });
}

#[test]
fn a_result_is_counted_once_as_that_of_a_call_or_as_stale() {
    model(|| {
        let recorder = DebuggingRecorder::new();
        let _installed = set_default_local_recorder(&recorder);
        let breaker = breaker(touchy().with_consecutive_failures(2));
        let (amid, late) = (admitted(&breaker), admitted(&breaker));

        at_once(&breaker, CircuitBreaker::reset, |_| amid.record(FAILURE));
        late.record(FAILURE);

        let (failures, stale) = counted(&recorder);
        assert_eq!(failures + stale, 2);
        assert!(stale >= 1, "the late one");
    });
}

/// How many failures, and how many stale results.
fn counted(recorder: &DebuggingRecorder) -> (u64, u64) {
    let (mut failures, mut stale) = (0, 0);
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let DebugValue::Counter(count) = value else {
            continue;
        };
        let key = key.key();
        if key.labels().any(|label| label.value() == "failure") {
            failures += count;
        } else if key.name() == "steadfast_circuit_breaker_stale_results_total" {
            stale += count;
        }
    }
    (failures, stale)
}

// === Probes ===

#[test]
fn of_two_who_come_after_the_open_time_one_probes() {
    model(|| {
        let breaker = to_be_probed(touchy());
        let heard = Heard::from(&breaker);

        let ask = |breaker: &CircuitBreaker| breaker.admit(None);
        let (mine, others) = at_once(&breaker, ask, ask);

        let refusal = match (&mine, &others) {
            (Ok(_), Err(rejected)) | (Err(rejected), Ok(_)) => rejected.refusal(),
            both => panic!("{both:?}"),
        };
        assert_eq!(refusal, Refusal::Probing);
        assert_eq!(heard.chain(&breaker, State::Open), [State::HalfOpen]);
    });
}

#[test]
fn two_who_come_after_the_open_time_take_two_places() {
    model(|| {
        let breaker = to_be_probed(touchy().with_probes(2, 2));

        let (mine, others) = at_once(&breaker, admitted, admitted);

        assert_eq!(places(&breaker), 0);
        drop((mine, others));
        assert_eq!(places(&breaker), 2);
    });
}

#[test]
fn a_place_that_is_left_while_another_asks_is_neither_lost_nor_doubled() {
    model(|| {
        let breaker = to_be_probed(touchy());
        let probe = admitted(&breaker);

        let ((), others) = at_once(&breaker, |_| drop(probe), |breaker| breaker.admit(None));

        assert_eq!(places(&breaker), usize::from(others.is_err()));
    });
}

#[test]
fn of_probes_that_end_at_once_each_leaves_its_place_and_no_other() {
    for verdict in [None, Some(Verdict::Success), Some(Verdict::Ignored)] {
        model(move || {
            let breaker = to_be_probed(touchy().with_probes(3, 2));
            let _under_way = admitted(&breaker);
            let (mine, others) = (admitted(&breaker), admitted(&breaker));

            at_once(&breaker, |_| drop(mine), move |_| end(others, verdict));

            assert_eq!(places(&breaker), 2);
        });
    }
}

#[test]
fn one_of_two_probes_decides() {
    for other in [Verdict::Success, FAILURE] {
        model(move || {
            let breaker = to_be_probed(touchy().with_probes(2, 1));
            let (mine, others) = (admitted(&breaker), admitted(&breaker));
            let heard = Heard::from(&breaker);

            at_once(
                &breaker,
                |_| mine.record(FAILURE),
                move |_| others.record(other),
            );

            let decided = heard.chain(&breaker, State::HalfOpen);
            assert_eq!(decided.len(), 1);
            assert!(decided == [State::Open] || other == Verdict::Success);
        });
    }
}

#[test]
fn a_late_probe_neither_takes_nor_leaves_a_place_among_later_ones() {
    for verdict in [None, Some(Verdict::Success), Some(FAILURE)] {
        model(move || {
            let breaker = to_be_probed(touchy().with_probes(2, 2));
            let (bad, late) = (admitted(&breaker), admitted(&breaker));
            bad.record(FAILURE);
            pass(OPEN);
            let heard = Heard::from(&breaker);

            let (mine, ()) = at_once(&breaker, admitted, move |_| end(late, verdict));

            assert_eq!(heard.chain(&breaker, State::Open), [State::HalfOpen]);
            assert_eq!(places(&breaker), 1);
            mine.record(Verdict::Success);
            assert_eq!(breaker.state(), State::HalfOpen);
        });
    }
}

#[test]
fn who_asks_whether_a_call_would_pass_takes_no_place() {
    for is_half_open in [false, true] {
        model(move || {
            let breaker = to_be_probed(touchy());
            if is_half_open {
                drop(admitted(&breaker));
            }

            let (would_pass, others) = at_once(
                &breaker,
                |breaker| breaker.shared.would_admit(),
                |breaker| breaker.admit(None),
            );

            assert!(others.is_ok());
            assert_eq!(places(&breaker), 0);
            drop(others);
            assert_eq!(places(&breaker), 1, "{would_pass}");
        });
    }
}

#[test]
fn of_two_who_find_the_probes_silent_one_opens_it_and_none_passes() {
    model(|| {
        let breaker = to_be_probed(touchy());
        let silent = admitted(&breaker);
        let heard = Heard::from(&breaker);
        pass(BreakerConfig::DEFAULT_HALF_OPEN_LIMIT);

        let (would_pass, others) = at_once(
            &breaker,
            |breaker| breaker.shared.would_admit(),
            |breaker| breaker.admit(None),
        );

        assert!(!would_pass);
        assert_eq!(others.unwrap_err().retry_after(), OPEN);
        assert_eq!(heard.chain(&breaker, State::HalfOpen), [State::Open]);
        silent.record(Verdict::Success);
        assert_eq!(breaker.state(), State::Open);
    });
}

fn end(permit: Permit, verdict: Option<Verdict>) {
    match verdict {
        Some(verdict) => permit.record(verdict),
        None => drop(permit),
    }
}

/// How many more probes pass.
fn places(breaker: &CircuitBreaker) -> usize {
    let permits: Vec<Permit> = iter::from_fn(|| breaker.admit(None).ok()).collect();
    permits.len()
}

// === Commands ===

#[test]
fn a_probe_amid_a_command_closes_it_before_or_not_at_all() {
    model(|| {
        let breaker = to_be_probed(touchy());
        let probe = admitted(&breaker);
        let heard = Heard::from(&breaker);

        at_once(&breaker, CircuitBreaker::force_open, |_| {
            probe.record(Verdict::Success)
        });

        let heard = heard.chain(&breaker, State::HalfOpen);
        assert!(matches!(
            &*heard,
            [State::ForcedOpen] | [State::Closed, State::ForcedOpen]
        ));
        assert!(breaker.admit(None).is_err());
    });
}

#[test]
fn who_comes_amid_a_command_probes_before_it_or_not_at_all() {
    model(|| {
        let breaker = to_be_probed(touchy());
        let heard = Heard::from(&breaker);

        let ((), others) = at_once(&breaker, CircuitBreaker::force_open, |breaker| {
            breaker.admit(None)
        });

        let heard = heard.chain(&breaker, State::Open);
        if others.is_ok() {
            assert_eq!(heard, [State::HalfOpen, State::ForcedOpen]);
        } else {
            assert_eq!(heard, [State::ForcedOpen]);
        }
    });
}

// === Who listens ===

#[test]
fn transitions_of_two_threads_are_told_once_each_and_in_order() {
    model(|| {
        let breaker = breaker(touchy());
        let heard = Heard::from(&breaker);

        at_once(
            &breaker,
            |breaker| {
                breaker.force_open();
                breaker.observe_only();
            },
            CircuitBreaker::disable,
        );

        assert_eq!(heard.chain(&breaker, State::Closed).len(), 3);
    });
}

#[test]
fn hooks_are_called_one_at_a_time_and_find_the_breaker_changed() {
    model(|| {
        let breaker = breaker(touchy());
        let found = Arc::new(Mutex::new(Vec::new()));
        let (handle, finds) = (Arc::downgrade(&breaker.shared), Arc::clone(&found));
        let is_inside = AtomicBool::new(false);
        breaker.on_transition(move |_, transition| {
            let was_inside = is_inside.swap(true, Ordering::SeqCst);
            let generation = handle.upgrade().unwrap().gate().generation();
            finds
                .lock()
                .unwrap()
                .push((was_inside, generation, *transition));
            is_inside.store(false, Ordering::SeqCst);
        });

        at_once(
            &breaker,
            CircuitBreaker::force_open,
            CircuitBreaker::disable,
        );

        let found = found.lock().unwrap();
        assert_eq!(found.len(), 2);
        for (&(was_inside, generation, _), made) in found.iter().zip(2..) {
            assert!(!was_inside && generation >= made, "{found:?}");
        }
    });
}

#[test]
fn what_a_hook_causes_is_told_later_in_order_with_what_another_thread_does() {
    model(|| {
        let breaker = breaker(touchy());
        let handle = Arc::downgrade(&breaker.shared);
        breaker.on_transition(move |_, transition| {
            if transition.to() == State::ForcedOpen {
                let shared = handle.upgrade().unwrap();
                shared.command(|machine, _| machine.observe_only());
            }
        });
        let heard = Heard::from(&breaker);

        at_once(
            &breaker,
            CircuitBreaker::force_open,
            CircuitBreaker::disable,
        );

        assert_eq!(heard.chain(&breaker, State::Closed).len(), 3);
    });
}

#[test]
fn a_hook_hears_of_each_transition_that_was_made_after_it_came() {
    model(|| {
        let breaker = breaker(touchy());
        let heard = Heard::from(&breaker);

        let (late, ()) = at_once(
            &breaker,
            |breaker| {
                let late = Heard::from(breaker);
                breaker.force_open();
                late
            },
            CircuitBreaker::disable,
        );

        let (heard, late) = (heard.lock(), late.lock());
        assert!(heard.ends_with(&late));
        assert!(late.iter().any(|told| told.to() == State::ForcedOpen));
    });
}
