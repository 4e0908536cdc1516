//! Who listens to a breaker.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, PoisonError},
};

use steadfast_core::breaker::{State, Transition};
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    sync::{Mutex, MutexGuard},
};

pub(crate) type Hook = Arc<dyn Fn(&str, &Transition) + Send + Sync>;

/// Tells of transitions: each once, in their order, and under no lock.
pub(crate) struct Notices {
    name: Arc<str>,
    queue: Mutex<Queue>,
    hooks: Mutex<Vec<Hook>>,
    state: watch::Sender<State>,
    metrics: OnceLock<Metrics>,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<Transition>,
    /// Whether somebody is telling of them: who comes meanwhile, a hook among them, leaves its own to that one.
    is_delivered: bool,
}

impl Notices {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            queue: Mutex::default(),
            hooks: Mutex::default(),
            state: watch::Sender::new(State::Closed),
            metrics: OnceLock::new(),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn add_hook(&self, hook: Hook) {
        lock(&self.hooks).push(hook);
    }

    /// Nobody will ask the breaker any more: no state is its own.
    pub(crate) fn end(&self) {
        if let Some(metrics) = self.metrics.get() {
            self.guarded(|| metrics.is_in(None));
        }
    }

    /// Resolved with the first call: a handle belongs to the recorder that is installed when it is made.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.metrics.get_or_init(|| Metrics::new(&self.name))
    }

    /// To be called under the lock of the machine, in the order of its steps.
    pub(crate) fn add(&self, transition: Transition) {
        lock(&self.queue).pending.push_back(transition);
    }

    /// To be called under no lock.
    pub(crate) fn deliver(&self) {
        {
            let mut queue = lock(&self.queue);
            if queue.is_delivered {
                return;
            }
            queue.is_delivered = true;
        }
        while let Some(transition) = self.next() {
            self.tell(&transition);
        }
    }

    /// The next transition; without one, the telling is over.
    fn next(&self) -> Option<Transition> {
        let mut queue = lock(&self.queue);
        let next = queue.pending.pop_front();
        queue.is_delivered = next.is_some();
        next
    }

    fn tell(&self, transition: &Transition) {
        let hooks = lock(&self.hooks).clone();
        self.guarded(|| {
            if !transition.is_hypothetical() {
                self.state.send_replace(transition.to());
            }
        });
        self.guarded(|| self.metrics().changed(transition));
        self.guarded(|| self.log(transition));
        for hook in hooks {
            self.guarded(|| hook(&self.name, transition));
        }
    }

    /// A recorder, a subscriber or a hook that panics is no reason to tell nobody any more.
    fn guarded(&self, tell: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(tell)) else {
            return;
        };
        // What it panicked with may panic when it is dropped.
        mem::forget(panic);
        let log = || {
            tracing::error!(
                breaker = &*self.name,
                "what listens to the circuit breaker panicked"
            );
        };
        // If it was the subscriber that panicked, nobody is left to hear of it.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(log)) {
            mem::forget(panic);
        }
    }

    fn log(&self, transition: &Transition) {
        let breaker = &*self.name;
        let from = transition.from().as_str();
        let to = transition.to().as_str();
        let reason = transition.reason().as_str();
        let counts = transition.counts();
        let (calls, failures) = (counts.calls, counts.failures);
        let open_for = transition.open_for().map(tracing::field::debug);
        if transition.is_hypothetical() {
            tracing::warn!(
                breaker,
                reason,
                calls,
                failures,
                open_for,
                "circuit would have opened"
            );
        } else if transition.to() == State::Open || transition.to() == State::ForcedOpen {
            tracing::warn!(
                breaker,
                from,
                to,
                reason,
                calls,
                failures,
                open_for,
                "circuit opened"
            );
        } else {
            tracing::info!(
                breaker,
                from,
                to,
                reason,
                calls,
                failures,
                "circuit changed"
            );
        }
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
