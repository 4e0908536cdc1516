use std::fmt;

use super::{Counts, Limit};
use crate::sync::{AtomicU64, Ordering};

/// The outcomes of the last so many calls.
///
/// Each call that counts takes the next ticket and puts its outcome in the place of the one that is a window older. A good call
/// into a window that is full of good ones would change nothing but its position, which nobody can tell: it is left out, and a
/// destination in good health costs no write.
///
/// Three words per call, each with the generation in it, so that no step of a call of another generation has an effect: the next
/// ticket, the place, and the counts. A place is never given back to an earlier ticket, and each change of a place is added to the
/// counts once, by who made it; so the counts are those of the places as soon as nobody is in between. Relaxed: nothing is
/// published by any of them. Who brings the counts beyond the limit sees it in the very step that does.
pub(super) struct CallWindow {
    /// The ticket that was taken last.
    last: AtomicU64,
    counts: AtomicU64,
    places: Box<[AtomicU64]>,
}

impl CallWindow {
    pub(super) fn new(calls: u32) -> Self {
        Self {
            last: AtomicU64::new(0),
            counts: AtomicU64::new(0),
            places: (0..calls).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    pub(super) fn record(&self, generation: u64, failed: bool, limit: Limit) -> Option<Counts> {
        let generation = Generation::of(generation);
        if !failed && self.tally().is_all_good(generation, self.size()) {
            return None;
        }
        let counts = self.write(generation, failed)?;
        limit.is_reached(counts).then_some(counts)
    }

    pub(super) fn counts(&self, generation: u64) -> Counts {
        let tally = self.tally();
        if tally.generation == Generation::of(generation) {
            tally.counts(self.size())
        } else {
            Counts::default()
        }
    }

    /// The counts after it; `None` if it was overtaken by a later generation, or by a whole window.
    fn write(&self, generation: Generation, failed: bool) -> Option<Counts> {
        let round = self.round();
        let next = |last: Ticket| last.next(generation, round);
        let ticket = next(change(&self.last, Ticket::unpacked, Ticket::packed, next)?)?;

        let place = &self.places[(ticket.number % u64::from(self.size())) as usize];
        let mine = Place { ticket, failed };
        let put = |present: Place| (!present.ticket.is_after(ticket, round)).then_some(mine);
        let replaced = change(place, Place::unpacked, Place::packed, put)?;

        let count = |tally: Tally| tally.with(mine, replaced);
        let tally = count(change(&self.counts, Tally::unpacked, Tally::packed, count)?)?;
        Some(tally.counts(self.size()))
    }

    fn tally(&self) -> Tally {
        Tally::unpacked(self.counts.load(Ordering::Relaxed))
    }

    fn size(&self) -> u32 {
        self.places.len() as u32
    }

    /// Tickets begin anew after a multiple of the window's size, so that each has the place after the one before.
    fn round(&self) -> u64 {
        let size = u64::from(self.size());
        (1 << Ticket::NUMBER_BITS) / size * size
    }
}

impl fmt::Debug for CallWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallWindow")
            .field("size", &self.size())
            .field("counts", &self.tally().counts(self.size()))
            .finish_non_exhaustive()
    }
}

/// Changes a word in one step, and returns what it was; `None` if it is not to be changed.
fn change<T: Copy>(
    word: &AtomicU64,
    unpack: fn(u64) -> T,
    pack: fn(T) -> u64,
    after: impl Fn(T) -> Option<T>,
) -> Option<T> {
    let mut present = word.load(Ordering::Relaxed);
    loop {
        let before = unpack(present);
        let changed = pack(after(before)?);
        match word.compare_exchange_weak(present, changed, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(before),
            Err(other) => present = other,
        }
    }
}

/// A part of the generation's bits: who would be mistaken for another one must have slept through half a billion changes of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Generation(u32);

impl Generation {
    const BITS: u32 = 30;
    const MASK: u32 = (1 << Self::BITS) - 1;

