use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{admission::Pass, mode::Mode};

pin_project! {
    /// What [`Guarded`](crate::Guarded) answers with.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the call. That says nothing of the destination, unless the deadline of the request has passed by then and it
    /// had waited for the [least wait](crate::BreakerConfig::with_least_wait); a probe makes room for another one.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, M, Req>
    where
        S: Service<Req>,
        M: Mode<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S::Future, M, Result<M::Response, M::Error>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, M, T> {
        /// Waits for the inner service.
        Called { #[pin] call: F, mode: M, pass: Option<Pass> },
        /// Did not pass.
        Rejected { answer: Option<T> },
    }
}

impl<S, M, Req> ResponseFuture<S, M, Req>
where
    S: Service<Req>,
    M: Mode<Req, S::Response, S::Error>,
{
    #[inline]
    pub(crate) const fn called(call: S::Future, mode: M, pass: Pass) -> Self {
        Self {
            state: State::Called {
                call,
                mode,
                pass: Some(pass),
            },
        }
    }

    pub(crate) const fn rejected(answer: Result<M::Response, M::Error>) -> Self {
        Self {
            state: State::Rejected {
                answer: Some(answer),
            },
        }
    }
}

impl<S, M, Req> Future for ResponseFuture<S, M, Req>
where
    S: Service<Req>,
    M: Mode<Req, S::Response, S::Error>,
{
    type Output = Result<M::Response, M::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { call, mode, pass } => {
                let under_way = pass.as_mut().expect(COMPLETED);
                let polled = under_way.run(|| call.poll(cx));
                polled.map(|result| mode.finish(pass, result))
            }
            StateProj::Rejected { answer } => Poll::Ready(answer.take().expect(COMPLETED)),
        }
    }
}

const COMPLETED: &str = "polled after completion";

impl<S, M, Req> fmt::Debug for ResponseFuture<S, M, Req>
where
    S: Service<Req>,
    M: Mode<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
