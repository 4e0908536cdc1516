#[cfg(feature = "reqwest")]
use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;
#[cfg(feature = "reqwest")]
use http_body::{Frame, SizeHint};
#[cfg(feature = "reqwest")]
use pin_project_lite::pin_project;
#[cfg(feature = "reqwest")]
use sync_wrapper::SyncWrapper;

use crate::BoxError;

/// A body type that can hold any other: where a service takes only its own body, as tonic's `Channel` does.
///
/// It is a trait of this crate because `From<ReplayBody<B>>` could only be written in the crate of the body: neither the trait nor
/// the type would be ours. Implement it for a body type of your own to put a layer in front of a service that takes only that:
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
/// use steadfast_http::{BoxError, body::FromBody};
///
/// struct MyBody(UnsyncBoxBody<Bytes, BoxError>);
///
/// impl FromBody for MyBody {
///     fn from_body<T>(body: T) -> Self
///     where
///         T: http_body::Body<Data = Bytes> + Send + 'static,
///         T::Error: Into<BoxError>,
///     {
///         Self(body.map_err(Into::into).boxed_unsync())
///     }
/// }
/// ```
pub trait FromBody: Sized {
    /// Holds `body`.
    fn from_body<T>(body: T) -> Self
    where
        T: Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>;
}

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl FromBody for axum_core::body::Body {
    fn from_body<T>(body: T) -> Self
    where
        T: Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        Self::new(body)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl FromBody for tonic::body::Body {
    fn from_body<T>(body: T) -> Self
    where
        T: Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        Self::new(body)
    }
}

/// A body without a frame to come becomes reqwest's empty one, which it can send again by itself; any other one is a stream to it.
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl FromBody for reqwest::Body {
    fn from_body<T>(body: T) -> Self
    where
        T: Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::default();
        }
        let mut body = Some(body);
        if let Some(body) = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return body.take().unwrap_or_default();
        }
        match body {
            Some(body) => Self::wrap(SyncBody::new(body)),
            None => Self::default(),
        }
    }
}

#[cfg(feature = "reqwest")]
pin_project! {
    /// A body that can be shared between threads, which reqwest demands of its bodies.
    ///
    /// There is no shared access to what is in a `SyncWrapper`: what the body says of itself is asked while it is polled.
    struct SyncBody<T> {
        #[pin]
        body: SyncWrapper<T>,
        is_end_stream: bool,
        size_hint: SizeHint,
    }
}

#[cfg(feature = "reqwest")]
impl<T: Body> SyncBody<T> {
    fn new(body: T) -> Self {
        Self {
            is_end_stream: body.is_end_stream(),
            size_hint: body.size_hint(),
            body: SyncWrapper::new(body),
        }
    }
}

#[cfg(feature = "reqwest")]
impl<T> Body for SyncBody<T>
where
    T: Body<Data = Bytes>,
    T::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let mut body = this.body.get_pin_mut();
        let frame = ready!(body.as_mut().poll_frame(cx));
        *this.is_end_stream = body.is_end_stream();
        *this.size_hint = body.size_hint();
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
