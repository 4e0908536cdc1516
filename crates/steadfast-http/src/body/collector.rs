use std::{
    error::Error,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::LengthLimitError;

use super::{Captured, Reservation};
use crate::{BoxError, classify::sources};

/// Reads a body into memory up to a limit, and gives back what it read and the rest where it stopped short.
///
/// One frame is kept as it came; more are copied together, so that a body of many small frames holds no more than its bytes.
pub struct Collector<B> {
    body: Pin<Box<B>>,
    limit: usize,
    reservation: Option<Reservation>,
    read: Read,
    trailers: Option<HeaderMap>,
}

enum Read {
    One(Bytes),
    Many(BytesMut),
}

/// Where a [`Collector`] stopped.
#[derive(Debug)]
#[must_use]
pub enum Collected {
    /// The body ended.
    Whole,
    /// The body failed.
    Failed(BoxError),
    /// The body is larger than the limit.
    OverLimit,
    /// The pool has no room for more of it.
    PoolEmpty,
}

impl<B> Collector<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Will read up to `limit` bytes of `body`.
    pub fn new(body: B, limit: usize) -> Self {
        Self {
            body: Box::pin(body),
            limit,
            reservation: None,
            read: Read::One(Bytes::new()),
            trailers: None,
        }
    }

    /// Takes every byte that is kept from a pool.
    #[must_use]
    pub fn with_reservation(self, reservation: Reservation) -> Self {
        Self {
            reservation: Some(reservation),
            ..self
        }
    }

    /// Whether the body says by itself that it is larger than the limit.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.body.size_hint().lower() > self.limit as u64
    }

    /// Reads on until the body ends or must not be read further.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was read stays, and reading can go on.
    pub async fn collect(&mut self) -> Collected {
        if self.is_over_limit() {
            return Collected::OverLimit;
        }
        loop {
            let frame = poll_fn(|cx| self.body.as_mut().poll_frame(cx)).await;
            let frame = match frame {
                None => return Collected::Whole,
                Some(Err(error)) => return Collected::Failed(error.into()),
                Some(Ok(frame)) => frame,
            };
            if let Some(stop) = self.keep(frame) {
                return stop;
            }
        }
    }

    fn keep(&mut self, frame: Frame<Bytes>) -> Option<Collected> {
        let data = match frame.into_data() {
            Ok(data) => data,
            // Nothing may follow trailers.
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                return Some(Collected::Whole);
            }
        };
        let len = data.len();
        let has_room = match &mut self.reservation {
            Some(reservation) => reservation.try_grow(len),
            None => true,
        };
        self.read.push(data);

        if self.read.len() > self.limit {
            Some(Collected::OverLimit)
        } else if has_room {
            None
        } else {
            Some(Collected::PoolEmpty)
        }
    }

    /// The whole body, once [`collect`](Self::collect) has said so, and what is reserved for its bytes: to be kept for as long
    /// as somebody may hold them.
    #[must_use]
    pub fn into_captured(self) -> (Captured, Option<Reservation>) {
        let captured = Captured::new(self.read.into_bytes(), self.trailers);
        (captured, self.reservation)
    }

    /// The body from its beginning: what was read, then the rest, or then the error that ended it.
    #[must_use]
    pub fn into_unfinished(self, error: Option<BoxError>) -> Unfinished<B> {
        Unfinished {
            prefix: Some(self.read.into_bytes()).filter(|prefix| !prefix.is_empty()),
            rest: match error {
                Some(error) => Rest::Failed(Some(error)),
                None => Rest::Body(self.body),
            },
        }
    }

    /// Forgets what was read, gives its bytes back to the pool, and reads and throws away up to `limit` further bytes. The limit of a
    /// layer around [ends](ended_by_limit) each frame by an error, and not the body: such a frame is taken for 16 KiB.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it drops the body.
    pub async fn discard(self, limit: u64) {
        let mut body = self.body;
        drop((self.read, self.reservation));
        let mut discarded = 0;
        while discarded < limit {
            let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
            discarded += match frame.map(|frame| frame.map_err(Into::into)) {
                None => return,
                Some(Err(error)) if !ended_by_limit(&*error) => return,
                Some(Err(_)) => UNSEEN_FRAME,
                Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            }
        }
    }
}

/// The largest frame of HTTP/2, by default, and about what one read of HTTP/1 yields.
const UNSEEN_FRAME: u64 = 16 << 10;

/// Whether a layer around has a limit for bodies, as tower-http's is, that this one has passed: it will be too large the next time
/// as well.
#[must_use]
pub fn ended_by_limit(error: &(dyn Error + 'static)) -> bool {
    sources(error).any(|error| error.is::<LengthLimitError>())
}

impl<B> fmt::Debug for Collector<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("limit", &self.limit)
            .field("read", &self.read.len())
            .finish_non_exhaustive()
    }
}

