use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;
use steadfast_http::body::ReplyBody;

type Keyed<RB, E> = Pin<Box<dyn Future<Output = Result<Response<ReplyBody<RB>>, E>> + Send>>;

pin_project! {
    /// The response of [`Idempotency`](crate::Idempotency).
    ///
    /// Dropped before a keyed request's body is there, nothing was claimed. Dropped later, the operation goes on without its
    /// caller.
    pub struct ResponseFuture<F, RB, E> {
        #[pin]
        state: State<F, RB, E>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, RB, E> {
        // -> done, with the inner service's answer
        Bypassed { #[pin] inner: F },
        // -> done, with the answer of the layer
        Refused { response: Option<Response<ReplyBody<RB>>> },
        // -> done, with the operation's answer
        Keyed { keyed: Keyed<RB, E> },
    }
}

impl<F, RB, E> ResponseFuture<F, RB, E> {
    pub(crate) const fn bypassed(inner: F) -> Self {
        Self {
            state: State::Bypassed { inner },
        }
    }

    pub(crate) const fn refused(response: Response<ReplyBody<RB>>) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
        }
    }

    pub(crate) fn keyed(
        keyed: impl Future<Output = Result<Response<ReplyBody<RB>>, E>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Keyed {
                keyed: Box::pin(keyed),
            },
        }
    }
}

impl<F, RB, E> Future for ResponseFuture<F, RB, E>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<ReplyBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Bypassed { inner } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(response.map(ReplyBody::untouched)))
            }
            StateProj::Refused { response } => {
                let response = response.take().expect("polled after it was ready");
                Poll::Ready(Ok(response))
            }
            StateProj::Keyed { keyed } => keyed.as_mut().poll(cx),
        }
    }
}

impl<F, RB, E> fmt::Debug for ResponseFuture<F, RB, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Bypassed { .. } => "bypassed",
            State::Refused { .. } => "refused",
            State::Keyed { .. } => "keyed",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
