//! How long the caller of a call waits.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response};
use steadfast::http::{Deadline, grpc};
use tokio::time::Instant;
use tonic::Status;
use tower::{Layer, Service};

/// Puts the moment at which the caller stops waiting into the extensions of a call, if it says when.
///
/// # Errors
///
/// Never.
pub fn read(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
    let timeout = grpc::timeout(request.metadata().as_ref());
    // Beyond what a clock can hold there is no deadline.
    if let Some(moment) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
        request.extensions_mut().insert(Deadline::at(moment));
    }
    Ok(request)
}

/// Refuses the calls of a method that come with less time than it takes, and does nothing for them.
#[derive(Clone, Copy, Debug)]
pub struct TimeNeededLayer {
    method: &'static str,
    needed: Duration,
}

impl TimeNeededLayer {
    /// Of the method with this path, which takes so long.
    #[must_use]
    pub const fn new(method: &'static str, needed: Duration) -> Self {
        Self { method, needed }
    }

    /// DEADLINE_EXCEEDED if the caller does not wait for the end of the work. What an earlier call with its key has done is not
    /// known here.
    fn check<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let needed = self.needed;
        match request.extensions().get::<Deadline>() {
            Some(deadline)
                if request.uri().path() == self.method
                    && deadline.remaining(Instant::now()) <= needed =>
            {
                Err(Status::deadline_exceeded(format!(
                    "this takes {needed:?}, and less time is left; this call did nothing"
                )))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl<S> Layer<S> for TimeNeededLayer {
    type Service = TimeNeeded<S>;

    fn layer(&self, inner: S) -> TimeNeeded<S> {
        TimeNeeded {
            inner,
            layer: *self,
        }
    }
}

/// See [`TimeNeededLayer`].
#[derive(Clone, Debug)]
pub struct TimeNeeded<S> {
    inner: S,
    layer: TimeNeededLayer,
}

impl<S, B, RB> Service<Request<B>> for TimeNeeded<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Default,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<RB>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.check(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(refused) => Either::Left(ready(Ok(refused.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &str = "/a.Service/Work";

    fn received(method: &str, timeout: Option<&'static str>) -> Request<()> {
        let mut call = tonic::Request::new(());
        if let Some(timeout) = timeout {
            let timeout = timeout.parse().unwrap();
            call.metadata_mut().insert("grpc-timeout", timeout);
        }
        let (_, extensions, ()) = read(call).unwrap().into_parts();
        let mut request = Request::new(());
        *request.uri_mut() = method.parse().unwrap();
        *request.extensions_mut() = extensions;
        request
    }

    fn begins(request: &Request<()>, needed: Duration) -> bool {
        TimeNeededLayer::new(METHOD, needed).check(request).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn work_begins_only_if_the_time_that_is_left_is_enough_for_it() {
        let request = received(METHOD, Some("300m"));

        assert!(begins(&request, Duration::from_millis(299)));
        assert!(!begins(&request, Duration::from_millis(300)));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(begins(&request, Duration::from_millis(199)));
        assert!(!begins(&request, Duration::from_millis(200)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!begins(&request, Duration::ZERO));
    }

    #[tokio::test]
    async fn other_methods_are_not_looked_at() {
        let request = received("/a.Service/Read", Some("1m"));

        assert!(begins(&request, Duration::from_secs(3600)));
    }

    #[tokio::test]
    async fn without_a_timeout_that_can_be_read_nobody_stops_waiting() {
        for timeout in [None, Some("soon"), Some("99999999H")] {
            let request = received(METHOD, timeout);

            assert!(begins(&request, Duration::from_secs(3600)));
        }
    }
}
