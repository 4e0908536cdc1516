use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody, channel::Channel, combinators::UnsyncBoxBody};

use super::BoxError;

/// The body of every request and response: neither `Clone` nor `Sync`.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// One frame, whose length is known.
pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// One frame, then trailers.
pub(crate) fn with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> Body {
    body(bytes)
        .with_trailers(async move { Some(Ok(trailers)) })
        .boxed_unsync()
}

/// One frame, then an error.
pub(crate) fn broken(bytes: impl Into<Bytes>) -> Body {
    let frames = [
        Ok(Frame::data(bytes.into())),
        Err(BoxError::from("the body broke")),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Whose frames come when the test sends them.
pub(crate) fn channel() -> (http_body_util::channel::Sender<Bytes, BoxError>, Body) {
    let (sender, body) = Channel::new(64);
    (sender, body.boxed_unsync())
}

/// Frames of this size without end, and the count of the bytes that were read of it.
pub(crate) fn endless(frame: usize) -> (Body, Arc<AtomicU64>) {
    struct Endless {
        frame: Bytes,
        read: Arc<AtomicU64>,
    }

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.read
                .fetch_add(self.frame.len() as u64, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
        }
    }

    let read = Arc::new(AtomicU64::new(0));
    let endless = Endless {
        frame: Bytes::from(vec![b'x'; frame]),
        read: Arc::clone(&read),
    };
    assert!(endless.size_hint().upper().is_none());
    (endless.boxed_unsync(), read)
}
