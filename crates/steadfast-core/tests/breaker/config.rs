//! Which numbers are refused, and why.

use std::time::Duration;

use steadfast_core::breaker::{BreakerConfig, InvalidBreaker, Rules, Window};

use crate::support::{NANO, config, millis, seconds};

const YEAR: Duration = BreakerConfig::MAX_TIME;
const WINDOW: Window = Window::Calls(10);

/// A rate's name, and a breaker that has it.
type Setting = (&'static str, fn(f64) -> BreakerConfig);

fn refused(config: BreakerConfig, reason: InvalidBreaker, text: &str) {
    let invalid = Rules::new(config).unwrap_err();

    assert_eq!(invalid, reason);
    assert_eq!(invalid.to_string(), text);
}

fn zero(config: BreakerConfig, setting: &'static str) {
    let text = format!("{setting} is zero");
    refused(config, InvalidBreaker::Zero { setting }, &text);
}

fn too_long(config: BreakerConfig, setting: &'static str) {
    let text = format!("{setting} is longer than 365 days");
    refused(config, InvalidBreaker::TooLong { setting }, &text);
}

#[test]
fn the_defaults_work_and_are_those_of_the_documents() {
    assert_eq!(Rules::default(), Rules::new(config()).unwrap());
    assert_eq!(*Rules::default().config(), config());
    let spelled_out = config()
        .with_consecutive_failures(5)
        .with_failure_rate(0.5, Window::Time(seconds(30)), 20)
        .with_open_for(seconds(30))
        .with_open_growth(1.0, seconds(30))
        .with_open_jitter(0.1)
        .with_hint_cap(seconds(60))
        .with_probes(1, 3)
        .with_half_open_limit(seconds(30))
        .with_least_wait(millis(100));
    assert_eq!(config(), spelled_out);
}

#[test]
fn a_breaker_that_never_opens_is_refused() {
    let none = config()
        .without_consecutive_failures()
        .without_failure_rate();
    refused(
        none,
        InvalidBreaker::NeverOpens,
        "no rule would ever open the breaker",
    );

    for one in [
        none.with_consecutive_failures(1),
        none.with_failure_rate(0.5, WINDOW, 1),
        none.with_slow_calls(NANO, 0.5, WINDOW, 1),
    ] {
        Rules::new(one).unwrap();
    }
}

#[test]
fn no_number_may_be_zero() {
    let slow =
        |threshold, window, minimum| config().with_slow_calls(threshold, 1.0, window, minimum);

    zero(
        config().with_consecutive_failures(0),
        "consecutive_failures",
    );
    zero(config().with_failure_rate(1.0, WINDOW, 0), "minimum");
    zero(slow(NANO, WINDOW, 0), "minimum");
    zero(slow(Duration::ZERO, WINDOW, 1), "slow_calls");
    zero(config().with_open_for(Duration::ZERO), "open_for");
    zero(config().with_open_growth(1.0, Duration::ZERO), "open_cap");
    zero(config().with_probes(0, 1), "probes_at_a_time");
    zero(config().with_probe_rate(0, 1.0, 1), "probes_at_a_time");
    zero(config().with_probes(1, 0), "probe_successes");
    zero(
        config().with_half_open_limit(Duration::ZERO),
        "half_open_limit",
    );
}

#[test]
fn ones_are_enough() {
    let least = config()
        .with_consecutive_failures(1)
        .with_failure_rate(1e-9, Window::Calls(1), 1)
        .with_slow_calls(NANO, 1e-9, Window::Time(millis(10)), 1)
        .with_open_for(NANO)
        .with_open_growth(1.0, NANO)
        .with_open_jitter(0.0)
        .with_hint_cap(Duration::ZERO)
        .with_half_open_limit(NANO)
        .with_least_wait(Duration::ZERO);

    Rules::new(least.with_probes(1, 1)).unwrap();
    Rules::new(least.with_probe_rate(1, 1e-9, 1)).unwrap();
}

#[test]
fn no_time_is_longer_than_a_year() {
    let most = config()
        .with_consecutive_failures(u32::MAX)
        .with_failure_rate(1.0, Window::Time(BreakerConfig::MAX_WINDOW_TIME), u32::MAX)
        .with_slow_calls(YEAR, 1.0, Window::Calls(100_000), 100_000)
        .with_open_for(YEAR)
        .with_open_growth(f64::MAX, YEAR)
        .with_open_jitter(1.0)
        .with_hint_cap(YEAR)
        .with_half_open_limit(YEAR)
        .with_least_wait(YEAR);
    Rules::new(most.with_probes(u32::MAX, u32::MAX)).unwrap();
    Rules::new(most.with_probe_rate(u32::MAX, 1.0, u32::MAX)).unwrap();

    let more = YEAR + NANO;
    too_long(config().with_slow_calls(more, 1.0, WINDOW, 1), "slow_calls");
    too_long(config().with_open_for(more), "open_for");
    too_long(config().with_open_growth(1.0, more), "open_cap");
    too_long(config().with_hint_cap(more), "hint_cap");
    too_long(config().with_hint_cap(Duration::MAX), "hint_cap");
    too_long(config().with_half_open_limit(more), "half_open_limit");
    too_long(config().with_least_wait(more), "least_wait");
}

#[test]
fn a_rate_is_a_part_of_the_calls() {
    let set: [Setting; 3] = [
        ("failure_rate", |rate| {
            config().with_failure_rate(rate, WINDOW, 1)
        }),
        ("slow_calls", |rate| {
            config().with_slow_calls(NANO, rate, WINDOW, 1)
        }),
        ("probe_rate", |rate| config().with_probe_rate(1, rate, 1)),
    ];
    for (setting, with) in set {
        for rate in [0.0, -0.5, 0.9e-9, 1.000_000_1, 50.0, f64::INFINITY] {
            let text = format!("{setting} of {rate}: it must be a number from 0.000000001 to 1");
            refused(with(rate), InvalidBreaker::Rate { setting, rate }, &text);
        }
        let invalid = Rules::new(with(f64::NAN)).unwrap_err();
        let text = format!("{setting} of NaN: it must be a number from 0.000000001 to 1");
        assert_eq!(invalid.to_string(), text);
        for rate in [1e-9, 0.5, 1.0] {
            Rules::new(with(rate)).unwrap();
        }
    }
}

#[test]
fn a_minimum_above_the_calls_of_a_window_is_refused() {
    let with = |calls, minimum| config().with_failure_rate(0.5, Window::Calls(calls), minimum);
    let (minimum, calls) = (11, 10);
    refused(
        with(calls, minimum),
        InvalidBreaker::Minimum { minimum, calls },
        "a window of 10 calls never has the minimum of 11",
    );
    refused(
        config().with_slow_calls(NANO, 0.5, Window::Calls(0), 1),
        InvalidBreaker::Minimum {
            minimum: 1,
            calls: 0,
        },
        "a window of 0 calls never has the minimum of 1",
    );

    Rules::new(with(10, 10)).unwrap();
}

#[test]
fn a_window_has_its_bounds() {
    let with = |window| config().with_failure_rate(0.5, window, 1);
    refused(
        with(Window::Calls(100_001)),
        InvalidBreaker::WindowCalls { calls: 100_001 },
        "a window of 100001 calls: it may have 100000 at most",
    );
    let time = millis(10) - NANO;
    refused(
        with(Window::Time(time)),
        InvalidBreaker::WindowTime { time },
        "a window of 9.999999ms: it must have from 10ms to 3600s",
    );
    refused(
        with(Window::Time(Duration::ZERO)),
        InvalidBreaker::WindowTime {
            time: Duration::ZERO,
        },
        "a window of 0ns: it must have from 10ms to 3600s",
    );

    let time = BreakerConfig::MAX_WINDOW_TIME + NANO;
    refused(
        with(Window::Time(time)),
        InvalidBreaker::WindowTime { time },
        "a window of 3600.000000001s: it must have from 10ms to 3600s",
    );

    Rules::new(with(Window::Calls(100_000))).unwrap();
    Rules::new(with(Window::Time(BreakerConfig::MAX_WINDOW_TIME))).unwrap();
    Rules::new(with(Window::Time(millis(10)))).unwrap();
}

#[test]
fn open_times_grow_to_a_cap_above_the_first() {
    let growing = |multiplier, cap| {
        config()
            .with_open_for(seconds(5))
            .with_open_growth(multiplier, cap)
    };
    refused(
        growing(2.0, seconds(4)),
        InvalidBreaker::CapBelowOpenTime {
            open_for: seconds(5),
            cap: seconds(4),
        },
        "open times that start at 5s cannot be capped at 4s",
    );
    for multiplier in [0.999, 0.0, -1.0, f64::INFINITY] {
        let text = format!("multiplier of {multiplier}: it must be a finite number of at least 1");
        refused(
            growing(multiplier, seconds(60)),
            InvalidBreaker::Multiplier { multiplier },
            &text,
        );
    }
    let invalid = Rules::new(growing(f64::NAN, seconds(60))).unwrap_err();
    assert!(matches!(invalid, InvalidBreaker::Multiplier { .. }));

    Rules::new(growing(2.0, seconds(5))).unwrap();
    Rules::new(growing(1.0, seconds(4))).unwrap();
}

#[test]
fn jitter_is_a_part_of_the_open_time() {
    for jitter in [-0.1, 1.1, f64::INFINITY] {
        let text = format!("jitter of {jitter}: it must be a number from 0 to 1");
        let reason = InvalidBreaker::Jitter { jitter };
        refused(config().with_open_jitter(jitter), reason, &text);
    }
    assert!(Rules::new(config().with_open_jitter(f64::NAN)).is_err());
}

#[test]
fn more_probes_at_a_time_than_altogether_are_refused() {
    refused(
        config().with_probe_rate(3, 0.5, 2),
        InvalidBreaker::ProbeCalls {
            calls: 2,
            at_a_time: 3,
        },
        "3 probes at a time are more than 2 altogether",
    );
    refused(
        config().with_probe_rate(1, 0.5, 0),
        InvalidBreaker::ProbeCalls {
            calls: 0,
            at_a_time: 1,
        },
        "1 probes at a time are more than 0 altogether",
    );

    Rules::new(config().with_probe_rate(2, 0.5, 2)).unwrap();
}
