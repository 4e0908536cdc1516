use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_http::{
    BoxError,
    body::{CapturedBody, ReplyBody},
    problem::Problem,
};
use steadfast_store::Store;
use tower_service::Service;

use crate::{
    ResponseFuture,
    intake::{Intake, Named, intake, named},
    keyed,
    shared::Shared,
    wire::Wire,
};

/// The service that [`IdempotencyLayer`](crate::IdempotencyLayer) makes.
///
/// Ready when the inner service is. A request that the layer does not cover goes to the instance that was polled ready, with its
/// body untouched. A keyed request gives that readiness back and asks for it again once its operation is claimed, so that no
/// permit of the inner service is held while a client is slow, a duplicate waits or an answer is replayed. Put limits of
/// concurrency outside the layer where replays must not wait for them.
pub struct Idempotency<S, St> {
    inner: S,
    shared: Arc<Shared<St>>,
}

impl<S, St> Idempotency<S, St> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared<St>>) -> Self {
        Self { inner, shared }
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

    /// Calls the instance that was polled ready.
    fn bypass<B, RB>(&mut self, request: Request<B>) -> ResponseFuture<S::Future, RB, S::Error>
    where
        S: Service<Request<CapturedBody<B>>, Response = Response<RB>>,
    {
        ResponseFuture::bypassed(self.inner.call(request.map(CapturedBody::untouched)))
    }

    fn refuse<F, RB, E>(&mut self, problem: Problem, wire: Wire) -> ResponseFuture<F, RB, E>
    where
        S: Clone,
    {
        self.give_readiness_back();
        ResponseFuture::refused(self.shared.refuse(problem, wire))
    }

    /// Frees what the inner service reserved for a call that is not made.
    fn give_readiness_back(&mut self)
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
    }
}

impl<S, St, B, RB> Service<Request<B>> for Idempotency<S, St>
where
    St: Store,
    S: Service<Request<CapturedBody<B>>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ReplyBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, RB, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let key = match named(&self.shared.settings, &request) {
            Named::By(key) => key,
            Named::No => return self.bypass(request),
            Named::Refused(problem) => return self.refuse(problem, Wire::of(request.headers())),
        };
        let wire = Wire::of(request.headers());
        let store = self.shared.store.id();
        match intake(&self.shared.settings, store, wire, request, &key) {
            Intake::Bypass(request) => self.bypass(request),
            Intake::Refused(problem) => self.refuse(problem, wire),
            Intake::Keyed(request) => {
                self.give_readiness_back();
                let inner = self.inner.clone();
                ResponseFuture::keyed(keyed::respond(Arc::clone(&self.shared), inner, request))
            }
        }
    }
}

impl<S: Clone, St> Clone for Idempotency<S, St> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for Idempotency<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish()
    }
}
