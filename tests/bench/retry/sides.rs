//! The layers that are compared, each with the configuration that its users start from.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use steadfast::{
    http::body::ReplayBody,
    retry::{Budget, ConfigError, RetryConfig, RetryLayer},
};
use tokio::time::Instant;
use tower::{
    Layer, Service,
    retry::{
        self, Policy,
        budget::{Budget as _, TpsBudget},
    },
};

use crate::{
    BoxError,
    calls::{Polled, Side},
    services::Answer,
};

pub(super) type Incoming = Request<Full<Bytes>>;

/// What the service beneath our layer is given.
pub(super) type Replayed = Request<ReplayBody<Full<Bytes>>>;

/// A service that threads can share, and that layers can keep.
pub(super) trait Inner<R>:
    Service<R, Response = Answer, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S, R> Inner<R> for S where
    S: Service<R, Response = Answer, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The same service without a layer, to be put beneath each of them.
pub(super) struct Beneath<B, R> {
    pub(super) bare: B,
    pub(super) replayed: R,
}

impl<B: Inner<Incoming>, R: Inner<Replayed>> Beneath<B, R> {
    pub(super) fn bare(&self, request: fn() -> Incoming) -> Side {
        let inner = self.bare.clone();
        side("bare", request, move || inner.clone())
    }

    pub(super) fn ours(&self, request: fn() -> Incoming) -> Side {
        let inner = self.replayed.clone();
        side("steadfast", request, move || {
            RetryLayer::http().layer(inner.clone())
        })
    }

    pub(super) fn trivial(&self, request: fn() -> Incoming) -> Side {
        let inner = self.bare.clone();
        side("tower, trivial policy", request, move || {
            retry::RetryLayer::new(Trivial).layer(inner.clone())
        })
    }

    pub(super) fn budgeted(&self, request: fn() -> Incoming) -> Side {
        let inner = self.bare.clone();
        side("tower, its budget", request, move || {
            retry::RetryLayer::new(Budgeted::default()).layer(inner.clone())
        })
    }

    pub(super) fn resilience(&self, request: fn() -> Incoming) -> Side {
        let inner = self.bare.clone();
        side("tower-resilience", request, move || {
            tower_resilience_retry::RetryLayer::builder()
                .build()
                .layer(inner.clone())
        })
    }

    /// Ours, where requests are not retried.
    pub(super) fn without_retries(&self, request: fn() -> Incoming) -> Result<Side, ConfigError> {
        let config = RetryConfig::default().with_max_attempts(1);
        let layer = RetryLayer::http().with_config(config)?;
        let inner = self.replayed.clone();
        Ok(side("one attempt", request, move || {
            layer.layer(inner.clone())
        }))
    }

    /// Ours, where a body of more than `limit` bytes is not kept.
    pub(super) fn with_limit(
        &self,
        limit: usize,
        request: fn() -> Incoming,
    ) -> Result<Side, ConfigError> {
        let config = RetryConfig::default().with_replay_limit(limit);
        let layer = RetryLayer::http().with_config(config)?;
        let inner = self.replayed.clone();
        Ok(side("body above the limit", request, move || {
            layer.layer(inner.clone())
        }))
    }

    /// Ours, where the budget is empty.
    pub(super) fn without_budget(&self, request: fn() -> Incoming) -> Result<Side, BoxError> {
        empty_budget()?;
        let inner = self.replayed.clone();
        Ok(side("empty budget", request, move || {
            let budget = empty_budget().expect("it was made before");
            RetryLayer::http().with_budget(budget).layer(inner.clone())
        }))
    }
}

/// Each round makes a service, and each of its threads has a clone.
fn side<S>(name: &'static str, request: fn() -> Incoming, make: impl Fn() -> S + 'static) -> Side
where
    S: Service<Incoming> + Clone + Send + Sync + 'static,
{
    Side::new(name, move || {
        let service = make();
        move || Polled {
            service: service.clone(),
            request,
        }
    })
}

/// A budget that has been in use for longer than its window: all seconds count when it is asked.
fn empty_budget() -> Result<Budget, BoxError> {
    // A billion requests pay for one retry, and no round makes so many.
    let budget = Budget::ratio(1e-9, 0)?;
    let began = Instant::now().checked_sub(Duration::from_mins(1));
    let began = began.ok_or("the clock began less than a minute ago")?;
    budget.deposit(began.into_std());
    Ok(budget)
}

/// Could retry any request, and takes every answer as a success.
#[derive(Clone)]
struct Trivial;

impl Policy<Incoming, Answer, Infallible> for Trivial {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Incoming,
        result: &mut Result<Answer, Infallible>,
    ) -> Option<Ready<()>> {
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Incoming) -> Option<Incoming> {
        Some(request.clone())
    }
}

/// The policy in the documentation of [`tower::retry::budget`].
#[derive(Clone, Default)]
struct Budgeted {
    budget: Arc<TpsBudget>,
}

impl Policy<Incoming, Answer, Infallible> for Budgeted {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Incoming,
        result: &mut Result<Answer, Infallible>,
    ) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Incoming) -> Option<Incoming> {
        Some(request.clone())
    }
}
