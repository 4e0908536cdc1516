//! How it probes.

use std::time::Duration;

use steadfast_core::breaker::{
    Admission, BreakerConfig, Counts, Outcome, Reason, Refusal, Report, State, Window,
};

use crate::support::{Breaker, LIMIT, NANO, OPEN_FOR, config, millis, seconds};

const fn counts(calls: u64, failures: u64) -> Counts {
    Counts { calls, failures }
}

fn probing(config: BreakerConfig) -> Breaker {
    let mut breaker = Breaker::new(config);
    let probe = breaker.half_open();
    assert!(breaker.machine.release(probe.generation()));
    breaker
}

#[test]
fn one_probe_passes_at_a_time() {
    let mut breaker = Breaker::new(config());
    let probe = breaker.half_open();

    let rejection = breaker.rejection();
    assert_eq!(rejection.refusal(), Refusal::Probing);
    assert_eq!(rejection.retry_after(), Duration::ZERO);

    assert_eq!(breaker.settle(probe, Outcome::Success), None);
    let next = breaker.probe();
    assert_eq!(next.generation(), probe.generation());
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
}

#[test]
fn so_many_probes_pass_at_a_time_as_may() {
    for at_a_time in [2, 3, 10] {
        let mut breaker = Breaker::new(config().with_probes(at_a_time, 100));
        let first = breaker.half_open();
        for _ in 1..at_a_time {
            let _probe = breaker.probe();
        }
        assert_eq!(breaker.rejection().refusal(), Refusal::Probing);

        breaker.settle(first, Outcome::Success);
        let _probe = breaker.probe();

        assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    }
}

#[test]
fn three_successes_in_a_row_close_it() {
    let mut breaker = probing(config());
    let generation = breaker.generation();
    for _ in 0..2 {
        let probe = breaker.probe();
        assert_eq!(breaker.settle(probe, Outcome::Success), None);
        assert_eq!(breaker.state(), State::HalfOpen);
    }

    let probe = breaker.probe();
    let transition = breaker.settle(probe, Outcome::Success).unwrap();

    assert_eq!(transition.from(), State::HalfOpen);
    assert_eq!(transition.to(), State::Closed);
    assert_eq!(transition.reason(), Reason::ProbesSucceeded);
    assert_eq!(transition.counts(), counts(3, 0));
    assert_eq!(transition.open_for(), None);
    assert_eq!(breaker.generation(), generation + 1);
    assert!(!breaker.ticket().is_probe());
}

#[test]
fn the_first_probe_that_fails_opens_it_again() {
    for outcome in [Outcome::Failure, Outcome::Throttled] {
        for before in 0..3 {
            let mut breaker = probing(config());
            for _ in 0..before {
                let probe = breaker.probe();
                assert_eq!(breaker.settle(probe, Outcome::Success), None);
            }

            let probe = breaker.probe();
            let transition = breaker.settle(probe, outcome).unwrap();

            assert_eq!(transition.from(), State::HalfOpen);
            assert_eq!(transition.to(), State::Open);
            assert_eq!(transition.reason(), Reason::ProbesFailed);
            assert_eq!(transition.counts(), counts(before + 1, 1));
            assert_eq!(transition.open_for(), Some(OPEN_FOR));
            assert_eq!(breaker.machine.open_until(), Some(breaker.now + OPEN_FOR));
            assert_eq!(breaker.generation(), probe.generation() + 1);
            assert_eq!(breaker.rejection().retry_after(), OPEN_FOR);
        }
    }
}

#[test]
fn successes_of_an_earlier_attempt_to_come_back_do_not_count() {
    let mut breaker = probing(config());
    for _ in 0..2 {
        let probe = breaker.probe();
        breaker.settle(probe, Outcome::Success);
    }
    let probe = breaker.probe();
    breaker.settle(probe, Outcome::Failure).unwrap();

    breaker.wait(OPEN_FOR);

    for _ in 0..2 {
        let probe = breaker.probe();
        assert_eq!(breaker.settle(probe, Outcome::Success), None);
    }
}

#[test]
fn a_slow_success_of_a_probe_is_a_failure() {
    let slow = config()
        .with_probes(1, 1)
        .with_slow_calls(seconds(2), 0.5, Window::Calls(10), 10);
    for (took, to) in [
        (None, State::Closed),
        (Some(seconds(2) - NANO), State::Closed),
        (Some(seconds(2)), State::Open),
        (Some(Duration::MAX), State::Open),
    ] {
        let mut breaker = probing(slow);
        let probe = breaker.probe();

        let report = Report::new(Outcome::Success).with_took(took);
        let transition = breaker.report(probe, &report).unwrap();

        assert_eq!(transition.to(), to, "it took {took:?}");
    }
}

