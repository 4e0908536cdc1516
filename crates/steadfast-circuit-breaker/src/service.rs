use std::{
    fmt,
    task::{Context, Poll},
};

use steadfast_core::breaker::Rejection;
use tower_service::Service;

use crate::{
    CircuitBreaker, OverHttp, Rejected, ResponseFuture,
    admission::{Held, Pass},
    mode::Mode,
    source::Breakers,
};

/// Calls its inner service as long as a breaker lets it. See the [crate docs](crate).
///
/// Where one breaker guards all requests, and lets none pass, it is ready at once, to reject without the inner service; otherwise it
/// is ready when that one is. Who waits for the inner service is not woken when the breaker opens meanwhile.
pub struct Guarded<S, M = OverHttp, B = CircuitBreaker> {
    inner: S,
    mode: M,
    breakers: B,
    readiness: Readiness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Nobody asked.
    Unknown,
    /// The inner service is not ready, and may have given us a place in a queue.
    Waiting,
    /// The inner service is ready, and may have reserved something for the next call.
    Ready,
    /// The inner service was not asked, since nothing would have passed.
    Unasked,
}

impl<S, M, B> Guarded<S, M, B> {
    pub(crate) const fn new(inner: S, mode: M, breakers: B) -> Self {
        Self {
            inner,
            mode,
            breakers,
            readiness: Readiness::Unknown,
        }
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

impl<S, M, B> Guarded<S, M, B> {
    /// What the inner service has reserved for a call that does not come is wanted by others: a clone of it has nothing reserved.
    #[cold]
    fn release(&mut self)
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
    }

    #[cold]
    fn reject<Req>(
        &self,
        request: Req,
        held: &Held,
        rejection: Rejection,
    ) -> ResponseFuture<S, M, Req>
    where
        S: Service<Req>,
        M: Mode<Req, S::Response, S::Error>,
    {
        let rejected = Rejected::by(held.shared(), rejection);
        ResponseFuture::rejected(self.mode.reject(request, rejected))
    }
}

impl<S, M, B, Req> Service<Req> for Guarded<S, M, B>
where
    S: Service<Req> + Clone,
    M: Mode<Req, S::Response, S::Error>,
    B: Breakers<Req>,
{
    type Response = M::Response;
    type Error = M::Error;
    type Future = ResponseFuture<S, M, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        if self.readiness != Readiness::Ready && !self.breakers.would_admit() {
            if self.readiness == Readiness::Waiting {
                self.release();
            }
            self.readiness = Readiness::Unasked;
            return Poll::Ready(Ok(()));
        }
        let polled = self.inner.poll_ready(cx).map_err(M::fail);
        self.readiness = match polled {
            Poll::Ready(Ok(())) => Readiness::Ready,
            Poll::Ready(Err(_)) => Readiness::Unknown,
            Poll::Pending => Readiness::Waiting,
        };
        polled
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let readiness = std::mem::replace(&mut self.readiness, Readiness::Unknown);
        let held = self.breakers.hold(&request);
        if readiness == Readiness::Unasked {
            // Whatever the state is by now: the inner service is not ready.
            return self.reject(request, &held, held.shared().reject_unready());
        }
        let deadline = self.mode.deadline(&request);
        let mut pass = match Pass::ask(held, deadline) {
            Ok(pass) => pass,
            Err((held, rejection)) => {
                if readiness == Readiness::Ready {
                    self.release();
                }
                return self.reject(request, &held, rejection);
            }
        };
        // A closure would capture the request, which is large, by a copy.
        pass.enter();
        let call = self.inner.call(request);
        pass.leave();
        ResponseFuture::called(call, self.mode.clone(), pass)
    }
}

// A clone has not been asked whether it is ready.
impl<S: Clone, M: Clone, B: Clone> Clone for Guarded<S, M, B> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.mode.clone(), self.breakers.clone())
    }
}

impl<S: fmt::Debug, M, B: fmt::Debug> fmt::Debug for Guarded<S, M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("inner", &self.inner)
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}
