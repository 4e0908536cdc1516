use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, response};
use steadfast_core::idempotency::{Claimant, Outcome, OwnerId, Promise, Terms, Transition};
use steadfast_http::{
    body::{BytePool, Captured, ReplyBody},
    problem::Problem,
};
use steadfast_store::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::Instrument;

use crate::{
    IdempotencyConfig,
    fingerprint::Recipe,
    join::Joins,
    metrics::{Counted, Metrics},
    places::Places,
    poller::Poller,
    scope::Scope,
    signal::{Signal, log_again},
    wire::Wire,
    work::Ticket,
};

pub(crate) type OutcomeHook = dyn Fn(&response::Parts) -> Option<Outcome> + Send + Sync;
pub(crate) type RefusalHook = dyn Fn(Response<Bytes>) -> Response<Bytes> + Send + Sync;

/// What the user chose.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) config: IdempotencyConfig,
    pub(crate) promise: Promise,
    pub(crate) scope: Arc<dyn Scope>,
    pub(crate) recipe: Recipe,
    pub(crate) outcome: Option<Arc<OutcomeHook>>,
    pub(crate) refusal: Option<Arc<RefusalHook>>,
}

/// All state of a layer: every service that it makes, on every route and connection, shares it.
pub(crate) struct Shared<St> {
    pub(crate) store: Arc<St>,
    pub(crate) settings: Settings,
    pub(crate) bodies: BytePool,
    /// What this process does for each key now.
    pub(crate) joins: Arc<Joins>,
    pub(crate) places: Places,
    pub(crate) poller: Arc<Poller<St>>,
    metrics: OnceLock<Metrics>,
    pub(crate) tracker: TaskTracker,
    running: Arc<Semaphore>,
    releasing: Arc<Semaphore>,
}

impl<St> Shared<St> {
    pub(crate) fn new(store: Arc<St>, settings: Settings) -> Self {
        let config = &settings.config;
        Self {
            poller: Arc::new(Poller::new(Arc::clone(&store))),
            store,
            bodies: BytePool::new(config.body_pool),
            joins: Arc::default(),
            places: Places::new(
                config.max_waiting,
                config.max_waiting_per_key,
                config.max_running,
            ),
            metrics: OnceLock::new(),
            tracker: TaskTracker::new(),
            running: Arc::new(Semaphore::new(config.max_running)),
            releasing: Arc::new(Semaphore::new(config.max_running)),
            settings,
        }
    }

    /// How many executions run.
    pub(crate) fn running(&self) -> usize {
        self.settings.config.max_running - self.running.available_permits()
    }

    /// A place among the executions that may run at once.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.running).try_acquire_owned().ok()?;
        Some(Slot {
            _permit: permit,
            _token: self.tracker.token(),
            _counted: self.metrics().running(),
        })
    }

    /// The metrics, made by whoever needs them first: by then the recorder should be installed.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.metrics
            .get_or_init(|| Metrics::new(&self.settings.config.namespace))
    }

    /// Says how a keyed request ended.
    pub(crate) fn signal(&self, signal: Signal) {
        self.metrics().request(signal);
        if signal == Signal::Unstored {
            self.metrics().answer_is_unstored();
        }
        signal.show();
    }

    pub(crate) fn terms(&self, ticket: &Ticket, owner: OwnerId) -> Terms {
        Terms {
            owner,
            fingerprint: ticket.fingerprint,
            promise: self.settings.promise,
            lease: self.settings.config.lease,
            retention: self.settings.config.retention,
        }
    }

    /// The response to a request that the layer answers by itself.
    pub(crate) fn refuse<RB>(&self, problem: Problem, wire: Wire) -> Response<ReplyBody<RB>> {
        self.signal(Signal::of_refusal(problem.code()));
        let response = wire.refusal(problem, &self.settings.config.problem_base);
        let response = match &self.settings.refusal {
            Some(refusal) => refusal(response),
            None => response,
        };
        response.map(|body| ReplyBody::captured(Captured::from(body)))
    }
}

impl<St: Store> Shared<St> {
    /// Releases a claim until a release is known to have found it, or a lease has passed. One that nobody knows to `stand` may
    /// still land: its acknowledgement was lost.
    pub(crate) fn release_in_background(self: &Arc<Self>, claimant: Claimant, stands: bool) {
        let Ok(permit) = Arc::clone(&self.releasing).try_acquire_owned() else {
            tracing::warn!(
                key = %claimant.key.prefix(),
                "too many releases are under way; the claim is left to its lease"
            );
            return;
        };
        let shared = Arc::clone(self);
        let until = Instant::now() + self.settings.config.lease;
        let release = async move {
            let _permit = permit;
            let _counted = shared.metrics().detached();
            let mut delay = FIRST_DELAY;
            loop {
                match shared.store.release(&claimant).await {
                    Ok(Transition::Applied) => return,
                    Ok(Transition::Fenced) if stands => return,
                    Ok(Transition::Fenced) => {}
                    Err(error) => log_again(&error, "a claim could not be released yet"),
                }
                if Instant::now() + delay >= until {
                    return;
                }
                sleep(delay).await;
                delay = next_delay(delay);
            }
        };
        self.tracker.spawn(release.in_current_span());
    }
}

impl<St> fmt::Debug for Shared<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.settings.config)
            .field("promise", &self.settings.promise)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// Held by one execution, wherever it runs, until its record is settled.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
    _counted: Counted,
}

/// Between two calls of a store that failed or had nothing to say.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(25);

pub(crate) fn next_delay(delay: Duration) -> Duration {
    (delay * 2).min(Duration::from_secs(1))
}