#[test]
fn without_a_rule_for_slow_calls_no_probe_is_slow() {
    let mut breaker = probing(config().with_probes(1, 1));
    let probe = breaker.probe();

    let report = Report::new(Outcome::Success).with_took(Some(Duration::MAX));
    let transition = breaker.report(probe, &report).unwrap();

    assert_eq!(transition.to(), State::Closed);
}

#[test]
fn a_probe_that_tells_nothing_frees_its_place_and_decides_nothing() {
    let free: [fn(&mut Breaker, u64); 2] = [
        |b, generation| assert!(b.machine.release(generation)),
        |b, generation| {
            let ignored = Report::new(Outcome::Ignored).with_took(Some(Duration::MAX));
            let heard = b.machine.settle(generation, &ignored, b.now, b.chance);
            assert_eq!(heard, (true, None));
        },
    ];
    for free in free {
        let slow = config().with_slow_calls(seconds(1), 0.5, Window::Calls(10), 10);
        let mut breaker = probing(slow);
        for _ in 0..20 {
            let probe = breaker.probe();
            assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
            free(&mut breaker, probe.generation());
        }
        for _ in 0..2 {
            let probe = breaker.probe();
            assert_eq!(breaker.settle(probe, Outcome::Success), None);
            let probe = breaker.probe();
            free(&mut breaker, probe.generation());
        }

        let probe = breaker.probe();
        let transition = breaker.settle(probe, Outcome::Success).unwrap();

        assert_eq!(transition.counts(), counts(3, 0));
    }
}

#[test]
fn freeing_a_place_twice_makes_no_second_one() {
    let mut breaker = probing(config());
    let generation = breaker.generation();
    for _ in 0..3 {
        assert!(breaker.machine.release(generation));
    }

    let _probe = breaker.probe();

    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
}

#[test]
fn late_probes_of_an_earlier_generation_change_nothing() {
    let mut breaker = Breaker::new(config().with_probes(3, 3));
    let late = breaker.half_open();
    let _also_late = breaker.probe();
    let failed = breaker.probe();
    breaker.settle(failed, Outcome::Failure).unwrap();
    let open_until = breaker.machine.open_until();

    for round in ["open", "half open", "closed"] {
        let (state, generation) = (breaker.state(), breaker.generation());
        for &outcome in Outcome::ALL {
            let report = Report::new(outcome);
            let heard =
                breaker
                    .machine
                    .settle(late.generation(), &report, breaker.now, breaker.chance);
            assert_eq!(heard, (false, None), "{round}");
        }
        assert!(!breaker.machine.release(late.generation()), "{round}");
        assert_eq!((breaker.state(), breaker.generation()), (state, generation));
        if state == State::Open {
            assert_eq!(breaker.machine.open_until(), open_until);
            breaker.wait(OPEN_FOR);
            for _ in 0..3 {
                let _probe = breaker.probe();
            }
        } else if state == State::HalfOpen {
            assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
            breaker.machine.reset(breaker.now).unwrap();
        } else {
            assert_eq!(state, State::Closed);
        }
    }
}

// === The longest time without a word ===

#[test]
fn a_probe_that_never_ends_opens_it_again_after_the_limit() {
    let mut breaker = Breaker::new(config());
    let probe = breaker.half_open();
    breaker.wait(LIMIT - NANO);
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);

    breaker.wait(NANO);
    let (admission, transition) = breaker.admit();

    let transition = transition.unwrap();
    assert_eq!(transition.from(), State::HalfOpen);
    assert_eq!(transition.to(), State::Open);
    assert_eq!(transition.reason(), Reason::ProbesSilent);
    assert_eq!(transition.counts(), counts(0, 0));
    assert_eq!(transition.open_for(), Some(OPEN_FOR));
    let Admission::Rejected(rejection) = admission else {
        panic!("{admission:?}");
    };
    assert_eq!(rejection.refusal(), Refusal::Open);
    assert_eq!(rejection.retry_after(), OPEN_FOR);
    assert_eq!(breaker.generation(), probe.generation() + 1);

    breaker.wait(OPEN_FOR);
    let next = breaker.probe();
    assert!(!breaker.machine.release(probe.generation()));
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    assert!(next.generation() > probe.generation());
}

