use std::{fmt, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use steadfast_http::{
    BoxError,
    body::{FromBody, ReplayBody},
};

/// In which type the inner service gets the body of a request.
///
/// It is [`Wrapped`] or [`SameBody`]; nobody else implements it.
pub trait BodyMode<B>: sealed::OverHttp + Clone + Send + Sync + 'static {
    /// The body that the inner service takes.
    type Body: Send + 'static;

    /// The body of a request that is sent once.
    fn once(body: B) -> Self::Body;

    /// The body of one attempt.
    fn attempt(body: ReplayBody<B>) -> Self::Body;
}

/// The inner service takes [`ReplayBody`]: for services that take any body, such as hyper-util's client and axum's `Router`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wrapped;

/// The inner service takes the body type of the caller: for services that take only their own, such as tonic's `Channel`. A request
/// that may be retried and has a body pays for a box.
#[derive(Clone, Copy, Debug, Default)]
pub struct SameBody;

/// The requests are not HTTP, and a [`Policy`](crate::Policy) knows them.
pub struct Custom<P>(pub(crate) Arc<P>);

impl<B: Send + 'static> BodyMode<B> for Wrapped {
    type Body = ReplayBody<B>;

    fn once(body: B) -> ReplayBody<B> {
        ReplayBody::untouched(body)
    }

    fn attempt(body: ReplayBody<B>) -> ReplayBody<B> {
        body
    }
}

impl<B> BodyMode<B> for SameBody
where
    B: FromBody + Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Body = B;

    fn once(body: B) -> B {
        body
    }

    fn attempt(body: ReplayBody<B>) -> B {
        // Without a body there is nothing to keep, and no box to be paid.
        body.into_original().unwrap_or_else(B::from_body)
    }
}

impl<P> Clone for Custom<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for Custom<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "nobody else implements it")]
    pub trait OverHttp {}
    impl OverHttp for super::Wrapped {}
    impl OverHttp for super::SameBody {}
}
