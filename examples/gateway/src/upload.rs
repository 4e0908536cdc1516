//! The body of a request on its way from the client: no larger than allowed, and no slower.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::Incoming;
use steadfast::http::BoxError;
use tokio::time::{Instant, Sleep, sleep};

use crate::trailers;

/// What a client sends.
///
/// All the time that is waited for the client counts, and none in which the upstream takes nothing: that is the upstream's. It is
/// counted until the response begins; who answers before the request is whole, as servers of streams do, may wait for the rest.
pub(crate) struct Upload {
    body: Limited<Incoming>,
    /// How long the client may still be waited for.
    patience: Duration,
    waiting: Option<Waiting>,
    fate: Arc<Fate>,
}

struct Waiting {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

/// What becomes of an upload. Over HTTP/2, the error of the upstream's connection does not tell why a body has failed.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    is_answered: AtomicBool,
    is_too_large: AtomicBool,
    is_too_slow: AtomicBool,
}

impl Fate {
    /// The response has begun.
    pub(crate) fn answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.is_too_large.load(Ordering::Relaxed)
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.is_too_slow.load(Ordering::Relaxed)
    }
}

impl Upload {
    pub(crate) fn new(
        body: Incoming,
        max_body: usize,
        patience: Duration,
        fate: Arc<Fate>,
    ) -> Self {
        Self {
            body: Limited::new(body, max_body),
            patience,
            waiting: None,
            fate,
        }
    }

    fn received(
        &mut self,
        frame: Result<Frame<Bytes>, BoxError>,
    ) -> Result<Frame<Bytes>, BoxError> {
        if let Some(waiting) = self.waiting.take() {
            self.patience = self.patience.saturating_sub(waiting.since.elapsed());
        }
        if let Err(error) = &frame
            && error.is::<LengthLimitError>()
        {
            self.fate.is_too_large.store(true, Ordering::Relaxed);
        }
        frame.map(trailers::check)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| this.received(frame)));
        }
        if this.fate.is_answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let patience = this.patience;
        let waiting = this.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            end: Box::pin(sleep(patience)),
        });
        ready!(waiting.end.as_mut().poll(cx));
        if this.fate.is_answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        this.fate.is_too_slow.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(Box::new(TooSlow))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client took too long.
#[derive(Debug)]
struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client took too long to send its body")
    }
}

impl std::error::Error for TooSlow {}
