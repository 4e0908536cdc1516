use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use reqwest::Url;
use tower_service::Service;

use super::service::url_extension;
use crate::{BoxError, body::FromBody};

/// HTTP layers around reqwest's client, called as the client is: what [`ReqwestLayer`](super::ReqwestLayer) makes.
///
/// Ready when the outermost of the layers is.
#[derive(Clone, Copy, Debug)]
pub struct ReqwestStack<T> {
    inner: T,
}

impl<T> ReqwestStack<T> {
    /// Calls `inner`: layers around a [`ReqwestService`](super::ReqwestService).
    pub const fn new(inner: T) -> Self {
        Self { inner }
    }

    /// The layers, with the client inside.
    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// The layers, with the client inside.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The layers, with the client inside.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T, RB> Service<reqwest::Request> for ReqwestStack<T>
where
    T: Service<http::Request<reqwest::Body>, Response = http::Response<RB>>,
    T::Error: From<reqwest::Error>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = reqwest::Response;
    type Error = T::Error;
    type Future = StackFuture<T::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: reqwest::Request) -> Self::Future {
        let url = request.url().clone();
        match http::Request::try_from(request) {
            Ok(request) => StackFuture::called(self.inner.call(request), url),
            Err(error) => StackFuture::refused(error.with_url(url)),
        }
    }
}

pin_project! {
    /// The response of [`ReqwestStack`].
    #[derive(Debug)]
    pub struct StackFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<F> {
        // -> done, with the answer of the layers; `url` is taken for it
        Called { #[pin] inner: F, url: Option<Url> },
        // -> done, with the reason why the request cannot be sent
        Refused { error: Option<reqwest::Error> },
    }
}

impl<F> StackFuture<F> {
    const fn called(inner: F, url: Url) -> Self {
        Self {
            state: State::Called {
                inner,
                url: Some(url),
            },
        }
    }

    const fn refused(error: reqwest::Error) -> Self {
        Self {
            state: State::Refused { error: Some(error) },
        }
    }
}

impl<F, RB, E> Future for StackFuture<F>
where
    F: Future<Output = Result<http::Response<RB>, E>>,
    E: From<reqwest::Error>,
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Output = Result<reqwest::Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { inner, url } => {
                let response = ready!(inner.poll(cx))?;
                let url = url.take().expect("polled after it was ready");
                Poll::Ready(Ok(reqwest_response(response, url)))
            }
            StateProj::Refused { error } => {
                let error = error.take().expect("polled after it was ready");
                Poll::Ready(Err(error.into()))
            }
        }
    }
}

/// `url` is for a response that has none of its own, because it does not come from the client.
fn reqwest_response<RB>(response: http::Response<RB>, url: Url) -> reqwest::Response
where
    RB: Body<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    let mut response = response.map(reqwest::Body::from_body);
    let mut extensions = url_extension(url);
    extensions.extend(mem::take(response.extensions_mut()));
    *response.extensions_mut() = extensions;
    response.into()
}
