use std::{fmt, sync::Arc};

use steadfast_core::breaker::{BreakerConfig, InvalidBreaker, Machine, Rules, State, Transition};
use steadfast_http::Deadline;
use tokio::{sync::watch, time::Instant};

use crate::{Permit, Rejected, Snapshot, shared::Shared, source::Lanes};

/// One circuit breaker: a handle, whose clones share everything.
///
/// Give it to a [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), or to several of one destination, and keep a clone to look at it
/// and to command it. Code that guards its calls by itself asks it for [permits](Self::admit).
#[derive(Clone)]
pub struct CircuitBreaker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lanes: Lanes,
}

impl CircuitBreaker {
    /// Creates a breaker with the default numbers. Its name stands in logs, metrics and rejections: that of its destination, for
    /// instance.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::with_rules(name.into(), Rules::default())
    }

    /// Creates a breaker with these numbers.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn with_config(
        name: impl Into<Arc<str>>,
        config: BreakerConfig,
    ) -> Result<Self, InvalidBreaker> {
        Ok(Self::with_rules(name.into(), Rules::new(config)?))
    }

    pub(crate) fn with_rules(name: Arc<str>, rules: Rules) -> Self {
        let shared = Arc::new(Shared::new(name, rules, Instant::now()));
        let lanes = Lanes::new(&shared);
        Self { shared, lanes }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// The numbers it was made with.
    #[must_use]
    pub fn config(&self) -> &BreakerConfig {
        self.shared.rules().config()
    }

    /// The state it is in. It stays [`Open`](State::Open) after the open time, until a call comes that may probe.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.gate().state()
    }

    /// The state it is in, and what it has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.shared, Instant::now())
    }

    /// Asks whether a call may be made now. `deadline` is when its caller stops waiting, if that is known: a permit that is dropped
    /// after it was that of a call which failed, unless it had not waited for the
    /// [least wait](BreakerConfig::with_least_wait).
    ///
    /// # Errors
    ///
    /// [`Rejected`] if it may not.
    pub fn admit(&self, deadline: Option<Deadline>) -> Result<Permit, Rejected> {
        Permit::ask(self.lanes.hold(), deadline)
    }

    /// Whether a call that comes now would pass, for those who choose between destinations. Nothing is reserved and nothing counted:
    /// others may come first. Who asks finds out, as a call does, that probes have been silent for too long, and opens it again: else
    /// it would stay half-open while all choose others.
    #[must_use]
    pub fn would_admit(&self) -> bool {
        self.shared.would_admit()
    }

    /// The present state, and each later one; a receiver that is slow may miss some. It is told with the hooks: [`state`](Self::state)
    /// may be ahead of it for a moment.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.shared.notices().subscribe()
    }

    /// Calls `hook` with the name and each transition from now on: each once, in their order, and under no lock. It may use the
    /// breaker; what it causes, it hears of later. Its panic is logged, and harms nothing else. It runs where the transition was
    /// made, in the middle of somebody's call: it had better be quick. A hook that holds a
    /// handle of the breaker keeps it alive for ever.
    pub fn on_transition(&self, hook: impl Fn(&str, &Transition) + Send + Sync + 'static) {
        self.shared.notices().add_hook(Arc::new(hook));
    }

    /// Lets nothing pass, until it is told otherwise.
    pub fn force_open(&self) {
        self.shared.command(|machine, _| machine.force_open());
    }

    /// Closes at once, as if probes had succeeded, and goes on by itself.
    pub fn force_closed(&self) {
        self.shared.command(Machine::force_closed);
    }

    /// Lets everything pass and counts nothing, until it is told otherwise.
    pub fn disable(&self) {
        self.shared.command(|machine, _| machine.disable());
    }

    /// Lets everything pass, and only tells when it would have opened, until it is told otherwise.
    pub fn observe_only(&self) {
        self.shared.command(|machine, _| machine.observe_only());
    }

    /// Begins anew: closed, with nothing counted and the shortest open time. Calls that are under way do not count any more.
    pub fn reset(&self) {
        self.shared.command(Machine::reset);
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
