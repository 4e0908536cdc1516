use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use steadfast_core::{retry::StoppedBy, verdict::Verdict};
use steadfast_http::{BoxError, classify::ErrorView};
use tokio::time::Instant;
use tower_service::Service;
use tracing::Span;

use crate::{
    ResponseBody,
    call::{Call, End, Next, Rest, succeed},
    exchange::{AttemptOf, ErrorOf, Exchange, ResponseOf},
    http::HttpExchange,
    limit::Times,
    mode::BodyMode,
    outcome::RetryOutcome,
};

pin_project! {
    /// Where a call stands. A call that ends with its first attempt needs no box.
    #[project = StateProj]
    pub(crate) enum State<F, X, R, E, Own> {
        /// Waits for the one attempt of a layer that makes no other.
        Passed { #[pin] attempt: F },
        /// Waits for the first attempt, which nothing cuts.
        ///
        /// To `Again` if there will be another one.
        First { #[pin] attempt: F, exchange: Option<X>, started: Instant, span: Span },
        /// Waits for the rest of the call.
        Again { rest: Rest<R, E, Own> },
        /// The deadline had passed before the request could be sent.
        Refused { own: Option<Own> },
    }
}

impl<X> State<AttemptOf<X>, X, ResponseOf<X>, ErrorOf<X>, X::Refusal>
where
    X: Exchange + 'static,
    ResponseOf<X>: 'static,
    ErrorOf<X>: 'static,
{
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<End<ResponseOf<X>, ErrorOf<X>, X::Refusal>> {
        loop {
            let rest = match self.as_mut().project() {
                StateProj::Passed { attempt } => {
                    let result = ready!(attempt.poll(cx));
                    return Poll::Ready(End::Result(result, PASSED));
                }
                StateProj::First {
                    attempt,
                    exchange,
                    started,
                    span,
                } => {
                    let result = ready!(span.in_scope(|| attempt.poll(cx)));
                    let first = exchange.as_ref().expect("polled after completion");
                    let verdict = first.verdict(&result, None);
                    if verdict == Verdict::Success {
                        let outcome = succeed(first.shared());
                        // What was kept is of no use any more. It is large: dropped where it stands.
                        *exchange = None;
                        return Poll::Ready(End::Result(result, outcome));
                    }
                    let exchange = exchange.take().expect("it was there");
                    let times = Times::new(*started, None, exchange.shared().config());
                    let call = Call::new(exchange, times, None);
                    match call.after_first(result, verdict) {
                        Next::Ended(end) => return Poll::Ready(end),
                        Next::Again(rest) => rest,
                    }
                }
                StateProj::Again { rest } => return rest.as_mut().poll(cx),
                StateProj::Refused { own } => {
                    let own = own.take().expect("polled after completion");
                    return Poll::Ready(End::Refused(own));
                }
            };
            self.set(Self::Again { rest });
        }
    }
}

/// Of a call that the layer had no part in: nothing to be told.
const PASSED: RetryOutcome = RetryOutcome::new(1, StoppedBy::Success);

pin_project! {
    /// What [`Retry`](crate::Retry) answers with.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the attempt that is under way, gives back to the budget what was not used, and lets go of the body that was
    /// kept.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, M, V, B>
    where
        M: BodyMode<B>,
        S: Service<Request<M::Body>>,
    {
        #[pin]
        pub(crate) state: HttpState<S, M, V, B>,
        pub(crate) body_idle_timeout: Option<Duration>,
    }
}

pub(crate) type HttpState<S, M, V, B> = State<
    <S as Service<Request<<M as BodyMode<B>>::Body>>>::Future,
    HttpExchange<S, M, V, B>,
    <S as Service<Request<<M as BodyMode<B>>::Body>>>::Response,
    <S as Service<Request<<M as BodyMode<B>>::Body>>>::Error,
    Response<Bytes>,
>;

impl<S, M, V, B> ResponseFuture<S, M, V, B>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
{
    pub(crate) const fn new(
        state: HttpState<S, M, V, B>,
        body_idle_timeout: Option<Duration>,
    ) -> Self {
        Self {
            state,
            body_idle_timeout,
        }
    }
}

impl<S, M, V, B> fmt::Debug for ResponseFuture<S, M, V, B>
where
    M: BodyMode<B>,
    S: Service<Request<M::Body>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, M, V, B, RB> Future for ResponseFuture<S, M, V, B>
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
        Poll::Ready(match ready!(this.state.poll(cx)) {
            End::Result(Ok(mut response), outcome) => {
                if !outcome.goes_without_saying() {
                    response.extensions_mut().insert(outcome);
                }
                let idle = *this.body_idle_timeout;
                Ok(response.map(|body| ResponseBody::passed(body, idle)))
            }
            End::Result(Err(error), _) => Err(error),
            End::Refused(refusal) => Ok(refusal.map(ResponseBody::own)),
        })
    }
}
