use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::series::{End, Host, MethodIndex};

pin_project! {
    /// What [`Measured`](crate::Measured) answers with.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the call, which is counted as `cancelled`.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        call: F,
        measurement: Measurement,
    }
}

impl<F> ResponseFuture<F> {
    /// The time of the call begins before it is made.
    pub(crate) fn new(host: Arc<Host>, method: MethodIndex, call: impl FnOnce() -> F) -> Self {
        let measurement = Measurement {
            host,
            method,
            started: Instant::now(),
            is_over: false,
        };
        Self {
            call: call(),
            measurement,
        }
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
            Ok(response) => End::Status(response.status()),
            Err(_) => End::Error,
        });
        Poll::Ready(result)
    }
}

/// The time of one call, which is counted once.
#[derive(Debug)]
struct Measurement {
    host: Arc<Host>,
    method: MethodIndex,
    started: Instant,
    is_over: bool,
}

impl Measurement {
    fn end(&mut self, end: End) {
        if !self.is_over {
            self.is_over = true;
            self.host.ended(self.method, end, self.started.elapsed());
        }
    }
}

impl Drop for Measurement {
    fn drop(&mut self) {
        self.end(End::Cancelled);
    }
}
