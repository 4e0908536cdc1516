use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::retry::StoppedBy;
use steadfast_http::{
    BoxError,
    body::Replay,
    classify::{ErrorView, Typed},
    problem::Code,
};
use tokio::time::Instant;
use tower_service::Service;
use tracing::{Instrument, Span};

use crate::{
    CustomFuture, Policy, ResponseBody, ResponseFuture,
    custom::CustomExchange,
    future::{First, Limited, State},
    http::{HttpExchange, refusal},
    limit::Times,
    metrics::Passed,
    mode::{BodyMode, Custom, Wrapped},
    outcome::RetryOutcome,
    shared::{Core, Shared},
    signal,
    stamp::{deadline_of, names_a_deadline, stamp},
};

/// Makes another attempt where it is safe, useful and affordable. See the [crate docs](crate).
///
/// It is ready when its inner service is; further attempts are made on another clone of it, which each of them polls ready anew.
pub struct Retry<S, M = Wrapped, V = Typed> {
    inner: S,
    core: Arc<Core<S>>,
    mode: M,
    view: PhantomData<fn() -> V>,
}

impl<S: Clone, M, V> Retry<S, M, V> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>, mode: M) -> Self {
        Self {
            core: Arc::new(Core::new(shared, inner.clone())),
            inner,
            mode,
            view: PhantomData,
        }
    }
}

impl<S, M, V> Retry<S, M, V> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service. Further attempts are made on a clone that was taken before.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// Whether a request that is sent now may be sent again. It counts as an original.
    fn affords(&self, now: Instant) -> bool {
        self.shared().budget().is_none_or(|budget| {
            let now = now.into_std();
            budget.deposit(now);
            budget.has_token(now)
        })
    }
}

impl<S, M, V, B, RB> Service<Request<B>> for Retry<S, M, V>
where
    M: BodyMode<B>,
    V: ErrorView<S::Error>,
    S: Service<Request<M::Body>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    RB: Body + Send + 'static,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, M, V, B, RB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = &*self.core.shared;
        let start = Start::of(&request, shared);
        if start.is_watched {
            return self.start_watched(request, start);
        }
        if !start.retries {
            let attempt = self.inner.call(request.map(M::once));
            return ResponseFuture::new(State::Passed { attempt });
        }
        if !start.fits {
            return self.start_unkept(request, Passed::Body);
        }
        let now = Instant::now();
        if !self.affords(now) {
            return self.start_unkept(request, Passed::Budget);
        }

        // Nearly every request comes this way, and is large: what functions hand to each other, or a closure captures, is copied.
        let (head, body) = request.into_parts();
        let (replay, body) = Replay::new(body, shared.config().replay_limit, &shared.pool);
        let request = Request::from_parts(head, M::attempt(body));
        let exchange = HttpExchange::keeping(Arc::clone(&self.core), &request, replay);
        let span = signal::attempt_span(0);
        let entered = span.enter();
        let attempt = self.inner.call(request);
        drop(entered);
        ResponseFuture::first(attempt, First::new(exchange, Some(now), span))
    }
}

/// How a request can be started.
#[derive(Clone, Copy)]
struct Start {
    /// More than one attempt may be made.
    retries: bool,
    /// Its body does not say that it is larger than what is kept.
    fits: bool,
    /// Something may cut it, or wants to know its outcome.
    is_watched: bool,
}

impl Start {
    fn of<B>(request: &Request<B>, shared: &Shared) -> Self
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let config = shared.config();
        let retries = config.rules.max_attempts() > 1;
        Self {
            retries,
            fits: !Replay::exceeds(request.body(), config.replay_limit),
            is_watched: config.is_limited()
                || !retries && config.body_idle_timeout.is_some()
                || names_a_deadline(request, shared)
                || retries && shared.counts_outcomes(),
        }
    }
}

impl<S, M, V> Retry<S, M, V> {
    /// A request that cannot be sent again, and that nothing cuts.
    // Apart from `call`, whose frame would be larger for it with every request.
    #[inline(never)]
    fn start_unkept<B, RB>(
        &mut self,
        request: Request<B>,
        because: Passed,
    ) -> ResponseFuture<S, M, V, B, RB>
    where
        M: BodyMode<B>,
        S: Service<Request<M::Body>>,
    {
        self.shared().signals().passed(because);
        let unaffordable = matches!(because, Passed::Budget);
        let (exchange, request) = HttpExchange::once(Arc::clone(&self.core), request, unaffordable);
        let span = signal::attempt_span(0);
        let attempt = span.in_scope(|| self.inner.call(request));
        ResponseFuture::first(attempt, First::new(exchange, None, span))
    }

