use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A whole body: its bytes and its trailers.
#[derive(Default)]
pub struct Captured {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Captured {
    /// A body of these bytes, and of these trailers if there were any.
    #[must_use]
    pub const fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers }
    }

    /// The bytes that were not yet read.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// The trailers, if they were not yet read.
    #[must_use]
    pub const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl From<Bytes> for Captured {
    fn from(data: Bytes) -> Self {
        Self::new(data, None)
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("len", &self.data.len())
            .field("trailers", &self.trailers.is_some())
            .finish_non_exhaustive()
    }
}

impl Body for Captured {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(Frame::trailers).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.data.len() as u64;
        if self.trailers.is_none() {
            return SizeHint::with_exact(len);
        }
        // HTTP/1 sends trailers only behind a chunked body, and an exact length would make it another.
        let mut hint = SizeHint::new();
        hint.set_lower(len);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_body_without_trailers_tells_its_exact_length() {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("1"));
        let data = Bytes::from_static(b"body");

        assert_eq!(Captured::from(data.clone()).size_hint().exact(), Some(4));
        assert_eq!(
            Captured::new(data, Some(trailers)).size_hint().exact(),
            None
        );
    }
}
