//! Breakers that are no tower layers, as services.

use std::task::{Context, Poll};

use failsafe::{
    Any, FailurePolicy, StateMachine,
    futures::{CircuitBreaker, ResponseFuture},
};
use recloser::{AnyError, AsyncRecloser, RecloserFuture};
use tower::Service;

/// failsafe, whose users share a state machine.
pub(super) struct Failsafe<S, P> {
    pub(super) inner: S,
    pub(super) breaker: StateMachine<P, ()>,
}

impl<S: Clone, P> Clone for Failsafe<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breaker: self.breaker.clone(),
        }
    }
}

impl<S, P, R> Service<R> for Failsafe<S, P>
where
    S: Service<R>,
    P: FailurePolicy + Send + Sync,
{
    type Response = S::Response;
    type Error = failsafe::Error<S::Error>;
    type Future = ResponseFuture<S::Future, P, (), Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(failsafe::Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}

#[derive(Clone)]
pub(super) struct Recloser<S> {
    pub(super) inner: S,
    pub(super) breaker: AsyncRecloser,
}

impl<S: Service<R>, R> Service<R> for Recloser<S> {
    type Response = S::Response;
    type Error = recloser::Error<S::Error>;
    type Future = RecloserFuture<S::Future, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(recloser::Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}
