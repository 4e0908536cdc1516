//! circuit-breaker B14.

use std::time::Duration;

use steadfast_circuit_breaker::{BreakerConfig, CircuitBreaker, InvalidBreaker, State, Window};

use crate::support::{failure, secs};

fn refused(config: BreakerConfig) -> InvalidBreaker {
    CircuitBreaker::with_config("destination", config).unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn the_default_numbers_are_those_of_the_docs() {
    let breaker = CircuitBreaker::new("destination");
    assert_eq!(breaker.config(), &BreakerConfig::default());
    assert_eq!(breaker.name(), "destination");
    let written_out = BreakerConfig::default()
        .with_consecutive_failures(5)
        .with_failure_rate(0.5, Window::Time(secs(30)), 20)
        .with_open_for(secs(30))
        .with_open_growth(1.0, secs(30))
        .with_open_jitter(0.1)
        .with_hint_cap(secs(60))
        .with_probes(1, 3)
        .with_half_open_limit(secs(30))
        .with_least_wait(Duration::from_millis(100));
    assert_eq!(breaker.config(), &written_out);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_refused_with_the_reason() {
    let config = BreakerConfig::default;
    let none = config()
        .without_consecutive_failures()
        .without_failure_rate();
    let rate = |rate, window, minimum| config().with_failure_rate(rate, window, minimum);
    let zero = |setting| InvalidBreaker::Zero { setting };
    let long = |setting| InvalidBreaker::TooLong { setting };
    let ages = BreakerConfig::MAX_TIME + Duration::from_nanos(1);

    for (config, reason) in [
        (none, InvalidBreaker::NeverOpens),
        (
            config().with_consecutive_failures(0),
            zero("consecutive_failures"),
        ),
        (
            rate(0.5, Window::Calls(10), 11),
            InvalidBreaker::Minimum {
                minimum: 11,
                calls: 10,
            },
        ),
        (rate(0.5, Window::Calls(10), 0), zero("minimum")),
        (
            rate(1.1, Window::Calls(10), 10),
            InvalidBreaker::Rate {
                setting: "failure_rate",
                rate: 1.1,
            },
        ),
        (
            rate(0.0, Window::Calls(10), 10),
            InvalidBreaker::Rate {
                setting: "failure_rate",
                rate: 0.0,
            },
        ),
        (
            rate(0.5, Window::Calls(100_001), 10),
            InvalidBreaker::WindowCalls { calls: 100_001 },
        ),
        (
            rate(0.5, Window::Time(Duration::from_millis(9)), 10),
            InvalidBreaker::WindowTime {
                time: Duration::from_millis(9),
            },
        ),
        (
            rate(0.5, Window::Time(secs(3_601)), 10),
            InvalidBreaker::WindowTime { time: secs(3_601) },
        ),
        (
            config().with_slow_calls(secs(0), 0.5, Window::Calls(10), 10),
            zero("slow_calls"),
        ),
        (
            config().with_slow_calls(secs(1), -1.0, Window::Calls(10), 10),
            InvalidBreaker::Rate {
                setting: "slow_calls",
                rate: -1.0,
            },
        ),
        (config().with_open_for(secs(0)), zero("open_for")),
        (config().with_open_for(ages), long("open_for")),
        (
            config().with_open_growth(0.5, secs(60)),
            InvalidBreaker::Multiplier { multiplier: 0.5 },
        ),
        (
            config().with_open_growth(f64::INFINITY, secs(60)),
            InvalidBreaker::Multiplier {
                multiplier: f64::INFINITY,
            },
        ),
        (
            config().with_open_growth(2.0, secs(29)),
            InvalidBreaker::CapBelowOpenTime {
                open_for: secs(30),
                cap: secs(29),
            },
        ),
        (
            config().with_open_jitter(1.5),
            InvalidBreaker::Jitter { jitter: 1.5 },
        ),
        (
            config().with_open_jitter(-0.1),
            InvalidBreaker::Jitter { jitter: -0.1 },
        ),
        (config().with_hint_cap(ages), long("hint_cap")),
        (config().with_probes(0, 3), zero("probes_at_a_time")),
        (config().with_probes(1, 0), zero("probe_successes")),
        (
            config().with_probe_rate(1, 2.0, 10),
            InvalidBreaker::Rate {
                setting: "probe_rate",
                rate: 2.0,
            },
        ),
        (
            config().with_probe_rate(11, 0.5, 10),
            InvalidBreaker::ProbeCalls {
                calls: 10,
                at_a_time: 11,
            },
        ),
        (
            config().with_half_open_limit(secs(0)),
            zero("half_open_limit"),
        ),
        (config().with_half_open_limit(ages), long("half_open_limit")),
        (config().with_least_wait(ages), long("least_wait")),
    ] {
        assert_eq!(refused(config), reason);
        let text = reason.to_string();
        assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
    }

    let nothing = f64::NAN;
    assert!(matches!(
        refused(config().with_open_jitter(nothing)),
        InvalidBreaker::Jitter { .. }
    ));
    assert!(matches!(
        refused(config().with_open_growth(nothing, secs(60))),
        InvalidBreaker::Multiplier { .. }
    ));
    assert!(matches!(
        refused(rate(nothing, Window::Calls(10), 10)),
        InvalidBreaker::Rate { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn the_outermost_numbers_that_can_work_do() {
    let config = BreakerConfig::default()
        .with_consecutive_failures(u32::MAX)
        .with_failure_rate(1.0, Window::Calls(BreakerConfig::MAX_WINDOW_CALLS), 1)
        .with_open_for(BreakerConfig::MAX_TIME)
        .with_open_growth(f64::MAX, BreakerConfig::MAX_TIME)
        .with_open_jitter(1.0)
        .with_hint_cap(BreakerConfig::MAX_TIME)
        .with_probes(u32::MAX, u32::MAX)
        .with_half_open_limit(BreakerConfig::MAX_TIME);
    let breaker = CircuitBreaker::with_config("destination", config).unwrap();

    for _ in 0..3 {
        breaker.admit(None).unwrap().record(failure());
        assert_eq!(breaker.state(), State::Open);
        let left = breaker.snapshot().open_left();
        assert!(left >= BreakerConfig::MAX_TIME);
        assert!(left <= BreakerConfig::MAX_TIME * 2);
        tokio::time::advance(left).await;
    }
}