#[test]
fn probes_that_are_dropped_again_and_again_open_it_after_the_limit() {
    let mut breaker = probing(config());
    for _ in 0..29 {
        breaker.wait(seconds(1));
        let probe = breaker.probe();
        assert!(breaker.machine.release(probe.generation()));
    }
    breaker.wait(seconds(1));

    let (_, transition) = breaker.admit();

    assert_eq!(transition.unwrap().reason(), Reason::ProbesSilent);
}

#[test]
fn a_success_begins_the_limit_anew() {
    let mut breaker = probing(config());
    let probe = breaker.probe();
    breaker.wait(LIMIT - NANO);
    assert_eq!(breaker.settle(probe, Outcome::Success), None);

    let _silent = breaker.probe();
    breaker.wait(LIMIT - NANO);
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    breaker.wait(NANO);
    let (_, transition) = breaker.admit();

    let transition = transition.unwrap();
    assert_eq!(transition.reason(), Reason::ProbesSilent);
    assert_eq!(transition.counts(), counts(1, 0));
}

#[test]
fn where_calls_are_rare_good_probes_close_it_all_the_same() {
    let mut breaker = probing(config());
    let probe = breaker.probe();
    assert_eq!(breaker.settle(probe, Outcome::Success), None);
    for _ in 0..2 {
        breaker.wait(LIMIT * 10);
        let probe = breaker.probe();
        breaker.wait(LIMIT - NANO);
        assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
        breaker.settle(probe, Outcome::Success);
    }

    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn the_limit_of_a_probe_that_came_after_a_rest_begins_with_it() {
    let mut breaker = probing(config());
    let probe = breaker.probe();
    assert_eq!(breaker.settle(probe, Outcome::Success), None);
    breaker.wait(LIMIT * 10);

    let probe = breaker.probe();
    assert!(breaker.machine.release(probe.generation()));
    breaker.wait(LIMIT - NANO);
    let probe = breaker.probe();
    assert!(breaker.machine.release(probe.generation()));
    breaker.wait(NANO);

    assert_eq!(breaker.admit().1.unwrap().reason(), Reason::ProbesSilent);
}

#[test]
fn probes_beside_one_that_succeeded_have_the_limit_from_then_on() {
    let mut breaker = Breaker::new(config().with_probes(2, 3));
    let _silent = breaker.half_open();
    let good = breaker.probe();
    breaker.wait(LIMIT - NANO);
    assert_eq!(breaker.settle(good, Outcome::Success), None);

    breaker.wait(LIMIT - NANO);
    let probe = breaker.probe();
    assert!(breaker.machine.release(probe.generation()));
    breaker.wait(NANO);

    assert_eq!(breaker.admit().1.unwrap().reason(), Reason::ProbesSilent);
}

#[test]
fn neither_a_failure_nor_a_dropped_probe_begins_the_limit_anew() {
    let mut breaker = probing(config().with_probe_rate(1, 0.5, 10));
    breaker.wait(LIMIT / 2);
    let probe = breaker.probe();
    assert_eq!(breaker.settle(probe, Outcome::Failure), None);
    let probe = breaker.probe();
    assert_eq!(breaker.settle(probe, Outcome::Ignored), None);
    breaker.wait(LIMIT / 2);

    let (_, transition) = breaker.admit();

    let transition = transition.unwrap();
    assert_eq!(transition.reason(), Reason::ProbesSilent);
    assert_eq!(transition.counts(), counts(1, 1));
}

#[test]
fn a_probe_that_ends_after_the_limit_counts_if_nobody_came_meanwhile() {
    let mut breaker = Breaker::new(config().with_probes(1, 1));
    let probe = breaker.half_open();
    breaker.wait(LIMIT * 2);

    let transition = breaker.settle(probe, Outcome::Success).unwrap();

    assert_eq!(transition.to(), State::Closed);
}

#[test]
fn the_limit_may_be_set() {
    let mut breaker = probing(config().with_half_open_limit(millis(10)));
    breaker.wait(millis(10) - NANO);
    let probe = breaker.probe();
    assert!(breaker.machine.release(probe.generation()));
    breaker.wait(NANO);

    assert_eq!(breaker.admit().1.unwrap().reason(), Reason::ProbesSilent);
}

// === A rate of the probes ===

/// Settles probes one after the other; how many it took, and the state they led to.
fn outcomes(rate: f64, calls: u32, outcomes: &[Outcome]) -> (usize, State, Counts) {
    let mut breaker = probing(config().with_probe_rate(1, rate, calls));
    for (settled, &outcome) in outcomes.iter().enumerate() {
        let probe = breaker.probe();
        if let Some(transition) = breaker.settle(probe, outcome) {
            return (settled + 1, breaker.state(), transition.counts());
        }
    }
    panic!("{rate} of {calls} is not concluded by {outcomes:?}");
}

#[test]
fn a_rate_of_failed_probes_opens_it_as_soon_as_no_other_probe_can_change_that() {
    const BAD: Outcome = Outcome::Failure;
    const GOOD: Outcome = Outcome::Success;
    let opened = |calls, failures| (calls as usize, State::Open, counts(calls, failures));

    assert_eq!(outcomes(0.5, 4, &[BAD, BAD]), opened(2, 2));
    assert_eq!(outcomes(0.5, 4, &[GOOD, BAD, GOOD, BAD]).1, State::Open);
    assert_eq!(outcomes(0.5, 4, &[GOOD, GOOD, BAD, BAD]), opened(4, 2));
    assert_eq!(outcomes(0.5, 5, &[BAD, BAD, BAD]), opened(3, 3));
    assert_eq!(outcomes(1.0, 3, &[BAD, BAD, BAD]), opened(3, 3));
    assert_eq!(outcomes(0.000_000_001, 3, &[GOOD, GOOD, BAD]), opened(3, 1));
    assert_eq!(
        outcomes(0.5, 2, &[Outcome::Throttled]),
        opened(1, 1),
        "who throttles a probe is not back"
    );
}

#[test]
fn a_rate_of_good_probes_closes_it_as_soon_as_no_other_probe_can_change_that() {
    const BAD: Outcome = Outcome::Failure;
    const GOOD: Outcome = Outcome::Success;
    let closed = |calls, failures| (calls as usize, State::Closed, counts(calls, failures));

    assert_eq!(outcomes(0.5, 4, &[GOOD, GOOD, GOOD]), closed(3, 0));
    assert_eq!(outcomes(0.5, 4, &[GOOD, BAD, GOOD, GOOD]), closed(4, 1));
    assert_eq!(
        outcomes(0.5, 5, &[BAD, BAD, GOOD, GOOD, GOOD]),
        closed(5, 2)
    );
    assert_eq!(outcomes(1.0, 3, &[BAD, BAD, GOOD]), closed(3, 2));
    assert_eq!(outcomes(1.0, 3, &[GOOD]), closed(1, 0));
    assert_eq!(outcomes(0.1, 3, &[GOOD, GOOD, GOOD]), closed(3, 0));
}

#[test]
fn a_probe_that_hangs_does_not_open_what_the_others_have_decided() {
    let mut breaker = Breaker::new(config().with_probe_rate(10, 0.5, 10));
    let _hangs = breaker.half_open();
    for _ in 0..5 {
        let probe = breaker.probe();
        assert_eq!(breaker.settle(probe, Outcome::Success), None);
    }

    let probe = breaker.probe();
    breaker.settle(probe, Outcome::Success).unwrap();

    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn the_rate_of_probes_is_exact_in_decimals() {
    const CASES: [(f64, u32, u32); 5] = [
        (0.55, 20, 11),
        (0.07, 100, 7),
        (0.29, 100, 29),
        (0.58, 50, 29),
        (0.1, 10, 1),
    ];
    for (rate, calls, enough) in CASES {
        let failures = vec![Outcome::Failure; calls as usize];

        let (settled, state, _) = outcomes(rate, calls, &failures);

        assert_eq!((settled, state), (enough as usize, State::Open), "{rate}");
    }
}

#[test]
fn no_more_probes_pass_than_the_rate_is_of() {
    let mut breaker = Breaker::new(config().with_probe_rate(3, 1.0, 4));
    let mut probes = vec![breaker.half_open(), breaker.probe(), breaker.probe()];
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    for _ in 0..2 {
        breaker.settle(probes.pop().unwrap(), Outcome::Failure);
    }

    probes.push(breaker.probe());

    assert_eq!(
        breaker.rejection().refusal(),
        Refusal::Probing,
        "2 + 2 are 4"
    );
    breaker.settle(probes.pop().unwrap(), Outcome::Ignored);
    probes.push(breaker.probe());
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    breaker.settle(probes.pop().unwrap(), Outcome::Failure);
    assert_eq!(
        breaker.rejection().refusal(),
        Refusal::Probing,
        "3 + 1 are 4"
    );
}
