use std::{error::Error, fmt, sync::Arc, time::Duration};

use steadfast_core::breaker::{Refusal, Rejection};
use steadfast_http::{
    LocalRejection,
    problem::{Code, Problem},
};

use crate::shared::Shared;

/// A circuit breaker did not let a call pass.
///
/// It is the error of services that are not HTTP, and is in the extensions of the responses that others get.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    breaker: Arc<str>,
    rejection: Rejection,
    marker: LocalRejection,
}

impl Rejected {
    pub(crate) fn by(breaker: &Shared, rejection: Rejection) -> Self {
        Self {
            breaker: Arc::clone(breaker.name()),
            rejection,
            marker: LocalRejection::new(Code::CircuitOpen),
        }
    }

    /// The name of the breaker.
    #[must_use]
    pub fn breaker(&self) -> &str {
        &self.breaker
    }

    /// Why.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        self.rejection.refusal()
    }

    /// What is left of the open time; zero where another call may pass at any moment. Opened by hand, it has no end that is known:
    /// then it is the shortest open time.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        self.rejection.retry_after()
    }

    pub(crate) fn problem(&self) -> Problem {
        let detail = match self.refusal() {
            Refusal::Open => "calls to the destination failed, and it is left alone for a while",
            Refusal::Probing => {
                "the destination failed, and others are finding out whether it is back"
            }
            Refusal::Forced => "the destination is taken out of use",
            _ => "the destination is left alone for a while",
        };
        // Zero would ask gRPC clients to come back at once.
        let wait = match self.retry_after() {
            Duration::ZERO => Duration::from_secs(1),
            wait => wait,
        };
        Problem::new(Code::CircuitOpen, detail).with_retry_after(wait)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.refusal() {
            Refusal::Open => "is open",
            Refusal::Probing => "is probing its destination",
            Refusal::Forced => "was opened by hand",
            _ => "lets nothing pass",
        };
        write!(f, "circuit breaker {} {reason}", self.breaker)
    }
}

impl Error for Rejected {
    /// A [`LocalRejection`]: by it other layers know that this says nothing of the destination.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.marker)
    }
}
