//! What passes behind a body.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::headers;

/// A response's body whose trailers are those that a proxy may pass on.
pub(crate) struct Checked<B>(B);

impl<B> Checked<B> {
    pub(crate) const fn new(body: B) -> Self {
        Self(body)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Checked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_ok(check)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Takes out of trailers what a proxy may not pass on.
pub(crate) fn check(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::of_trailers(trailers);
    }
    frame
}
