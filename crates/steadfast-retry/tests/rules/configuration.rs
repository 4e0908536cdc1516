//! retry R15.

use std::{error::Error, time::Duration};

use steadfast_retry::{
    Backoff, Budget, ConfigError, InvalidBackoff, InvalidBudget, Jitter, RetryConfig, RetryLayer,
};

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

fn config() -> RetryConfig {
    RetryConfig::default()
}

/// Every mode of the layer refuses the same.
#[track_caller]
fn refused(config: RetryConfig) -> ConfigError {
    let http = RetryLayer::http().with_config(config.clone()).unwrap_err();
    let grpc = RetryLayer::grpc().with_config(config.clone()).unwrap_err();
    let custom = RetryLayer::new(()).with_config(config).unwrap_err();
    assert_eq!(http, grpc);
    assert_eq!(http, custom);
    http
}

#[track_caller]
fn accepted(config: RetryConfig) {
    assert!(RetryLayer::http().with_config(config.clone()).is_ok());
    assert!(RetryLayer::grpc().with_config(config.clone()).is_ok());
    assert!(RetryLayer::new(()).with_config(config).is_ok());
}

#[track_caller]
fn refused_backoff(backoff: Backoff) -> InvalidBackoff {
    let error = refused(config().with_backoff(backoff));
    assert_eq!(error.to_string(), "the backoff cannot work");
    let source = error.source().unwrap().downcast_ref();
    let source: &InvalidBackoff = source.unwrap();
    assert_eq!(error, ConfigError::Backoff(source.clone()));
    source.clone()
}

#[track_caller]
fn accepted_backoff(backoff: Backoff) {
    accepted(config().with_backoff(backoff));
}

#[test]
fn the_default_configuration_can_work() {
    accepted(config());
}

#[test]
fn no_attempt_is_refused() {
    let error = refused(config().with_max_attempts(0));

    assert_eq!(error, ConfigError::NoAttempt);
    assert_eq!(error.to_string(), "max_attempts is 0; 1 disables retries");
    assert!(error.source().is_none());
    accepted(config().with_max_attempts(1));
    accepted(config().with_max_attempts(u32::MAX));
}

#[test]
fn a_time_of_zero_is_refused() {
    let zero = Duration::ZERO;
    for (setting, with_zero, with_least) in [
        (
            "attempt_timeout",
            config().with_attempt_timeout(zero),
            config().with_attempt_timeout(NANOSECOND),
        ),
        (
            "deadline",
            config().with_deadline(zero),
            config()
                .with_deadline(NANOSECOND)
                .with_min_attempt_time(zero),
        ),
        (
            "body_idle_timeout",
            config().with_body_idle_timeout(zero),
            config().with_body_idle_timeout(NANOSECOND),
        ),
        (
            "hint_cap",
            config().with_hint_cap(zero),
            config().with_hint_cap(NANOSECOND),
        ),
    ] {
        let error = refused(with_zero);

        assert_eq!(error, ConfigError::Zero { setting });
        assert_eq!(error.to_string(), format!("{setting} is zero"));
        accepted(with_least);
    }
    accepted(config().with_min_attempt_time(zero));
}

#[test]
fn times_may_be_as_long_as_a_time_can_be() {
    accepted(
        config()
            .with_attempt_timeout(Duration::MAX)
            .with_deadline(Duration::MAX)
            .with_body_idle_timeout(Duration::MAX)
            .with_hint_cap(Duration::MAX),
    );
}

#[test]
fn an_attempt_longer_than_its_call_is_refused() {
    let error = refused(
        config()
            .with_attempt_timeout(SECOND + NANOSECOND)
            .with_deadline(SECOND),
    );

    assert_eq!(
        error,
        ConfigError::AttemptPastDeadline {
            attempt: SECOND + NANOSECOND,
            deadline: SECOND,
        }
    );
    assert_eq!(
        error.to_string(),
        "one attempt may take 1.000000001s, longer than the whole call with 1s"
    );
    accepted(config().with_attempt_timeout(SECOND).with_deadline(SECOND));
}

#[test]
fn a_call_that_leaves_no_time_for_a_further_attempt_is_refused() {
    let millisecond = Duration::from_millis(1);

    let error = refused(config().with_deadline(millisecond));

    assert_eq!(
        error,
        ConfigError::MinAttemptTime {
            min_attempt_time: millisecond,
            limit: millisecond,
        }
    );
    assert_eq!(
        error.to_string(),
        "1ms are never left of 1ms when a further attempt starts"
    );
    accepted(config().with_deadline(millisecond + NANOSECOND));
}

#[test]
fn a_pool_smaller_than_one_body_is_refused() {
    let error = refused(config().with_replay_limit(101).with_replay_pool(100));

    assert_eq!(
        error,
        ConfigError::ReplayPool {
            pool: 100,
            limit: 101,
        }
    );
    assert_eq!(
        error.to_string(),
        "a pool of 100 bytes cannot hold one request body of 101 bytes"
    );
    accepted(config().with_replay_limit(100).with_replay_pool(100));
    accepted(config().with_replay_limit(0).with_replay_pool(0));
}

