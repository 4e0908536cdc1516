use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{Superseded, kept::Kept};
use crate::BoxError;

pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// What the attempts of one request share: the original body, and the frames of it that were read.
///
/// The original lives here and not in an attempt, so that an attempt can be replaced without waiting for whoever holds it.
///
/// A std mutex: it is held for one poll and never over an await, and it is contended only when an attempt is replaced. It tells
/// of a panic of the original too: by its poison. Under it nothing of others is dropped or woken, which might come back to it.
pub(super) struct Shared<B>(Mutex<Cell<B>>);

struct Cell<B> {
    /// `None` once it ended, or once nobody can read it any more.
    original: Option<B>,
    /// `None` once something was read that is not kept. When the original is read, all of these were yielded.
    kept: Option<Kept>,
    /// The attempt that may read. Earlier ones may not.
    generation: u64,
    /// Whether the body of that attempt was not dropped yet.
    has_reader: bool,
    /// How many of the kept frames it has yielded.
    position: usize,
    /// Who waits for the original.
    waker: Option<Waker>,
    /// Whether that attempt is the last one.
    is_committed: bool,
}

/// What was taken out of the cell, to be dropped after it is unlocked.
struct Freed<B> {
    original: Option<B>,
    kept: Option<Kept>,
    frames: Vec<Frame<Bytes>>,
    waker: Option<Waker>,
}

impl<B> Shared<B> {
    /// The cell of this body, and the generation of the first attempt.
    pub(super) const fn new(original: B, kept: Kept) -> (Self, u64) {
        let cell = Cell {
            original: Some(original),
            kept: Some(kept),
            generation: 0,
            has_reader: true,
            position: 0,
            waker: None,
            is_committed: false,
        };
        (Self(Mutex::new(cell)), 0)
    }

    pub(super) fn is_replayable(&self) -> bool {
        self.lock().is_some_and(|cell| cell.kept.is_some())
    }

    /// Begins a further attempt, whose generation it returns.
    pub(super) fn supersede(&self) -> Option<u64> {
        let (generation, waker) = {
            let mut cell = self.lock()?;
            cell.kept.as_ref()?;
            cell.generation += 1;
            cell.has_reader = true;
            cell.position = 0;
            (cell.generation, cell.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(generation)
    }

    /// No further attempt will come.
    pub(super) fn commit(&self) {
        let _freed = self.lock().map(|mut cell| cell.commit());
    }

    /// The body of this attempt was dropped.
    pub(super) fn leave(&self, generation: u64) {
        let _freed = self.lock().map(|mut cell| cell.leave(generation));
    }

    /// `None` if the original panicked: what it has read by then nobody knows.
    fn lock(&self) -> Option<MutexGuard<'_, Cell<B>>> {
        self.0.lock().ok()
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next frame of this attempt, and whether nothing comes after it.
    ///
    /// # Errors
    ///
    /// It was superseded, or the original panicked: nothing more will come of it.
    pub(super) fn poll_frame(
        &self,
        generation: u64,
        cx: &mut Context<'_>,
    ) -> Result<(Polled, bool), BoxError> {
        let mut cell = self
            .lock()
            .ok_or("request body panicked when it was read before")?;
        if cell.generation != generation {
            return Err(Superseded.into());
        }
        let mut freed = Freed::nothing();
        let polled = cell.poll_frame(cx, &mut freed);
        let is_end = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => cell.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_end {
            // Not every body can be polled again after its end.
            freed.original = cell.original.take();
        }
        drop(cell);
        drop(freed);
        Ok((polled.map_err(Into::into), is_end))
    }

    pub(super) fn is_end_stream(&self, generation: u64) -> bool {
        self.lock()
            .is_some_and(|cell| cell.generation == generation && cell.is_end_stream())
    }
}

impl<B> Cell<B> {
    fn commit(&mut self) -> Freed<B> {
        self.is_committed = true;
        let mut freed = Freed::nothing();
        freed.waker = self.waker.take();
        if !self.has_reader {
            freed.original = self.original.take();
            freed.kept = self.kept.take();
        } else if self.has_yielded_kept() {
            freed.kept = self.kept.take();
        } else if let Some(kept) = &mut self.kept {
            freed.frames = (0..self.position)
                .filter_map(|index| kept.read(index, false))
                .collect();
        }
        freed
    }

    fn leave(&mut self, generation: u64) -> Freed<B> {
        let mut freed = Freed::nothing();
        if self.generation == generation {
            self.has_reader = false;
            freed.waker = self.waker.take();
            if self.is_committed {
                freed.original = self.original.take();
                freed.kept = self.kept.take();
            }
        }
        freed
    }

    fn has_yielded_kept(&self) -> bool {
        match &self.kept {
            Some(kept) => self.position == kept.len(),
            None => true,
        }
    }

    /// The next of the kept frames.
    fn next_kept(&mut self) -> Option<Frame<Bytes>> {
        let frame = self
            .kept
            .as_mut()?
            .read(self.position, !self.is_committed)?;
        self.position += 1;
        Some(frame)
    }

    /// Keeps a frame of the original, or gives up keeping.
    fn keep(&mut self, frame: &Frame<Bytes>) -> Option<Kept> {
        if self.kept.as_mut()?.push(frame) {
            self.position += 1;
            return None;
        }
        self.kept.take()
    }
}

impl<B> Cell<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        freed: &mut Freed<B>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.next_kept() {
            if self.is_committed && self.has_yielded_kept() {
                freed.kept = self.kept.take();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(original) = &mut self.original else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(original).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => freed.kept = self.keep(frame),
            Poll::Ready(Some(Err(_))) => freed.kept = self.kept.take(),
            Poll::Ready(None) => {}
            Poll::Pending => {
                if !self.is_committed {
                    freed.waker = remember(&mut self.waker, cx.waker());
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let original_ended = match &self.original {
            Some(original) => original.is_end_stream(),
            None => true,
        };
        self.has_yielded_kept() && original_ended
    }
}

impl<B> Freed<B> {
    const fn nothing() -> Self {
        Self {
            original: None,
            kept: None,
            frames: Vec::new(),
            waker: None,
        }
    }
}

/// Puts the new waker in the place of the old one, which it returns.
fn remember(place: &mut Option<Waker>, new: &Waker) -> Option<Waker> {
    match place {
        Some(old) if old.will_wake(new) => None,
        Some(_) | None => place.replace(new.clone()),
    }
}