    /// A request that something may cut, or whose outcome somebody wants to know.
    #[inline(never)]
    fn start_watched<B, RB>(
        &mut self,
        request: Request<B>,
        start: Start,
    ) -> ResponseFuture<S, M, V, B, RB>
    where
        M: BodyMode<B>,
        V: ErrorView<S::Error>,
        S: Service<Request<M::Body>, Response = Response<RB>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
        RB: Body + Send + 'static,
    {
        let shared = &*self.core.shared;
        let now = Instant::now();
        let deadline = deadline_of(&request, shared, now);
        let times = Times::new(now, deadline, shared.config());
        let limit = times.limit(now);
        if limit.is_some_and(|limit| limit.has_passed(now)) {
            let outcome = RetryOutcome::new(0, StoppedBy::Deadline);
            shared.signals().stopped(outcome);
            let own = refusal(shared, Code::DeadlinePassed, outcome, false);
            // What the inner service has reserved for this call is wanted by others.
            self.inner = self.core.spare();
            let own = Some(Ok(own.map(ResponseBody::own)));
            return ResponseFuture::new(State::Refused { own });
        }

        let Start { retries, fits, .. } = start;
        let affords = retries && fits && self.affords(now);
        let core = Arc::clone(&self.core);
        let (exchange, mut request) = if affords {
            let (head, body) = request.into_parts();
            let (replay, body) = Replay::new(body, shared.config().replay_limit, &shared.pool);
            let request = Request::from_parts(head, M::attempt(body));
            let exchange = HttpExchange::<S, M, V, B>::keeping(core, &request, replay);
            (exchange, request)
        } else {
            if retries {
                let because = if fits { Passed::Budget } else { Passed::Body };
                shared.signals().passed(because);
            }
            HttpExchange::once(core, request, retries && fits)
        };
        if let Some(limit) = limit {
            stamp(&mut request, limit, &self.core.shared, now);
        }
        let span = signal::attempt_span(0);
        let attempt = span.in_scope(|| self.inner.call(request));
        match limit {
            None => ResponseFuture::first(attempt, First::new(exchange, Some(now), span)),
            Some(limit) => {
                let attempt = Limited::new(attempt.instrument(span), times, limit);
                ResponseFuture::limited(attempt, First::new(exchange, None, Span::none()))
            }
        }
    }
}

impl<S, P, Req> Service<Req> for Retry<S, Custom<P>>
where
    P: Policy<Req, S::Response, S::Error>,
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
    Req: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CustomFuture<S, P, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let shared = &*self.core.shared;
        let config = shared.config();
        let retries = config.rules.max_attempts() > 1;
        let is_limited = config.is_limited();
        if !retries && !is_limited {
            let attempt = self.inner.call(request);
            return CustomFuture::new(State::Passed { attempt });
        }
        let now = Instant::now();
        let times = Times::new(now, config.deadline_from(now), config);
        let limit = times.limit(now);
        let policy = Arc::clone(&self.mode.0);
        let idempotent = policy.is_idempotent(&request);
        let copy = if retries { policy.copy(&request) } else { None };
        // Where it cannot be sent again, it is no original.
        let unaffordable = copy.is_some() && !self.affords(now);
        let kept = copy.filter(|_| !unaffordable);
        let core = Arc::clone(&self.core);
        let exchange = CustomExchange::new(core, policy, idempotent, kept, unaffordable);
        let span = signal::attempt_span(0);
        let attempt = span.in_scope(|| self.inner.call(request));
        match limit {
            None => CustomFuture::first(attempt, First::new(exchange, Some(now), span)),
            Some(limit) => {
                let attempt = Limited::new(attempt.instrument(span), times, limit);
                CustomFuture::limited(attempt, First::new(exchange, None, Span::none()))
            }
        }
    }
}

// By hand: a derived one would ask for `V: Clone`.
impl<S: Clone, M: Clone, V> Clone for Retry<S, M, V> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            core: Arc::clone(&self.core),
            mode: self.mode.clone(),
            view: PhantomData,
        }
    }
}

impl<S: fmt::Debug, M, V> fmt::Debug for Retry<S, M, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("shared", &self.core.shared)
            .finish_non_exhaustive()
    }
}
