use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{Captured, Unfinished};
use crate::BoxError;

pin_project! {
    /// The body of a request that passed a layer: the original, untouched, or what the layer captured of it.
    pub struct CapturedBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[project = RequestKindProj]
    enum RequestKind<B> {
        Untouched { #[pin] body: B },
        Captured { #[pin] body: Captured },
    }
}

impl<B> CapturedBody<B> {
    /// The original.
    pub const fn untouched(body: B) -> Self {
        Self {
            kind: RequestKind::Untouched { body },
        }
    }

    /// What was captured of it.
    #[must_use]
    pub const fn captured(body: Captured) -> Self {
        Self {
            kind: RequestKind::Captured { body },
        }
    }
}

impl<B> Default for CapturedBody<B> {
    fn default() -> Self {
        Self::captured(Captured::default())
    }
}

impl<B> fmt::Debug for CapturedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            RequestKind::Untouched { .. } => "untouched",
            RequestKind::Captured { .. } => "captured",
        };
        f.debug_struct("CapturedBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl<B> Body for CapturedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            RequestKindProj::Untouched { body } => poll_original(body, cx),
            RequestKindProj::Captured { body } => poll_captured(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Untouched { body } => body.is_end_stream(),
            RequestKind::Captured { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Untouched { body } => body.size_hint(),
            RequestKind::Captured { body } => body.size_hint(),
        }
    }
}

pin_project! {
    /// The body of a response that passed a layer: the handler's own, untouched or resumed after a part of it was read, or one
    /// that was captured before or made up by the layer.
    pub struct ReplyBody<B> {
        #[pin]
        kind: ResponseKind<B>,
    }
}

pin_project! {
    /// Boxes hold what few responses need, so that the others are not larger for it.
    #[project = ResponseKindProj]
    enum ResponseKind<B> {
        Untouched { #[pin] body: B },
        Captured { body: Box<Captured> },
        Unfinished { body: Pin<Box<Unfinished<B>>> },
    }
}

impl<B> ReplyBody<B> {
    /// The handler's own.
    #[inline]
    pub const fn untouched(body: B) -> Self {
        Self {
            kind: ResponseKind::Untouched { body },
        }
    }

    /// A whole body.
    #[must_use]
    pub fn captured(body: Captured) -> Self {
        let body = Box::new(body);
        Self {
            kind: ResponseKind::Captured { body },
        }
    }

    /// The handler's own, of which some was read already.
    #[must_use]
    pub fn unfinished(body: Unfinished<B>) -> Self {
        let body = Box::pin(body);
        Self {
            kind: ResponseKind::Unfinished { body },
        }
    }
}

impl<B> Default for ReplyBody<B> {
    fn default() -> Self {
        Self::captured(Captured::default())
    }
}

impl<B> fmt::Debug for ReplyBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            ResponseKind::Untouched { .. } => "untouched",
            ResponseKind::Captured { .. } => "captured",
            ResponseKind::Unfinished { .. } => "unfinished",
        };
        f.debug_struct("ReplyBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl<B> Body for ReplyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            ResponseKindProj::Untouched { body } => poll_original(body, cx),
            ResponseKindProj::Captured { body } => poll_captured(Pin::new(&mut **body), cx),
            ResponseKindProj::Unfinished { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseKind::Untouched { body } => body.is_end_stream(),
            ResponseKind::Captured { body } => body.is_end_stream(),
            ResponseKind::Unfinished { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseKind::Untouched { body } => body.size_hint(),
            ResponseKind::Captured { body } => body.size_hint(),
            ResponseKind::Unfinished { body } => body.size_hint(),
        }
    }
}

fn poll_original<B>(
    body: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    Poll::Ready(ready!(body.poll_frame(cx)).map(|frame| frame.map_err(Into::into)))
}

fn poll_captured(
    body: Pin<&mut Captured>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    let never = |error: Infallible| match error {};
    Poll::Ready(ready!(body.poll_frame(cx)).map(|frame| frame.map_err(never)))
}

#[cfg(test)]
mod tests {
    use http_body_util::combinators::UnsyncBoxBody;

    use super::*;

    #[test]
    fn a_reply_is_hardly_larger_than_the_handlers_own() {
        type Own = UnsyncBoxBody<Bytes, BoxError>;

        assert!(size_of::<ReplyBody<Own>>() <= size_of::<Own>() + size_of::<usize>());
    }
}
