//! Calls of services that are not HTTP.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use steadfast_core::verdict::Verdict;
use steadfast_http::{BoxError, problem::Code};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    Elapsed, Policy,
    exchange::Exchange,
    future::{First, Limited, State},
    limit::Limit,
    outcome::RetryOutcome,
    shared::{Core, Shared},
};

/// One call of a service that is not HTTP.
pub(crate) struct CustomExchange<S, P, Req> {
    core: Arc<Core<S>>,
    policy: Arc<P>,
    idempotent: bool,
    unaffordable: bool,
    /// A copy for a further attempt.
    kept: Option<Req>,
}

impl<S, P, Req> CustomExchange<S, P, Req> {
    pub(crate) const fn new(
        core: Arc<Core<S>>,
        policy: Arc<P>,
        idempotent: bool,
        kept: Option<Req>,
        unaffordable: bool,
    ) -> Self {
        Self {
            core,
            policy,
            idempotent,
            unaffordable,
            kept,
        }
    }
}

impl<S, P, Req> Exchange for CustomExchange<S, P, Req>
where
    P: Policy<Req, S::Response, S::Error>,
    S: Service<Req> + Clone + Send,
    S::Future: Send,
    S::Response: Send,
    S::Error: Into<BoxError> + Send,
    Req: Send,
{
    type Service = S;
    type Request = Req;
    type Recalled = Req;
    type Output = Result<S::Response, BoxError>;

    fn shared(&self) -> &Shared {
        &self.core.shared
    }

    fn service(&self) -> S {
        self.core.spare()
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    fn is_replayable(&self) -> bool {
        self.kept.is_some()
    }

    fn was_unaffordable(&self) -> bool {
        self.unaffordable
    }

    fn verdict(&self, result: &Result<S::Response, S::Error>, _: Option<Limit>) -> Verdict {
        self.policy.verdict(result.as_ref())
    }

    fn is_cut(_: &Result<S::Response, S::Error>, _: Verdict) -> bool {
        false
    }

    fn recall(&mut self, is_last: bool) -> Option<Req> {
        let recalled = self.kept.take()?;
        if !is_last {
            self.kept = self.policy.copy(&recalled);
        }
        Some(recalled)
    }

    fn again(&self, recalled: Req, _: u32, _: Option<Limit>, _: Instant) -> Req {
        recalled
    }

    async fn free(result: Result<S::Response, S::Error>, _: Duration) {
        drop(result);
    }

    fn finish(&self, result: Result<S::Response, S::Error>, _: RetryOutcome) -> Self::Output {
        Self::pass(result)
    }

    fn refuse(&self, code: Code, outcome: RetryOutcome) -> Self::Output {
        Err(Elapsed::new(code, outcome.attempts(), outcome.stopped_by()).into())
    }

    fn pass(result: Result<S::Response, S::Error>) -> Self::Output {
        result.map_err(Into::into)
    }
}

pin_project! {
    /// What [`Retry`](crate::Retry) answers with, where the service is not HTTP.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the attempt that is under way, and gives back to the budget what was not used.
    #[must_use = "futures do nothing unless polled"]
    pub struct CustomFuture<S, P, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: CustomState<S, Req>,
        first: Option<First<CustomExchange<S, P, Req>>>,

    }
}

type CustomState<S, Req> =
    State<<S as Service<Req>>::Future, Result<<S as Service<Req>>::Response, BoxError>>;

impl<S: Service<Req>, P, Req> CustomFuture<S, P, Req> {
    /// A call that the state tells all about.
    pub(crate) const fn new(state: CustomState<S, Req>) -> Self {
        Self { state, first: None }
    }

    /// The same for one that a limit may cut.
    pub(crate) fn limited(
        attempt: Limited<S::Future>,
        first: First<CustomExchange<S, P, Req>>,
    ) -> Self {
        let attempt = Box::pin(attempt);
        Self {
            state: State::Limited { attempt },
            first: Some(first),
        }
    }

    /// A call that ends with its first attempt, unless there are to be others.
    pub(crate) const fn first(attempt: S::Future, first: First<CustomExchange<S, P, Req>>) -> Self {
        Self {
            state: State::First { attempt },
            first: Some(first),
        }
    }
}

impl<S: Service<Req>, P, Req> std::fmt::Debug for CustomFuture<S, P, Req> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomFuture").finish_non_exhaustive()
    }
}

impl<S, P, Req> Future for CustomFuture<S, P, Req>
where
    P: Policy<Req, S::Response, S::Error>,
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
    Req: Send + 'static,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.state.poll(this.first, cx)
    }
}
