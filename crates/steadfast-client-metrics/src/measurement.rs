use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::Request;
use steadfast_http::Deadline;
use tokio::time::Instant;

use crate::series::{End, Host, MethodIndex};

/// One call, which is counted once: at its end, or else when it is dropped.
#[derive(Debug)]
pub(crate) struct Measurement {
    host: Arc<Host>,
    method: MethodIndex,
    started: Instant,
    /// Until when the caller waits.
    deadline: Option<Deadline>,
    is_over: bool,
}

impl Measurement {
    pub(crate) fn start<B>(host: Arc<Host>, request: &Request<B>) -> Self {
        Self {
            host,
            method: MethodIndex::of(request.method()),
            started: Instant::now(),
            deadline: Deadline::of(request.extensions()),
            is_over: false,
        }
    }

    pub(crate) fn end(&mut self, end: End) {
        self.end_at(Instant::now(), end);
    }

    fn end_at(&mut self, now: Instant, end: End) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        let took = now.saturating_duration_since(self.started);
        let count = || self.host.ended(self.method, end, took);
        // A recorder that panics is no reason to fail the call; and where another panic unwinds, a second one would abort the process.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(count)) {
            // What it panicked with may panic when it is dropped.
            mem::forget(panic);
        }
    }
}

impl Drop for Measurement {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = Instant::now();
        let is_late = self
            .deadline
            .is_some_and(|deadline| deadline.remaining(now).is_zero());
        self.end_at(
            now,
            if is_late {
                End::Elapsed
            } else {
                End::Cancelled
            },
        );
    }
}
