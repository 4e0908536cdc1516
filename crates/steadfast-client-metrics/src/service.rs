use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use crate::{ResponseFuture, hosts::Hosts, measurement::Measurement};

/// Counts and times the calls of its inner service. See the [crate docs](crate).
#[derive(Clone)]
pub struct ClientMetrics<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S> ClientMetrics<S> {
    pub(crate) const fn new(inner: S, hosts: Arc<Hosts>) -> Self {
        Self { inner, hosts }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, RB> Service<Request<B>> for ClientMetrics<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let measurement = Measurement::start(self.hosts.of(&request), &request);
        // If this panics, the call is dropped.
        let call = self.inner.call(request);
        ResponseFuture::new(call, measurement)
    }
}

impl<S: fmt::Debug> fmt::Debug for ClientMetrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMetrics")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
