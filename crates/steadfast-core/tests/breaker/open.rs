//! How long it is open.

use std::time::Duration;

use steadfast_core::{
    backoff::Sample,
    breaker::{Admission, Counts, Outcome, Reason, Refusal, State},
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};

use crate::support::{Breaker, LIMIT, MOST, NANO, OPEN_FOR, config, millis, seconds};

#[test]
fn a_trip_opens_for_30_s() {
    let mut breaker = Breaker::new(config());

    let transition = breaker.trip().unwrap();

    assert_eq!(transition.from(), State::Closed);
    assert_eq!(transition.to(), State::Open);
    assert_eq!(transition.reason(), Reason::ConsecutiveFailures);
    let counts = Counts {
        calls: 1,
        failures: 1,
    };
    assert_eq!(transition.counts(), counts);
    assert_eq!(transition.open_for(), Some(seconds(30)));
    assert!(!transition.is_hypothetical());
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.generation(), 2);
    assert_eq!(
        breaker.machine.open_until(),
        Some(breaker.now + seconds(30))
    );
}

#[test]
fn a_trip_of_an_earlier_generation_changes_nothing() {
    let mut breaker = Breaker::new(config());
    let earlier = breaker.generation();
    let _probe = breaker.half_open();
    breaker.machine.force_closed(breaker.now).unwrap();
    let generation = breaker.generation();

    assert_eq!(breaker.trip_of(earlier, None), None);
    assert_eq!(breaker.trip_of(generation + 1, None), None);

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.generation(), generation);
}

#[test]
fn while_it_is_open_callers_are_told_what_is_left() {
    let mut breaker = Breaker::new(config());
    breaker.open();

    for (wait, left) in [(0, 30_000), (1, 29_999), (29_998, 1)] {
        breaker.wait(millis(wait));
        let rejection = breaker.rejection();
        assert_eq!(rejection.refusal(), Refusal::Open);
        assert_eq!(rejection.retry_after(), millis(left));
    }
    breaker.wait(millis(1) - NANO);
    assert_eq!(breaker.rejection().retry_after(), NANO);
    assert_eq!(breaker.generation(), 2);
}

#[test]
fn exactly_at_the_end_of_the_open_time_a_call_probes() {
    let mut breaker = Breaker::new(config());
    breaker.open();
    breaker.wait(OPEN_FOR);

    let (admission, transition) = breaker.machine.admit(breaker.now, breaker.chance);

    let transition = transition.unwrap();
    assert_eq!(transition.from(), State::Open);
    assert_eq!(transition.to(), State::HalfOpen);
    assert_eq!(transition.reason(), Reason::OpenTimeOver);
    assert_eq!(transition.counts(), Counts::default());
    assert_eq!(transition.open_for(), None);
    let Admission::Admitted(probe) = admission else {
        panic!("{admission:?}");
    };
    assert!(probe.is_probe());
    assert_eq!(probe.generation(), 3);
    assert_eq!(breaker.generation(), 3);
    assert_eq!(breaker.machine.open_until(), None);
}

#[test]
fn without_growth_each_open_time_is_the_first() {
    let mut breaker = Breaker::new(config().with_open_for(seconds(90)));

    assert_eq!(breaker.open(), seconds(90));
    for _ in 0..20 {
        assert_eq!(breaker.fail_to_come_back(), seconds(90), "no cap counts");
    }
}

#[test]
fn open_times_in_a_row_are_multiplied_up_to_the_cap() {
    let growing = config()
        .with_open_for(seconds(5))
        .with_open_growth(2.0, seconds(60));
    let mut breaker = Breaker::new(growing);

    let mut times = vec![breaker.open()];
    times.extend((0..5).map(|_| breaker.fail_to_come_back()));

    assert_eq!(times, [5, 10, 20, 40, 60, 60].map(seconds));
    for _ in 0..2_000 {
        assert_eq!(breaker.fail_to_come_back(), seconds(60));
    }
}

#[test]
fn a_multiplier_may_be_a_fraction_or_absurd() {
    for (multiplier, second) in [
        (1.5, millis(1_500)),
        (f64::MAX, seconds(7)),
        (1.25, millis(1_250)),
    ] {
        let growing = config()
            .with_open_for(seconds(1))
            .with_open_growth(multiplier, seconds(7));
        let mut breaker = Breaker::new(growing);

        assert_eq!(breaker.open(), seconds(1));
        assert_eq!(breaker.fail_to_come_back(), second);
        for _ in 0..100 {
            breaker.fail_to_come_back();
        }
        assert_eq!(breaker.fail_to_come_back(), seconds(7));
    }
}

#[test]
fn silent_probes_lengthen_the_row_like_failed_ones() {
    let growing = config()
        .with_open_for(seconds(5))
        .with_open_growth(2.0, seconds(60));
    let mut breaker = Breaker::new(growing);
    let _probe = breaker.half_open();

    breaker.wait(LIMIT);
    let (_, transition) = breaker.admit();

    assert_eq!(transition.unwrap().open_for(), Some(seconds(10)));
}

#[test]
fn a_close_that_held_as_long_as_it_had_been_open_ends_the_row() {
    let growing = config()
        .with_open_for(seconds(5))
        .with_open_growth(2.0, seconds(60));
    for (held, next) in [
        (Duration::ZERO, 20),
        (seconds(10) - NANO, 20),
        (seconds(10), 5),
        (seconds(1_000), 5),
    ] {
        let mut breaker = Breaker::new(growing);
        breaker.open();
        assert_eq!(breaker.fail_to_come_back(), seconds(10));
        breaker.now = breaker.machine.open_until().unwrap();
        breaker.close();

        breaker.wait(held);

        assert_eq!(breaker.open(), seconds(next), "it held for {held:?}");
        let after = if next == 5 { 10 } else { 40 };
        assert_eq!(breaker.fail_to_come_back(), seconds(after));
    }
}