#[test]
fn what_is_not_the_path_of_a_grpc_method_is_refused() {
    for path in [
        "",
        "/",
        "//",
        "Make",
        "/Make",
        "things.Things/Make",
        "/things.Things/",
        "//Make",
        "/things.Things//Make",
        "/things.Things/Make/",
        "/things Things/Make",
        "/things.Things/Make?x",
        "/things.Things/*",
        "http://destination.test/things.Things/Make",
    ] {
        let error = refused(config().with_idempotent_grpc_methods(["/a.B/C", path]));

        let expected = ConfigError::GrpcMethod {
            path: path.to_owned(),
        };
        assert_eq!(error, expected);
        assert_eq!(
            error.to_string(),
            format!("{path:?} is not the path of a gRPC method, /package.Service/Method")
        );
    }
    let paths = [
        "/Things/Make",
        "/things.v1.Things/Make_2",
        "/prefix/things.Things/Make",
    ];
    accepted(config().with_idempotent_grpc_methods(paths));
    accepted(config().with_idempotent_grpc_methods(Vec::<String>::new()));
}

#[test]
fn a_base_above_its_cap_is_refused() {
    let (base, cap) = (SECOND + NANOSECOND, SECOND);

    let error = refused_backoff(Backoff::exponential(base, cap));

    assert_eq!(error, InvalidBackoff::BaseAboveCap { base, cap });
    assert_eq!(
        error.to_string(),
        "base of 1.000000001s above the cap of 1s: every delay would be the cap"
    );
    accepted_backoff(Backoff::exponential(SECOND, SECOND));
}

#[test]
fn a_base_of_zero_is_refused() {
    let error = refused_backoff(Backoff::exponential(Duration::ZERO, SECOND));

    assert_eq!(error, InvalidBackoff::BaseZero);
    assert!(error.to_string().starts_with("base of zero: "), "{error}");
    accepted_backoff(Backoff::exponential(NANOSECOND, SECOND));
    accepted_backoff(Backoff::constant(Duration::ZERO));
    accepted_backoff(Backoff::custom(|_| Duration::ZERO));
}

#[test]
fn a_multiplier_that_lets_delays_shrink_or_is_no_number_is_refused() {
    for multiplier in [0.0, -2.0, 0.999, f64::INFINITY, f64::NAN] {
        let backoff = Backoff::default().with_multiplier(multiplier);

        let error = refused_backoff_of_any_number(backoff);

        let start = format!("multiplier of {multiplier}: ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    for multiplier in [1.0, 1.5, f64::MAX] {
        accepted_backoff(Backoff::default().with_multiplier(multiplier));
    }
}

#[test]
fn a_jitter_ratio_outside_its_range_is_refused() {
    for ratio in [0.0, -0.1, 1.001, f64::INFINITY, f64::NAN] {
        let backoff = Backoff::default().with_jitter(Jitter::Ratio(ratio));

        let error = refused_backoff_of_any_number(backoff);

        let start = format!("jitter ratio of {ratio}: ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    for ratio in [f64::MIN_POSITIVE, 0.5, 1.0] {
        accepted_backoff(Backoff::default().with_jitter(Jitter::Ratio(ratio)));
    }
}

/// An error about a number that is none is not equal to itself.
fn refused_backoff_of_any_number(backoff: Backoff) -> Box<dyn Error> {
    let error = RetryLayer::http()
        .with_config(config().with_backoff(backoff))
        .unwrap_err();
    let ConfigError::Backoff(invalid) = error else {
        panic!("{error}");
    };
    invalid.into()
}

#[test]
fn decorrelated_jitter_without_a_base_is_refused() {
    for backoff in [Backoff::constant(SECOND), Backoff::custom(|_| SECOND)] {
        let error = refused_backoff(backoff.with_jitter(Jitter::Decorrelated));

        assert_eq!(error, InvalidBackoff::Decorrelated);
        let start = "decorrelated jitter without an exponential backoff: ";
        assert!(error.to_string().starts_with(start), "{error}");
    }
    accepted_backoff(Backoff::default().with_jitter(Jitter::Decorrelated));
}

#[test]
fn a_budget_that_cannot_work_is_refused() {
    for (ratio, floor) in [
        (-0.1, 10),
        (10.001, 10),
        (f64::INFINITY, 10),
        (f64::NAN, 10),
    ] {
        let error = Budget::ratio(ratio, floor).unwrap_err();
        let start = format!("budget of {ratio} retries per request: ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    assert_eq!(Budget::ratio(0.0, 0).unwrap_err(), InvalidBudget::NoRetries);
    for (ratio, floor) in [(0.0, 1), (0.001, 0), (10.0, u32::MAX)] {
        assert!(Budget::ratio(ratio, floor).is_ok());
    }

    for max_tokens in [0, 1001] {
        let error = Budget::grpc_throttle(max_tokens, 0.1).unwrap_err();
        assert_eq!(error, InvalidBudget::MaxTokens { max_tokens });
    }
    for token_ratio in [0.0, -1.0, 0.0009, f64::INFINITY, f64::NAN] {
        let error = Budget::grpc_throttle(10, token_ratio).unwrap_err();
        let start = format!("token ratio of {token_ratio}: ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    for (max_tokens, token_ratio) in [(1, 0.001), (1000, 1000.0)] {
        assert!(Budget::grpc_throttle(max_tokens, token_ratio).is_ok());
    }
}

#[test]
fn a_patience_that_leaves_no_time_for_a_further_attempt_is_refused() {
    let second = Duration::from_secs(1);
    let impatient = config().with_patience(second).with_min_attempt_time(second);

    assert_eq!(
        refused(impatient.clone()),
        ConfigError::MinAttemptTime {
            min_attempt_time: second,
            limit: second,
        }
    );
    assert_eq!(
        refused(config().with_patience(Duration::ZERO)),
        ConfigError::Zero {
            setting: "patience"
        }
    );
    let with_deadline = impatient.with_deadline(2 * second);
    assert!(RetryLayer::http().with_config(with_deadline).is_ok());
}