impl Read {
    fn len(&self) -> usize {
        match self {
            Self::One(data) => data.len(),
            Self::Many(data) => data.len(),
        }
    }

    fn push(&mut self, more: Bytes) {
        match self {
            Self::One(data) if data.is_empty() => *data = more,
            Self::One(data) => {
                let mut all = BytesMut::with_capacity(data.len() + more.len());
                all.extend_from_slice(data);
                all.extend_from_slice(&more);
                *self = Self::Many(all);
            }
            Self::Many(all) => all.extend_from_slice(&more),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(data) => data,
            Self::Many(all) => all.freeze(),
        }
    }
}

/// A body of which some was read already: that part, then the rest.
pub struct Unfinished<B> {
    prefix: Option<Bytes>,
    rest: Rest<B>,
}

enum Rest<B> {
    Body(Pin<Box<B>>),
    Failed(Option<BoxError>),
}

impl<B> fmt::Debug for Unfinished<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").finish_non_exhaustive()
    }
}

impl<B> Body for Unfinished<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        Poll::Ready(match &mut self.rest {
            Rest::Body(body) => {
                ready!(body.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Rest::Failed(error) => error.take().map(Err),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none()
            && match &self.rest {
                Rest::Body(body) => body.is_end_stream(),
                Rest::Failed(error) => error.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let prefix = self.prefix.as_ref().map_or(0, Bytes::len) as u64;
        match &self.rest {
            Rest::Body(body) => {
                let rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(prefix));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(prefix));
                }
                hint
            }
            Rest::Failed(_) => {
                let mut hint = SizeHint::new();
                hint.set_lower(prefix);
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::body::BytePool;

    struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn frames(frames: impl IntoIterator<Item = Result<&'static str, &'static str>>) -> Frames {
        Frames(
            frames
                .into_iter()
                .map(|frame| match frame {
                    Ok(data) => Ok(Frame::data(Bytes::from_static(data.as_bytes()))),
                    Err(error) => Err(error.into()),
                })
                .collect(),
        )
    }

    #[tokio::test]
    async fn frames_and_trailers_come_together() {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "1".parse().unwrap());
        let mut body = frames([Ok("one "), Ok("two")]);
        body.0.push_back(Ok(Frame::trailers(trailers.clone())));
        let mut collector = Collector::new(body, 7);

        assert!(matches!(collector.collect().await, Collected::Whole));

        let whole = collector.into_captured().0.collect().await.unwrap();
        assert_eq!(whole.trailers(), Some(&trailers));
        assert_eq!(whole.to_bytes(), "one two");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_given_back_from_its_beginning() {
        let mut collector = Collector::new(frames([Ok("one "), Ok("two "), Ok("three")]), 6);

        assert!(matches!(collector.collect().await, Collected::OverLimit));

        let body = collector.into_unfinished(None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one two three");
    }

    #[tokio::test]
    async fn a_declared_length_over_the_limit_is_not_read() {
        let mut collector = Collector::new(Full::new(Bytes::from_static(b"seven b")), 6);

        assert!(matches!(collector.collect().await, Collected::OverLimit));
        assert_eq!(collector.read.len(), 0);
    }

    #[tokio::test]
    async fn a_failed_body_yields_what_came_and_then_its_error() {
        let mut collector = Collector::new(frames([Ok("one"), Err("cut")]), 10);

        let Collected::Failed(error) = collector.collect().await else {
            panic!("the failure was not seen");
        };

        let mut body = collector.into_unfinished(Some(error));
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "one");
        let second = body.frame().await.unwrap().unwrap_err();
        assert_eq!(second.to_string(), "cut");
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn bytes_are_taken_from_the_pool_as_they_arrive() {
        let pool = BytePool::new(5);
        let mut collector = Collector::new(frames([Ok("1234"), Ok("56")]), 100)
            .with_reservation(pool.reservation());

        assert!(matches!(collector.collect().await, Collected::PoolEmpty));
        assert_eq!(pool.available(), 1);

        drop(collector);
        assert_eq!(pool.available(), 5);
    }

    #[tokio::test]
    async fn what_is_reserved_outlives_the_collector() {
        let pool = BytePool::new(5);
        let mut collector =
            Collector::new(frames([Ok("1234")]), 100).with_reservation(pool.reservation());
        assert!(matches!(collector.collect().await, Collected::Whole));

        let (captured, reservation) = collector.into_captured();
        drop(captured);
        assert_eq!(pool.available(), 1);

        drop(reservation);
        assert_eq!(pool.available(), 5);
    }
}
