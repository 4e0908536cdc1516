use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    ResponseFuture,
    series::{Hosts, MethodIndex},
};

/// Counts and times the calls of its inner service. See the [crate docs](crate).
#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S> Measured<S> {
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

impl<S, B, RB> Service<Request<B>> for Measured<S>
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
        let host = self.hosts.of(request.uri(), request.headers());
        let method = MethodIndex::of(request.method());
        ResponseFuture::new(host, method, || self.inner.call(request))
    }
}
