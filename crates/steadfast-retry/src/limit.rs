use std::{future::Future, time::Duration};

use steadfast_http::{Deadline, problem::Code};
use tokio::time::{Instant, timeout_at};

use crate::RetryConfig;

/// When a call must be over, and until when it may start attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Attempts are cut then.
    deadline: Option<Deadline>,
    attempt_timeout: Option<Duration>,
    started: Instant,
    patience: Duration,
}

impl Times {
    /// Without a deadline, further attempts start within the patience of the layer.
    pub(crate) const fn new(
        now: Instant,
        deadline: Option<Deadline>,
        config: &RetryConfig,
    ) -> Self {
        Self {
            deadline,
            attempt_timeout: config.attempt_timeout,
            started: now,
            patience: config.patience,
        }
    }

    /// What cuts an attempt that starts now.
    pub(crate) fn limit(&self, now: Instant) -> Option<Limit> {
        let attempt = self
            .attempt_timeout
            .and_then(|timeout| limit_of(timeout, now))
            .map(|at| Limit {
                at,
                code: Code::AttemptTimeout,
            });
        let deadline = self.deadline.map(|at| Limit {
            at,
            code: Code::DeadlinePassed,
        });
        match (attempt, deadline) {
            (Some(attempt), Some(deadline)) if attempt.at < deadline.at => Some(attempt),
            (attempt, deadline) => deadline.or(attempt),
        }
    }

    /// How long from now an attempt may still start.
    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        match self.last_start() {
            Some(last) => last.saturating_duration_since(now),
            None => Duration::MAX,
        }
    }

    /// No attempt starts later.
    pub(crate) fn last_start(&self) -> Option<Instant> {
        match self.deadline {
            Some(deadline) => Some(deadline.moment()),
            None => self.started.checked_add(self.patience),
        }
    }
}

/// A time limit of ours that begins now, if it ends in the time that can be told.
pub(crate) fn limit_of(length: Duration, now: Instant) -> Option<Deadline> {
    let end = now.checked_add(length)?;
    Some(Deadline::at(end).with_limit(length))
}

/// What cuts one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    at: Deadline,
    code: Code,
}

impl Limit {
    pub(crate) const fn deadline(self) -> Deadline {
        self.at
    }

    pub(crate) const fn code(self) -> Code {
        self.code
    }

    /// Whether it leaves time for other attempts.
    pub(crate) fn is_of_attempt(self) -> bool {
        self.code == Code::AttemptTimeout
    }

    /// Whether who was told of it may say by itself that it has passed: timers tick in milliseconds, and `grpc-timeout` is rounded.
    pub(crate) fn is_imminent(self, now: Instant) -> bool {
        self.at.remaining(now) <= SLACK
    }

    pub(crate) fn has_passed(self, now: Instant) -> bool {
        self.at.remaining(now).is_zero()
    }
}

/// Two ticks of a timer.
const SLACK: Duration = Duration::from_millis(2);

/// The output of `future`, or `None` if the moment comes first.
pub(crate) async fn until<F: Future>(moment: Option<Instant>, future: F) -> Option<F::Output> {
    match moment {
        Some(moment) => timeout_at(moment, future).await.ok(),
        None => Some(future.await),
    }
}
