use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;

use crate::{measurement::Measurement, series::End};

pin_project! {
    /// What [`ClientMetrics`](crate::ClientMetrics) answers with.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the call, which is counted as `elapsed` if the deadline of the request has passed by then, and else as
    /// `cancelled`.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        call: F,
        measurement: Measurement,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn new(call: F, measurement: Measurement) -> Self {
        Self { call, measurement }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx));
        this.measurement.end(match &result {
            Ok(response) => End::of(response.status()),
            Err(_) => End::Error,
        });
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
