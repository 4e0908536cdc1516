use std::{sync::Arc, time::Duration};

use steadfast_core::{
    breaker::{Outcome, Rejection, Report, Ticket},
    verdict::{Cause, Verdict},
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
    /// Until when the caller waits: its passing is a failure.
    deadline: Option<Deadline>,
    /// Whether the caller waits for so short a time that its passing says nothing.
    is_hasty: bool,
    /// Where it matters how long the call takes.
    started: Option<Instant>,
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
        let started = shared.statistics().times_calls().then(Instant::now);
        let is_hasty = deadline.is_some_and(|deadline| shared.is_hasty(deadline));
        Ok(Self {
            held,
            ticket,
            deadline: deadline.filter(|_| !is_hasty),
            is_hasty,
            started,
            stage: Stage::UnderWay,
        })
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.held.shared()
    }

    /// The destination has answered: how long its caller waits says nothing any more.
    pub(crate) const fn answered(&mut self) {
        self.deadline = None;
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
        let verdict = if self.is_hasty && has_elapsed(verdict) {
            Verdict::Ignored
        } else {
            verdict
        };
        self.settle(&Report::from(verdict).with_took(self.took()));
    }

    fn took(&self) -> Option<Duration> {
        self.started.map(|started| started.elapsed())
    }

    #[inline]
    fn settle(&mut self, report: &Report) {
        self.stage = Stage::Ended;
        self.held.shared().settle(self.ticket, report);
    }

    /// Whether a drop at this moment says nothing bad of the destination: nobody's code has panicked, and its time is not over.
    pub(crate) fn may_be_dropped(&self) -> bool {
        let is_late = || {
            self.deadline
                .is_some_and(|deadline| deadline.remaining(Instant::now()).is_zero())
        };
        self.stage != Stage::Running && !is_late()
    }

    /// The call was dropped.
    #[cold]
    fn abandon(&mut self) {
        if self.may_be_dropped() {
            self.stage = Stage::Ended;
            self.held.shared().release(self.ticket);
        } else {
            self.settle(&Report::new(Outcome::Failure).with_took(self.took()));
        }
    }
}

fn has_elapsed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Failure(failure) if failure.cause() == Cause::Elapsed)
}

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        if self.stage != Stage::Ended {
            self.abandon();
        }
    }
}
