use std::{error::Error, fmt, time::Duration};

use super::BreakerConfig;

/// Why a breaker cannot work.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum InvalidBreaker {
    /// The longest open time is shorter than the first.
    CapBelowOpenTime {
        /// The first open time.
        open_for: Duration,
        /// The longest.
        cap: Duration,
    },
    /// Chance cannot lengthen open times by this part of them.
    Jitter {
        /// The part.
        jitter: f64,
    },
    /// There are never so many calls in the window.
    Minimum {
        /// How many there would have to be.
        minimum: u32,
        /// How many there are at most.
        calls: u32,
    },
    /// Open times cannot be multiplied by this.
    Multiplier {
        /// The number.
        multiplier: f64,
    },
    /// No rule would ever open it.
    NeverOpens,
    /// More probes may pass at a time than altogether.
    ProbeCalls {
        /// How many may pass altogether.
        calls: u32,
        /// How many at a time.
        at_a_time: u32,
    },
    /// The rate is no part of the calls.
    Rate {
        /// The setting.
        setting: &'static str,
        /// The rate.
        rate: f64,
    },
    /// The time is longer than [a year](BreakerConfig::MAX_TIME).
    TooLong {
        /// The setting.
        setting: &'static str,
    },
    /// The window has more calls than it can.
    WindowCalls {
        /// How many it would have.
        calls: u32,
    },
    /// The window is shorter or longer than it can be.
    WindowTime {
        /// How long it would be.
        time: Duration,
    },
    /// A number or a time must not be zero.
    Zero {
        /// The setting.
        setting: &'static str,
    },
}

impl InvalidBreaker {
    pub(super) const fn zero(setting: &'static str) -> Self {
        Self::Zero { setting }
    }

    pub(super) const fn too_long(setting: &'static str) -> Self {
        Self::TooLong { setting }
    }
}

impl fmt::Display for InvalidBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CapBelowOpenTime { open_for, cap } => {
                write!(
                    f,
                    "open times that start at {open_for:?} cannot be capped at {cap:?}"
                )
            }
            Self::Jitter { jitter } => {
                write!(f, "jitter of {jitter}: it must be a number from 0 to 1")
            }
            Self::Minimum { minimum, calls } => {
                write!(
                    f,
                    "a window of {calls} calls never has the minimum of {minimum}"
                )
            }
            Self::Multiplier { multiplier } => {
                write!(
                    f,
                    "multiplier of {multiplier}: it must be a finite number of at least 1"
                )
            }
            Self::NeverOpens => f.write_str("no rule would ever open the breaker"),
            Self::ProbeCalls { calls, at_a_time } => {
                write!(
                    f,
                    "{at_a_time} probes at a time are more than {calls} altogether"
                )
            }
            Self::Rate { setting, rate } => {
                write!(
                    f,
                    "{setting} of {rate}: it must be a number from 0.000000001 to 1"
                )
            }
            Self::TooLong { setting } => write!(f, "{setting} is longer than 365 days"),
            Self::WindowCalls { calls } => write!(
                f,
                "a window of {calls} calls: it may have {} at most",
                BreakerConfig::MAX_WINDOW_CALLS
            ),
            Self::WindowTime { time } => write!(
                f,
                "a window of {time:?}: it must have from {:?} to {:?}",
                BreakerConfig::MIN_WINDOW_TIME,
                BreakerConfig::MAX_WINDOW_TIME
            ),
            Self::Zero { setting } => write!(f, "{setting} is zero"),
        }
    }
}

impl Error for InvalidBreaker {}
