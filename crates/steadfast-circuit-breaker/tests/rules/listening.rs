//! circuit-breaker B12: who listens.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use steadfast_circuit_breaker::{CircuitBreaker, Counts, Reason, State, Transition, Verdict};
use tokio::time::advance;

use crate::support::{NAME, Site, Step, breaker, failure, ok, record, secs, steady};

type Heard = Arc<Mutex<Vec<(State, State)>>>;

fn listen(breaker: &CircuitBreaker) -> Heard {
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    breaker.on_transition(move |name, transition| {
        assert_eq!(name, NAME);
        let change = (transition.from(), transition.to());
        hears.lock().unwrap().push(change);
    });
    heard
}

#[tokio::test(start_paused = true)]
async fn a_hook_hears_each_transition_once_in_order_and_with_its_reason() {
    let site = Site::http(steady(), [ok()]);
    let heard = Arc::new(Mutex::new(Vec::<Transition>::new()));
    let hears = Arc::clone(&heard);
    site.breaker
        .on_transition(move |_, transition| hears.lock().unwrap().push(*transition));

    site.recover().await;
    site.script.play(crate::support::broken());
    site.get().await;
    advance(secs(30)).await;
    site.script.play(ok());
    for _ in 0..3 {
        site.get().await;
    }
    site.breaker.disable();

    let heard = heard.lock().unwrap().clone();
    let told = |transition: &Transition| {
        let counts = transition.counts();
        (
            transition.from(),
            transition.to(),
            transition.reason(),
            (counts.calls, counts.failures),
            transition.open_for(),
        )
    };
    let open_for = Some(secs(30));
    assert_eq!(
        heard.iter().map(told).collect::<Vec<_>>(),
        [
            (
                State::Closed,
                State::Open,
                Reason::ConsecutiveFailures,
                (5, 5),
                open_for
            ),
            (
                State::Open,
                State::HalfOpen,
                Reason::OpenTimeOver,
                (0, 0),
                None
            ),
            (
                State::HalfOpen,
                State::Open,
                Reason::ProbesFailed,
                (1, 1),
                open_for
            ),
            (
                State::Open,
                State::HalfOpen,
                Reason::OpenTimeOver,
                (0, 0),
                None
            ),
            (
                State::HalfOpen,
                State::Closed,
                Reason::ProbesSucceeded,
                (3, 0),
                None
            ),
            (State::Closed, State::Disabled, Reason::ByHand, (0, 0), None),
        ]
    );
    assert!(heard.iter().all(|each| !each.is_hypothetical()));
}