#[test]
fn a_close_must_hold_as_long_as_the_destination_asked_for() {
    let growing = config()
        .with_open_for(seconds(5))
        .with_open_growth(2.0, seconds(60));
    for (held, next) in [(seconds(50) - NANO, 10), (seconds(50), 5)] {
        let mut breaker = Breaker::new(growing);
        breaker.trip_with_hint(Some(seconds(50))).unwrap();
        breaker.wait(seconds(50));
        breaker.close();

        breaker.wait(held);

        assert_eq!(breaker.open(), seconds(next));
    }
}

#[test]
fn chance_lengthens_the_open_time_by_up_to_a_tenth() {
    const DRAWS: u64 = 10_000;
    let (mut least, mut most, mut sum) = (Duration::MAX, Duration::ZERO, Duration::ZERO);

    for draw in 0..DRAWS {
        let mut breaker = Breaker::new(config());
        // multiples of an odd number near the golden ratio are spread evenly
        breaker.chance = Sample::new(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let open_for = breaker.open();
        assert_eq!(breaker.machine.open_until(), Some(breaker.now + open_for));
        least = least.min(open_for);
        most = most.max(open_for);
        sum += open_for;
    }

    let mean = sum / DRAWS as u32;
    assert!((seconds(30)..millis(30_003)).contains(&least), "{least:?}");
    assert!((millis(32_997)..=seconds(33)).contains(&most), "{most:?}");
    assert!((millis(31_480)..millis(31_520)).contains(&mean), "{mean:?}");
}

#[test]
fn chance_has_its_bounds_and_may_be_left_out() {
    for (jitter, longest) in [(0.0, 30_000), (0.1, 33_000), (1.0, 60_000)] {
        let mut breaker = Breaker::new(config().with_open_jitter(jitter));
        assert_eq!(breaker.open(), OPEN_FOR);
        breaker.chance = MOST;
        assert_eq!(breaker.fail_to_come_back(), millis(longest));
    }
}

#[test]
fn chance_spreads_capped_open_times_too() {
    let growing = config()
        .with_open_for(seconds(50))
        .with_open_growth(2.0, seconds(60));
    let mut breaker = Breaker::new(growing);
    breaker.chance = MOST;

    assert_eq!(breaker.open(), seconds(55));
    assert_eq!(breaker.fail_to_come_back(), seconds(66));
}

#[test]
fn a_hint_lengthens_the_open_time_up_to_its_cap_and_never_shortens_it() {
    for (hint, cap, open_for) in [
        (Duration::ZERO, 60, 30),
        (seconds(29), 60, 30),
        (seconds(31), 60, 31),
        (seconds(60), 60, 60),
        (seconds(61), 60, 60),
        (Duration::MAX, 60, 60),
        (Duration::MAX, 0, 30),
        (Duration::MAX, 10, 30),
    ] {
        let mut breaker = Breaker::new(config().with_hint_cap(seconds(cap)));

        let transition = breaker.trip_with_hint(Some(hint)).unwrap();

        assert_eq!(transition.open_for(), Some(seconds(open_for)), "{hint:?}");
        assert_eq!(breaker.rejection().retry_after(), seconds(open_for));
    }
}

#[test]
fn chance_and_a_hint_are_not_added() {
    let mut breaker = Breaker::new(config());
    breaker.chance = MOST;

    let asked = |hint| Some(seconds(hint));
    let transition = breaker.trip_with_hint(asked(32)).unwrap();
    assert_eq!(transition.open_for(), asked(33));

    breaker.machine.reset(breaker.now).unwrap();
    let transition = breaker.trip_with_hint(asked(40)).unwrap();
    assert_eq!(transition.open_for(), asked(40));
}

#[test]
fn a_failed_probe_passes_its_hint_on() {
    let asked = |cause, hint| {
        let failure = Failure::new(SafetyClass::NotProcessed, cause).with_hint(hint);
        Verdict::Failure(failure).into()
    };
    for (report, open_for) in [
        (asked(Cause::Fault, Some(Hint::After(seconds(45)))), 45),
        (asked(Cause::Throttled, Some(Hint::After(seconds(45)))), 45),
        (asked(Cause::Throttled, Some(Hint::Stop)), 30),
        (asked(Cause::Fault, None), 30),
    ] {
        let mut breaker = Breaker::new(config());
        let probe = breaker.half_open();

        let transition = breaker.report(probe, &report).unwrap();

        assert_eq!(transition.open_for(), Some(seconds(open_for)));
    }
}

#[test]
fn a_hint_counts_once() {
    let mut breaker = Breaker::new(config());
    breaker.trip_with_hint(Some(seconds(50))).unwrap();

    assert_eq!(breaker.fail_to_come_back(), OPEN_FOR);
}

#[test]
fn a_clock_that_steps_back_lengthens_what_is_left_and_breaks_nothing() {
    let mut breaker = Breaker::new(config());
    breaker.wait(seconds(100));
    breaker.open();
    breaker.now -= seconds(1);

    assert_eq!(breaker.rejection().retry_after(), seconds(31));

    breaker.wait(seconds(31));
    let probe = breaker.probe();
    breaker.now -= seconds(1);
    assert_eq!(breaker.rejection().refusal(), Refusal::Probing);
    assert_eq!(breaker.settle(probe, Outcome::Success), None);
    breaker.close();
}