    const fn of(generation: u64) -> Self {
        Self(generation as u32 & Self::MASK)
    }

    /// That of a word, which has it in its highest bits.
    const fn in_word(word: u64) -> Self {
        Self((word >> (u64::BITS - Self::BITS)) as u32)
    }

    const fn packed(self) -> u64 {
        (self.0 as u64) << (u64::BITS - Self::BITS)
    }

    const fn is_after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0) & Self::MASK;
        ahead != 0 && ahead <= Self::MASK / 2
    }
}

/// The order in which the calls of a generation are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    generation: Generation,
    number: u64,
}

impl Ticket {
    const NUMBER_BITS: u32 = u64::BITS - Generation::BITS - 1;
    const NUMBER_MASK: u64 = (1 << Self::NUMBER_BITS) - 1;

    fn unpacked(word: u64) -> Self {
        Self {
            generation: Generation::in_word(word),
            number: word >> 1 & Self::NUMBER_MASK,
        }
    }

    const fn packed(self) -> u64 {
        self.generation.packed() | self.number << 1
    }

    /// The one after it, or the first of a generation that begins.
    fn next(self, generation: Generation, round: u64) -> Option<Self> {
        if self.generation.is_after(generation) {
            return None;
        }
        let number = if self.generation == generation {
            (self.number + 1) % round
        } else {
            0
        };
        Some(Self { generation, number })
    }

    fn is_after(self, other: Self, round: u64) -> bool {
        if self.generation != other.generation {
            return self.generation.is_after(other.generation);
        }
        let ahead = (self.number + round - other.number) % round;
        ahead != 0 && ahead <= round / 2
    }
}

/// One outcome.
#[derive(Clone, Copy, Debug)]
struct Place {
    ticket: Ticket,
    failed: bool,
}

impl Place {
    fn unpacked(word: u64) -> Self {
        Self {
            ticket: Ticket::unpacked(word),
            failed: word & 1 != 0,
        }
    }

    fn packed(self) -> u64 {
        self.ticket.packed() | u64::from(self.failed)
    }
}

/// What the places hold together.
#[derive(Clone, Copy, Debug)]
struct Tally {
    generation: Generation,
    calls: u32,
    /// Goes round: of two who change one place, the second may count first, so that for a moment there is one too few.
    failures: u32,
}

impl Tally {
    const BITS: u32 = (u64::BITS - Generation::BITS) / 2;
    const MASK: u32 = (1 << Self::BITS) - 1;

    fn unpacked(word: u64) -> Self {
        Self {
            generation: Generation::in_word(word),
            calls: (word >> Self::BITS) as u32 & Self::MASK,
            failures: word as u32 & Self::MASK,
        }
    }

    const fn packed(self) -> u64 {
        self.generation.packed() | (self.calls as u64) << Self::BITS | self.failures as u64
    }

    /// With one outcome in the place of another.
    fn with(self, mine: Place, replaced: Place) -> Option<Self> {
        let generation = mine.ticket.generation;
        if self.generation.is_after(generation) {
            return None;
        }
        let (calls, failures) = if self.generation == generation {
            (self.calls, self.failures)
        } else {
            (0, 0)
        };
        let is_new = replaced.ticket.generation != generation;
        let was_failed = !is_new && replaced.failed;
        let failures = failures + u32::from(mine.failed);
        Some(Self {
            generation,
            calls: calls + u32::from(is_new),
            failures: failures.wrapping_sub(u32::from(was_failed)) & Self::MASK,
        })
    }

    const fn is_all_good(self, generation: Generation, size: u32) -> bool {
        self.generation.0 == generation.0 && self.calls == size && self.failures == 0
    }

    fn counts(self, size: u32) -> Counts {
        let failures = if self.failures > size {
            0
        } else {
            self.failures
        };
        Counts {
            calls: self.calls.into(),
            failures: failures.into(),
        }
    }
}
