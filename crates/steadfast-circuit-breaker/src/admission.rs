use std::{sync::Arc, time::Duration};

use steadfast_core::{
    breaker::{Outcome, Rejection, Report, Ticket},
    verdict::{Cause, SafetyClass, Verdict},
};
use steadfast_http::Deadline;
use tokio::time::Instant;

use crate::shared::Shared;

/// What keeps a breaker alive while a call is under way.
#[expect(
    unnameable_types,
    reason = "it stands only in what a sealed trait asks for"
)]
#[derive(Clone, Debug)]
pub struct Held(pub(crate) Arc<Lane>);

/// A count of holders of its own: threads that count apart do not write to one cache line. Aligned for that; some processors fetch
/// two lines at a time.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
}

impl Held {
    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

/// The admission of one call, which ends exactly once, whatever happens to the call.
#[expect(
    unnameable_types,
    reason = "it stands only in what a sealed trait asks for"
)]
#[derive(Debug)]
pub struct Pass {
    held: Held,
    ticket: Ticket,
    /// Until when the caller waits.
    deadline: Option<Deadline>,
    /// Where it matters how long the call takes.
    started: Option<Instant>,
    /// The destination has answered: what its caller waits for now is a matter of both.
    has_head: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    UnderWay,
    /// Somebody else's code is running: who is dropped now is dropped by its panic.
    Running,
    Ended,
}

impl Pass {
    /// Asks the breaker.
    #[inline]
    pub(crate) fn ask(held: Held, deadline: Option<Deadline>) -> Result<Self, (Held, Rejection)> {
        let shared = held.shared();
        let ticket = match shared.admit() {
            Ok(ticket) => ticket,
            Err(rejection) => return Err((held, rejection)),
        };
        let is_timed = deadline.is_some() || shared.statistics().times_calls();
        let started = is_timed.then(Instant::now);
        Ok(Self {
            held,
            ticket,
            deadline,
            started,
            has_head: false,
            stage: Stage::UnderWay,
        })
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.held.shared()
    }

    /// The destination has answered: how long its caller waits says nothing any more.
    pub(crate) const fn answered(&mut self) {
        self.has_head = true;
    }

    /// Runs somebody else's code: if it panics, the call has failed.
    #[inline]
    pub(crate) fn run<T>(&mut self, code: impl FnOnce() -> T) -> T {
        if self.stage == Stage::Ended {
            return code();
        }
        self.enter();
        let result = code();
        self.leave();
        result
    }

    /// Somebody else's code will run: if it panics, the call has failed.
    #[inline]
    pub(crate) const fn enter(&mut self) {
        self.stage = Stage::Running;
    }

    /// It has not panicked.
    #[inline]
    pub(crate) const fn leave(&mut self) {
        self.stage = Stage::UnderWay;
    }

    /// The call ended with this verdict.
    #[inline]
    pub(crate) fn end(&mut self, verdict: Verdict) {
        self.settle(&Report::from(verdict).with_took(self.took()));
    }

    /// What the verdict comes to for a caller who did not wait long enough: that its time is over says nothing of the destination.
    pub(crate) fn judge(&self, verdict: Verdict) -> Verdict {
        if let Verdict::Failure(failure) = verdict
            && failure.cause() == Cause::Elapsed
            && self.is_hasty(failure.class())
        {
            return Verdict::Ignored;
        }
        verdict
    }

    #[cold]
    fn is_hasty(&self, class: SafetyClass) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        let now = Instant::now();
        // Permanent: who was told of the deadline says so. Else a limit beneath may have ended the call, long before.
        let is_callers = class == SafetyClass::Permanent || deadline.remaining(now) <= SLACK;
        is_callers && !self.has_waited(deadline, now)
    }

    /// Whether the call waited for so long that a healthy destination would have answered: for the least wait, or for half of a
    /// limit that was chosen for it.
    fn has_waited(&self, deadline: Deadline, now: Instant) -> bool {
        let least = self.shared().rules().config().least_wait();
        let enough = deadline.limit().map_or(least, |limit| least.min(limit / 2));
        self.started
            .is_some_and(|started| now.saturating_duration_since(started) >= enough)
    }

    fn took(&self) -> Option<Duration> {
        let is_asked = self.shared().statistics().times_calls();
        self.started
            .filter(|_| is_asked)
            .map(|started| started.elapsed())
    }

    #[inline]
    fn settle(&mut self, report: &Report) {
        self.stage = Stage::Ended;
        self.held.shared().settle(self.ticket, report);
    }

    /// Whether somebody else's code has panicked, if the call is dropped at this moment.
    pub(crate) fn has_panicked(&self) -> bool {
        self.stage == Stage::Running
    }

    /// The call was dropped.
    #[cold]
    fn abandon(&mut self) {
        let outcome = if self.has_panicked() {
            Some(Outcome::Failure)
        } else {
            self.outcome_of_time()
        };
        match outcome {
            Some(outcome) => self.settle(&Report::new(outcome).with_took(self.took())),
            None => {
                self.stage = Stage::Ended;
                self.held.shared().release(self.ticket);
            }
        }
    }

    /// What it says that the caller does not wait any more, if its time is over and no head has come.
    fn outcome_of_time(&self) -> Option<Outcome> {
        let deadline = self.deadline.filter(|_| !self.has_head)?;
        let now = Instant::now();
        let is_over = deadline.remaining(now).is_zero();
        is_over.then(|| {
            if self.has_waited(deadline, now) {
                Outcome::Failure
            } else {
                Outcome::Ignored
            }
        })
    }
}

/// Timers tick in milliseconds, and `grpc-timeout` is rounded: who was told of a deadline may say a little early that it has passed.
const SLACK: Duration = Duration::from_millis(2);

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        if self.stage != Stage::Ended {
            self.abandon();
        }
    }
}
