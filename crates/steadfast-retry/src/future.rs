use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use steadfast_core::verdict::Verdict;
use steadfast_http::{BoxError, classify::ErrorView};
use tokio::time::{Instant, Timeout, timeout_at};
use tower_service::Service;
use tracing::{Span, instrument::Instrumented};

use crate::{
    ResponseBody,
    call::{self, Call, Ended, Next, Rest},
    exchange::{ErrorOf, Exchange, ResponseOf, ResultOf},
    http::HttpExchange,
    limit::{Limit, Times},
    mode::BodyMode,
};

pin_project! {
    /// What a call waits for. A call that ends with its first attempt needs no box, but for a limit.
    #[project = StateProj]
    pub(crate) enum State<F, T> {
        /// The one attempt of a layer that makes no other.
        Passed { #[pin] attempt: F },
        /// The first attempt, which nothing cuts.
        ///
        /// To `Again` if there will be another one.
        First { #[pin] attempt: F },
        /// The first attempt, which a limit may cut. Boxed, so that others are not larger for its timer.
        ///
        /// To `Ended` with the attempt, and from there to `Again` if there will be another one.
        Limited { attempt: Pin<Box<Limited<F>>> },
        /// The rest of the call.
        Again { rest: Rest<T> },
        /// Nothing: the deadline had passed before the request could be sent.
        Refused { own: Option<T> },
        /// Nothing: the attempt is no more.
        Ended,
    }
}

pin_project! {
    /// A first attempt that a limit may cut.
    pub(crate) struct Limited<F> {
        #[pin]
        attempt: Timed<F>,
        times: Times,
        limit: Limit,
    }
}

pin_project! {
    /// A timer is of the runtime that polls the call, which may not be there yet when it is made.
    #[project = TimedProj]
    enum Timed<F> {
        Unpolled { attempt: Option<Instrumented<F>> },
        Polled { #[pin] attempt: Timeout<Instrumented<F>> },
    }
}

impl<F: Future> Limited<F> {
    pub(crate) fn new(attempt: Instrumented<F>, times: Times, limit: Limit) -> Self {
        let attempt = Some(attempt);
        Self {
            attempt: Timed::Unpolled { attempt },
            times,
            limit,
        }
    }

    /// The output of the attempt, or `None` if its limit came first.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut this = self.project();
        loop {
            let attempt = match this.attempt.as_mut().project() {
                TimedProj::Unpolled { attempt } => attempt.take().expect(COMPLETED),
                TimedProj::Polled { attempt } => return attempt.poll(cx).map(Result::ok),
            };
            let attempt = timeout_at(this.limit.deadline().moment(), attempt);
            this.attempt.set(Timed::Polled { attempt });
        }
    }
}

/// What goes with a first attempt.
pub(crate) struct First<X> {
    exchange: X,
    /// `None` where the clock was not read, since there cannot be a further attempt, and where a limit knows it.
    started: Option<Instant>,
    /// None where the attempt has it.
    span: Span,
}

impl<X> First<X> {
    pub(crate) const fn new(exchange: X, started: Option<Instant>, span: Span) -> Self {
        Self {
            exchange,
            started,
            span,
        }
    }
}

impl<F, T> State<F, T> {
    #[inline]
    pub(crate) fn poll<X>(
        mut self: Pin<&mut Self>,
        first: &mut Option<First<X>>,
        cx: &mut Context<'_>,
    ) -> Poll<T>
    where
        X: Exchange<Output = T, Service: Service<X::Request, Future = F>> + 'static,
        ResponseOf<X>: 'static,
        ErrorOf<X>: 'static,
        F: Future<Output = ResultOf<X>>,
    {
        loop {
            let rest = match self.as_mut().project() {
                StateProj::Passed { attempt } => return attempt.poll(cx).map(X::pass),
                StateProj::First { attempt } => {
                    let call = first.as_ref().expect(COMPLETED);
                    let polled = call.span.in_scope(|| attempt.poll(cx));
                    let Poll::Ready(result) = &polled else {
                        return Poll::Pending;
                    };
                    let verdict = call.exchange.verdict(result, None);
                    if verdict == Verdict::Success {
                        return polled.map(|result| succeed(first, result));
                    }
                    match ready!(polled.map(|result| go_on(first, result, verdict))) {
                        Next::Ended(output) => return Poll::Ready(output),
                        Next::Again(rest) => rest,
                    }
                }
                StateProj::Limited { attempt } => {
                    let finished = ready!(attempt.as_mut().poll(cx));
                    let (times, limit) = (attempt.times, attempt.limit);
                    self.set(Self::Ended);
                    match end_limited(first, finished, times, limit) {
                        Next::Ended(output) => return Poll::Ready(output),
                        Next::Again(rest) => rest,
                    }
                }
                StateProj::Again { rest } => return rest.as_mut().poll(cx),
                StateProj::Refused { own } => return Poll::Ready(own.take().expect(COMPLETED)),
                StateProj::Ended => panic!("{COMPLETED}"),
            };
            self.set(Self::Again { rest });
        }
    }
}

const COMPLETED: &str = "polled after completion";

/// The first attempt was a success, with which the call ends.
fn succeed<X: Exchange>(first: &mut Option<First<X>>, result: ResultOf<X>) -> X::Output {
    let exchange = &first.as_ref().expect(COMPLETED).exchange;
    let output = exchange.finish(result, call::succeed(exchange.shared()));
    // What was kept is of no use any more. It is large: dropped where it stands.
    *first = None;
    output
}

/// The first attempt was no success.
#[cold]
fn go_on<X>(first: &mut Option<First<X>>, result: ResultOf<X>, verdict: Verdict) -> Next<X::Output>
where
    X: Exchange + 'static,
    ResponseOf<X>: 'static,
    ErrorOf<X>: 'static,
{
    let First {
        exchange, started, ..
    } = first.take().expect(COMPLETED);
    let started = started.unwrap_or_else(Instant::now);
    let times = Times::new(started, None, exchange.shared().config());
    Call::new(exchange, times, None).after_first(result, verdict)
}

/// The first attempt was finished before its limit, or cut by it.
fn end_limited<X>(
    first: &mut Option<First<X>>,
    finished: Option<ResultOf<X>>,
    times: Times,
    limit: Limit,
) -> Next<X::Output>
where
    X: Exchange + 'static,
    ResponseOf<X>: 'static,
    ErrorOf<X>: 'static,
{
    let exchange = &first.as_ref().expect(COMPLETED).exchange;
    match Ended::of(exchange, finished, Some(limit)) {
        Ended::Finished(result, Verdict::Success) => Next::Ended(succeed(first, result)),
        ended @ (Ended::Finished(..) | Ended::Cut(_)) => {
            let First { exchange, .. } = first.take().expect(COMPLETED);
            Call::new(exchange, times, Some(limit)).after(ended)
        }
    }
}

pin_project! {
    /// What [`Retry`](crate::Retry) answers with.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the attempt that is under way, gives back to the budget what was not used, and lets go of the body that was
    /// kept.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, M, V, B, RB>
    where
        M: BodyMode<B>,
        S: Service<Request<M::Body>>,
    {
        #[pin]
        state: HttpState<S, M, B, RB>,
        first: Option<First<HttpExchange<S, M, V, B>>>,
    }
}

type HttpState<S, M, B, RB> = State<
    <S as Service<Request<<M as BodyMode<B>>::Body>>>::Future,
    Result<Response<ResponseBody<RB>>, <S as Service<Request<<M as BodyMode<B>>::Body>>>::Error>,
>;

impl<S, M, V, B, RB> ResponseFuture<S, M, V, B, RB>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
{
    /// A call that the state tells all about.
    pub(crate) const fn new(state: HttpState<S, M, B, RB>) -> Self {
        Self { state, first: None }
    }

    /// A call that ends with its first attempt, unless there are to be others.
    pub(crate) const fn first(attempt: S::Future, first: First<HttpExchange<S, M, V, B>>) -> Self {
        Self {
            state: State::First { attempt },
            first: Some(first),
        }
    }

    /// The same for one that a limit may cut.
    pub(crate) fn limited(
        attempt: Limited<S::Future>,
        first: First<HttpExchange<S, M, V, B>>,
    ) -> Self {
        let attempt = Box::pin(attempt);
        Self {
            state: State::Limited { attempt },
            first: Some(first),
        }
    }
}

impl<S, M, V, B, RB> fmt::Debug for ResponseFuture<S, M, V, B, RB>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, M, V, B, RB> Future for ResponseFuture<S, M, V, B, RB>
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
    type Output = Result<Response<ResponseBody<RB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.state.poll(this.first, cx)
    }
}
