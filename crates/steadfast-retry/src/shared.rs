use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use http::Response;
use steadfast_core::{backoff::Sample, budget::Budget, retry::Rules, verdict::Verdict};
use steadfast_http::body::BytePool;

use crate::{config::RetryConfig, metrics::Metrics, policy::Attempted, signal::Signals};

/// In which words HTTP requests and their outcomes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

pub(crate) type Classifier = Arc<dyn Fn(Attempted<'_>) -> Verdict + Send + Sync>;
pub(crate) type Sampler = Arc<dyn Fn() -> u64 + Send + Sync>;
pub(crate) type Refusal = Arc<dyn Fn(Response<Bytes>) -> Response<Bytes> + Send + Sync>;

/// What a layer's setters change.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) config: RetryConfig,
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) name: Arc<str>,
    pub(crate) classifier: Option<Classifier>,
    pub(crate) refusal: Option<Refusal>,
    /// `None` draws from a generator of the thread.
    pub(crate) sampler: Option<Sampler>,
    pub(crate) trusts_key_header: bool,
}

impl Settings {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            config: RetryConfig::default(),
            budget: Some(Arc::default()),
            name: Arc::from("default"),
            classifier: None,
            refusal: None,
            sampler: None,
            trusts_key_header: false,
        }
    }
}

/// What a service shares with its clones, and with its calls.
pub(crate) struct Core<S> {
    pub(crate) shared: Arc<Shared>,
    /// Never polled, only cloned: further attempts need a service, and a call that ends with its first need not pay for the clone.
    /// A std mutex, since a clone is made in one go.
    spare: Mutex<S>,
}

impl<S> Core<S> {
    pub(crate) const fn new(shared: Arc<Shared>, spare: S) -> Self {
        Self {
            shared,
            spare: Mutex::new(spare),
        }
    }
}

impl<S: Clone> Core<S> {
    pub(crate) fn spare(&self) -> S {
        // A clone that panicked has changed nothing.
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.clone()
    }
}

/// What all services of a layer share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) pool: BytePool,
    metrics: OnceLock<Metrics>,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            pool: BytePool::new(settings.config.replay_pool),
            settings,
            metrics: OnceLock::new(),
        }
    }

    pub(crate) const fn config(&self) -> &RetryConfig {
        &self.settings.config
    }

    pub(crate) const fn rules(&self) -> &Rules {
        &self.settings.config.rules
    }

    pub(crate) const fn budget(&self) -> Option<&Arc<Budget>> {
        self.settings.budget.as_ref()
    }

    /// Whether the budget must be told of the outcome of every request, also of one that cannot be retried.
    pub(crate) fn counts_outcomes(&self) -> bool {
        self.budget().is_some_and(|budget| budget.counts_outcomes())
    }

    pub(crate) const fn is_grpc(&self) -> bool {
        matches!(self.settings.protocol, Protocol::Grpc)
    }

    /// Whether a response is a success at first sight, whatever the request was.
    #[inline]
    pub(crate) fn is_plain_success<B>(&self, response: &Response<B>) -> bool {
        !self.is_grpc()
            && self.settings.classifier.is_none()
            && self.config().http_rules.is_plain_success(response)
    }

    /// The chance of one delay.
    pub(crate) fn sample(&self) -> Sample {
        Sample::new(match &self.settings.sampler {
            Some(sampler) => sampler(),
            None => fastrand::u64(..),
        })
    }

    pub(crate) fn signals(&self) -> Signals<'_> {
        let metrics = self
            .metrics
            .get_or_init(|| Metrics::new(&self.settings.name));
        Signals::new(&self.settings.name, metrics)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.settings.name)
            .field("config", &self.settings.config)
            .field("budget", &self.settings.budget)
            .finish_non_exhaustive()
    }
}
