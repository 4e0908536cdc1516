mod cell;
mod kept;

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use self::{
    cell::{Polled, Shared},
    kept::Kept,
};
use super::BytePool;
use crate::BoxError;

/// What the further attempts of one request are made of: the part of its body that was read, and the rest.
///
/// The body is sent as it arrives: nothing is read ahead, nothing is copied. Every frame that an attempt reads is also kept, its
/// bytes shared with the one that was sent, so that the next attempt starts with what is kept and goes on with what was never
/// read. An attempt may be replaced at any moment, in the middle of its body too: no byte is lost or sent twice.
///
/// Keeping ends, and the request goes on undisturbed but cannot be sent again, when
///
/// - more than the limit would be kept, its trailers counted as HTTP/2 counts them (32 bytes for each field, and its name and value);
/// - the pool has too few bytes left;
/// - more than [`MAX_FRAMES`](Self::MAX_FRAMES) frames would be kept;
/// - the body fails, or yields anything after its trailers.
///
/// What is kept is freed then. A frame that is a part of a larger buffer keeps all of it: the limit counts the part.
///
/// Dropping it says that no further attempt will come, because there is an answer or because nobody waits for one. The body of the
/// last attempt goes on to its end, and no more is kept than it has still to send.
pub struct Replay<B> {
    /// That of the body before anything was read.
    hint: SizeHint,
    /// `None` where there is no body.
    shared: Option<Arc<Shared<B>>>,
}

impl<B> Replay<B> {
    /// 1024: so many frames cost 32 KiB beyond their bytes, and a request whose frames are smaller than 64 bytes at the usual limit
    /// is a stream of messages, which nobody sends again.
    pub const MAX_FRAMES: usize = Kept::MAX_FRAMES;
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Splits a body into its first attempt and the means for further ones, which keep up to `limit` bytes of it, taken from `pool`
    /// as they arrive.
    ///
    /// Allocates once, and not at all where [`is_end_stream`](Body::is_end_stream) says that there is no body.
    pub fn new(body: B, limit: usize, pool: &BytePool) -> (Self, ReplayBody<B>) {
        let hint = body.size_hint();
        if body.is_end_stream() {
            let replay = Self { hint, shared: None };
            return (replay, ReplayBody::untouched(body));
        }
        let kept = Kept::new(limit, pool.reservation());
        let (shared, generation) = Shared::new(body, kept);
        let shared = Arc::new(shared);
        let replay = Self {
            hint,
            shared: Some(Arc::clone(&shared)),
        };
        (replay, ReplayBody::attempt(shared, generation, hint))
    }

    /// Whether a body says by itself that it is larger than the limit, so that there is no use in keeping any of it.
    #[must_use]
    pub fn exceeds(body: &B, limit: usize) -> bool {
        body.size_hint().lower() > limit as u64
    }

    /// Whether everything that was read is kept, so that the body can be sent again.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        match &self.shared {
            Some(shared) => shared.is_replayable(),
            None => true,
        }
    }

    /// The body of a further attempt, from its beginning; `None` once it cannot be sent again.
    ///
    /// The body of the attempt before it ends with [`Superseded`] if somebody still reads it.
    #[must_use]
    pub fn again(&mut self) -> Option<ReplayBody<B>> {
        let hint = self.hint;
        match &self.shared {
            None => Some(ReplayBody::ended(hint)),
            Some(shared) => {
                let generation = shared.supersede()?;
                Some(ReplayBody::attempt(Arc::clone(shared), generation, hint))
            }
        }
    }
}

impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.commit();
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("has_body", &self.shared.is_some())
            .finish_non_exhaustive()
    }
}

/// The body of one attempt: the original, untouched, or what [`Replay`] makes of it.
///
/// Every attempt tells the same [`size_hint`](Body::size_hint) as the first one did, so that all of them are framed alike.
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    Untouched(B),
    Attempt(Attempt<B>),
    /// Nothing comes any more; the hint is what the original said of that.
    Ended(SizeHint),
}

impl<B> ReplayBody<B> {
    /// A body that will not be sent again.
    pub const fn untouched(body: B) -> Self {
        Self {
            kind: Kind::Untouched(body),
        }
    }

    /// The original, where nothing is kept of it.
    ///
    /// # Errors
    ///
    /// The body itself, where it is one of several attempts.
    pub fn into_original(self) -> Result<B, Self> {
        match self.kind {
            Kind::Untouched(body) => Ok(body),
            kind @ (Kind::Attempt(_) | Kind::Ended(_)) => Err(Self { kind }),
        }
    }

    const fn attempt(shared: Arc<Shared<B>>, generation: u64, rest: SizeHint) -> Self {
        Self {
            kind: Kind::Attempt(Attempt {
                shared,
                generation,
                rest,
            }),
        }
    }

    const fn ended(hint: SizeHint) -> Self {
        Self {
            kind: Kind::Ended(hint),
        }
    }
}

impl<B> Default for ReplayBody<B> {
    fn default() -> Self {
        Self::ended(SizeHint::with_exact(0))
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Untouched(_) => "untouched",
            Kind::Attempt(_) => "attempt",
            Kind::Ended(_) => "ended",
        };
        f.debug_struct("ReplayBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let attempt = match &mut self.kind {
            Kind::Untouched(body) => {
                return Pin::new(body).poll_frame(cx).map_err(Into::into);
            }
            Kind::Attempt(attempt) => attempt,
            Kind::Ended(_) => return Poll::Ready(None),
        };
        match attempt.poll_frame(cx) {
            Ok((polled, is_end)) => {
                if is_end {
                    *self = Self::ended(attempt.rest);
                }
                polled
            }
            Err(error) => {
                *self = Self::default();
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Attempt(attempt) => attempt.shared.is_end_stream(attempt.generation),
            Kind::Ended(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched(body) => body.size_hint(),
            Kind::Attempt(attempt) => attempt.rest,
            Kind::Ended(hint) => *hint,
        }
    }
}

struct Attempt<B> {
    shared: Arc<Shared<B>>,
    generation: u64,
    /// The hint of the original's beginning, less what this attempt has yielded. The original's own would count what an earlier
    /// attempt has read: a client that believed it would send a second attempt without its body.
    rest: SizeHint,
}

impl<B> Attempt<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Result<(Polled, bool), BoxError> {
        let (polled, is_end) = self.shared.poll_frame(self.generation, cx)?;
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.rest = less(&self.rest, data.len() as u64);
        }
        Ok((polled, is_end))
    }
}

impl<B> Drop for Attempt<B> {
    fn drop(&mut self) {
        self.shared.leave(self.generation);
    }
}

fn less(hint: &SizeHint, yielded: u64) -> SizeHint {
    let mut rest = SizeHint::new();
    rest.set_lower(hint.lower().saturating_sub(yielded));
    if let Some(upper) = hint.upper() {
        rest.set_upper(upper.saturating_sub(yielded));
    }
    rest
}

/// The body of an attempt was read on after a further attempt had begun.
///
/// It is how the connection that still sends the earlier attempt learns that it must let go; it says nothing of the destination.
#[derive(Debug)]
#[non_exhaustive]
pub struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request body was superseded by that of a further attempt")
    }
}

impl Error for Superseded {}
