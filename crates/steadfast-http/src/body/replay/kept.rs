use std::mem;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::body::Reservation;

/// The frames that were read, in their order.
pub(super) struct Kept {
    /// Most requests are one frame: it needs no allocation.
    first: Option<Bytes>,
    rest: Vec<Bytes>,
    /// In a box: few requests have them, and they are large.
    trailers: Option<Box<HeaderMap>>,
    /// Bytes that may still be kept.
    room: usize,
    reservation: Reservation,
}

impl Kept {
    pub(super) const MAX_FRAMES: usize = 1024;

    pub(super) const fn new(limit: usize, reservation: Reservation) -> Self {
        Self {
            first: None,
            rest: Vec::new(),
            trailers: None,
            room: limit,
            reservation,
        }
    }

    /// Keeps a frame, or says `false` if it must not.
    #[must_use]
    pub(super) fn push(&mut self, frame: &Frame<Bytes>) -> bool {
        // Nothing may follow trailers, and what does could not be put in its place.
        if self.trailers.is_some() {
            return false;
        }
        if let Some(data) = frame.data_ref() {
            if self.data_frames() == Self::MAX_FRAMES || !self.take_room(data.len()) {
                return false;
            }
            match self.first {
                None => self.first = Some(data.clone()),
                Some(_) => self.rest.push(data.clone()),
            }
            return true;
        }
        let Some(trailers) = frame.trailers_ref() else {
            return false;
        };
        if !self.take_room(list_size(trailers)) {
            return false;
        }
        self.trailers = Some(Box::new(trailers.clone()));
        true
    }

    /// The frame at this place; it is still kept after that if `stays`.
    pub(super) fn read(&mut self, index: usize, stays: bool) -> Option<Frame<Bytes>> {
        if index == self.data_frames() {
            let trailers = &mut **self.trailers.as_mut()?;
            let trailers = if stays {
                trailers.clone()
            } else {
                mem::take(trailers)
            };
            return Some(Frame::trailers(trailers));
        }
        let data = match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(index) => self.rest.get_mut(index),
        }?;
        let data = if stays { data.clone() } else { mem::take(data) };
        Some(Frame::data(data))
    }

    /// How many frames were kept, the trailers among them.
    pub(super) fn len(&self) -> usize {
        self.data_frames() + usize::from(self.trailers.is_some())
    }

    fn data_frames(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn take_room(&mut self, bytes: usize) -> bool {
        match self.room.checked_sub(bytes) {
            Some(room) if self.reservation.try_grow(bytes) => {
                self.room = room;
                true
            }
            Some(_) | None => false,
        }
    }
}

/// RFC 9113, section 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE.
fn list_size(fields: &HeaderMap) -> usize {
    fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}
