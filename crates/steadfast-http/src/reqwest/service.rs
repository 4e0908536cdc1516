use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Extensions;
use http_body::Body;
use pin_project_lite::pin_project;
use reqwest::{Client, ResponseBuilderExt, Url};
use tower_service::Service;

use crate::{BoxError, body::FromBody};

/// reqwest's client, called with an `http::Request` of any body.
///
/// Ready when the client is; a request that reqwest cannot send leaves that readiness to the next call. The response converts back into a `reqwest::Response` without loss.
///
/// A body that has ended before it was sent is no body. Any other that is not a `reqwest::Body` is a stream to reqwest, with the
/// traps that the [module](super) names.
#[derive(Clone, Copy, Debug)]
pub struct ReqwestService<S = Client> {
    inner: S,
}

impl<S> ReqwestService<S> {
    /// Calls `inner`: the client, or any service that is called as the client is.
    pub const fn new(inner: S) -> Self {
        Self { inner }
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

impl<S, B> Service<http::Request<B>> for ReqwestService<S>
where
    S: Service<reqwest::Request, Response = reqwest::Response>,
    S::Error: From<reqwest::Error>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<reqwest::Body>;
    type Error = S::Error;
    type Future = ServiceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match reqwest_request(request) {
            Ok(request) => ServiceFuture::called(self.inner.call(request)),
            Err(error) => ServiceFuture::refused(error),
        }
    }
}

pin_project! {
    /// The response of [`ReqwestService`].
    #[derive(Debug)]
    pub struct ServiceFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<F> {
        // -> done, with the client's answer
        Called { #[pin] inner: F },
        // -> done, with the reason why reqwest cannot send the request
        Refused { error: Option<reqwest::Error> },
    }
}

impl<F> ServiceFuture<F> {
    const fn called(inner: F) -> Self {
        Self {
            state: State::Called { inner },
        }
    }

    const fn refused(error: reqwest::Error) -> Self {
        Self {
            state: State::Refused { error: Some(error) },
        }
    }
}

impl<F, E> Future for ServiceFuture<F>
where
    F: Future<Output = Result<reqwest::Response, E>>,
    E: From<reqwest::Error>,
{
    type Output = Result<http::Response<reqwest::Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { inner } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(http_response(response)))
            }
            StateProj::Refused { error } => {
                let error = error.take().expect("polled after it was ready");
                Poll::Ready(Err(error.into()))
            }
        }
    }
}

fn reqwest_request<B>(request: http::Request<B>) -> reqwest::Result<reqwest::Request>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let ended = request.body().is_end_stream();
    let mut request = reqwest::Request::try_from(request.map(reqwest::Body::from_body))?;
    if ended {
        *request.body_mut() = None;
    }
    Ok(request)
}

/// reqwest's own conversion drops the URL.
fn http_response(response: reqwest::Response) -> http::Response<reqwest::Body> {
    let url = url_extension(response.url().clone());
    let mut response = http::Response::from(response);
    response.extensions_mut().extend(url);
    response
}

/// The URL of a response in the form in which reqwest looks for it when it makes a `reqwest::Response`.
///
/// The type is private to reqwest; only a builder of responses makes one.
pub(super) fn url_extension(url: Url) -> Extensions {
    let response = http::Response::builder().url(url).body(());
    let (parts, ()) = response
        .expect("the builder was given nothing that can be invalid")
        .into_parts();
    parts.extensions
}
