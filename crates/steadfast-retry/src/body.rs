use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use steadfast_http::{BoxError, body::ReplyBody};
use tokio::time::{Instant, Sleep, sleep};

pin_project! {
    /// The body of a response that passed the layer: the destination's own, or one that the layer made up.
    pub struct ResponseBody<B> {
        #[pin]
        body: ReplyBody<B>,
        // Boxed, as few responses have one.
        idle: Option<Pin<Box<Idle>>>,
    }
}

impl<B> ResponseBody<B> {
    /// The destination's own, which fails where it pauses for longer than `idle_timeout`.
    #[inline]
    pub(crate) fn passed(body: B, idle_timeout: Option<Duration>) -> Self {
        Self {
            body: ReplyBody::untouched(body),
            idle: idle_timeout.map(|timeout| Box::pin(Idle::new(timeout))),
        }
    }

    pub(crate) fn own(body: Bytes) -> Self {
        Self {
            body: ReplyBody::captured(body.into()),
            idle: None,
        }
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl<B> Body for ResponseBody<B>
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
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        let Some(idle) = this.idle else {
            return polled;
        };
        if polled.is_ready() {
            idle.as_mut().end();
            return polled;
        }
        idle.as_mut().poll(cx).map(|error| Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// Times the pauses of a body. A pause counts only while somebody waits.
    struct Idle {
        timeout: Duration,
        paused: bool,
        #[pin]
        sleep: Sleep,
    }
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            paused: false,
            sleep: sleep(timeout),
        }
    }

    fn end(self: Pin<&mut Self>) {
        *self.project().paused = false;
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyIdle> {
        let mut this = self.project();
        let timeout = *this.timeout;
        if !*this.paused {
            *this.paused = true;
            // A moment beyond what the clock can say never comes: `sleep` was made with one far away.
            if let Some(moment) = Instant::now().checked_add(timeout) {
                this.sleep.as_mut().reset(moment);
            }
        }
        this.sleep.poll(cx).map(|()| BodyIdle { timeout })
    }
}

/// The body of a response paused for too long.
#[derive(Debug)]
pub struct BodyIdle {
    timeout: Duration,
}

impl BodyIdle {
    /// How long it paused.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for BodyIdle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response body paused for {:?}", self.timeout)
    }
}

impl Error for BodyIdle {}
