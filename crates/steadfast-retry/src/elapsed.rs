use std::{error::Error, fmt};

use steadfast_core::retry::StoppedBy;
use steadfast_http::problem::Code;

/// A call has no result to hand out: a time limit cut its last attempt, or its service was not ready in time for another one.
///
/// Layers of [`RetryLayer::new`](crate::RetryLayer::new) fail with it; those of HTTP answer 504 instead.
#[derive(Debug)]
pub struct Elapsed {
    code: Code,
    attempts: u32,
    stopped_by: StoppedBy,
}

impl Elapsed {
    pub(crate) const fn new(code: Code, attempts: u32, stopped_by: StoppedBy) -> Self {
        Self {
            code,
            attempts,
            stopped_by,
        }
    }

    /// Whether the deadline of the whole call has passed, and not only the time of one attempt.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        self.code == Code::DeadlinePassed
    }

    /// Attempts, the first one counted.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Why there was no further attempt.
    #[must_use]
    pub const fn stopped_by(&self) -> StoppedBy {
        self.stopped_by
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_deadline() {
            "the deadline passed"
        } else {
            "the last attempt took too long"
        };
        match self.attempts {
            1 => write!(f, "{what} after 1 attempt"),
            attempts => write!(f, "{what} after {attempts} attempts"),
        }
    }
}

impl Error for Elapsed {}