#[tokio::test(start_paused = true)]
async fn a_rate_tells_what_it_had_counted() {
    let breaker = breaker(steady().without_consecutive_failures());
    let counts = Arc::new(Mutex::new(None));
    let hears = Arc::clone(&counts);
    breaker.on_transition(move |_, transition| {
        *hears.lock().unwrap() = Some((transition.reason(), transition.counts()));
    });
    for call in 0..20 {
        record(
            &breaker,
            if call < 8 {
                Verdict::Success
            } else {
                failure()
            },
        );
    }

    let expected = Counts {
        calls: 20,
        failures: 12,
    };
    assert_eq!(
        *counts.lock().unwrap(),
        Some((Reason::FailureRate, expected))
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_the_present_state_and_wakes_with_each_change() {
    let site = Site::http(steady(), [ok()]);
    let mut watch = site.breaker.subscribe();
    assert_eq!(*watch.borrow_and_update(), State::Closed);

    site.trip();
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), State::Open);
    assert_eq!(*site.breaker.subscribe().borrow(), State::Open);

    site.breaker.force_closed();
    site.breaker.force_open();
    assert_eq!(*watch.borrow_and_update(), State::ForcedOpen, "it may skip");
    assert!(!watch.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_watch_can_be_waited_on_for_a_state() {
    let breaker = breaker(steady());
    let mut watch = breaker.subscribe();
    let waiting = tokio::spawn(async move {
        let state = watch.wait_for(|state| *state == State::Open).await;
        *state.unwrap()
    });
    while let Ok(permit) = breaker.admit(None) {
        permit.record(failure());
    }
    assert_eq!(waiting.await.unwrap(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_its_breaker_and_tells_so() {
    let breaker = breaker(steady());
    let mut watch = breaker.subscribe();
    drop(breaker);
    assert!(watch.changed().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_hook_finds_the_watch_and_the_state_changed() {
    let breaker = breaker(steady());
    let watch = breaker.subscribe();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (sees, handle) = (Arc::clone(&seen), breaker.clone());
    breaker.on_transition(move |_, _| {
        let states = (*watch.borrow(), handle.state(), handle.snapshot().state());
        sees.lock().unwrap().push(states);
    });

    breaker.force_open();

    let forced = State::ForcedOpen;
    assert_eq!(*seen.lock().unwrap(), [(forced, forced, forced)]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_use_the_breaker_and_hears_later_of_what_it_causes() {
    let breaker = breaker(steady());
    let handle = breaker.clone();
    let is_inside = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&is_inside);
    breaker.on_transition(move |_, transition| {
        assert!(!inside.swap(true, Ordering::SeqCst), "one at a time");
        match transition.to() {
            State::Open => {
                assert!(handle.admit(None).is_err());
                handle.force_closed();
                handle.admit(None).unwrap().record(failure());
                handle.on_transition(|_, _| {});
                drop(handle.subscribe());
                handle.force_open();
            }
            State::ForcedOpen => handle.reset(),
            State::Closed | State::HalfOpen | State::Disabled | State::ObserveOnly | _ => {}
        }
        inside.store(false, Ordering::SeqCst);
    });
    let heard = listen(&breaker);

    while breaker.state() == State::Closed && heard.lock().unwrap().is_empty() {
        record(&breaker, failure());
    }

    assert_eq!(
        *heard.lock().unwrap(),
        [
            (State::Closed, State::Open),
            (State::Open, State::Closed),
            (State::Closed, State::ForcedOpen),
            (State::ForcedOpen, State::Closed),
        ]
    );
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(*breaker.subscribe().borrow(), State::Closed);
    assert!(!is_inside.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_harms_nothing() {
    let site = Site::http(steady(), [ok()]);
    let before = listen(&site.breaker);
    site.breaker.on_transition(|_, _| panic!("it goes wrong"));
    let after = listen(&site.breaker);
    let watch = site.breaker.subscribe();

    site.recover().await;
    for _ in 0..3 {
        assert_eq!(site.status().await, 200);
    }

    let expected = [
        (State::Closed, State::Open),
        (State::Open, State::HalfOpen),
        (State::HalfOpen, State::Closed),
    ];
    assert_eq!(*before.lock().unwrap(), expected);
    assert_eq!(*after.lock().unwrap(), expected);
    assert_eq!(*watch.borrow(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_hook_hears_nothing_of_what_was_before() {
    let breaker = breaker(steady());
    breaker.force_open();
    let heard = listen(&breaker);
    assert!(heard.lock().unwrap().is_empty());
    breaker.force_closed();
    assert_eq!(*heard.lock().unwrap(), [(State::ForcedOpen, State::Closed)]);
}

#[test]
fn two_threads_that_change_it_at_once_are_told_of_in_one_order() {
    const CHANGES: usize = 20_000;
    let breaker = breaker(steady());
    let heard = listen(&breaker);

    std::thread::scope(|scope| {
        for number in 0..2 {
            let breaker = &breaker;
            scope.spawn(move || {
                for _ in 0..CHANGES {
                    match number {
                        0 => breaker.force_open(),
                        _ => breaker.disable(),
                    }
                    breaker.reset();
                }
            });
        }
    });

    let heard = heard.lock().unwrap();
    assert!(heard.len() >= 2 && heard.len() <= 4 * CHANGES);
    let mut state = State::Closed;
    for (from, to) in heard.iter() {
        assert_eq!(*from, state, "none is missing, and none is out of order");
        assert_ne!(from, to);
        state = *to;
    }
    assert_eq!(state, breaker.state());
    assert_eq!(*breaker.subscribe().borrow(), state);
}

#[tokio::test(start_paused = true)]
async fn no_lock_is_held_while_a_hook_runs() {
    let site = Site::http(steady(), [Step::Hang]);
    let (handle, layer, script) = (
        site.breaker.clone(),
        site.layer.clone(),
        site.script.clone(),
    );
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    site.breaker.on_transition(move |_, transition| {
        if transition.to() != State::Open {
            return;
        }
        let (breaker, layer, script) = (handle.clone(), layer.clone(), script.clone());
        let is_done = Arc::clone(&is_done);
        // Another thread, for which no lock is its own.
        std::thread::spawn(move || {
            breaker.force_closed();
            drop(breaker.admit(None).unwrap());
            breaker.on_transition(|_, _| {});
            drop((breaker.subscribe(), breaker.snapshot()));
            drop(tower::Layer::layer(&layer, script));
            is_done.store(true, Ordering::SeqCst);
        })
        .join()
        .unwrap();
    });

    site.trip_once();

    assert!(done.load(Ordering::SeqCst));
    assert_eq!(site.breaker.state(), State::Closed);
}
