use std::{array, fmt, time::Duration, time::Instant};

use super::{Counts, Limit};
use crate::sync::{AtomicU64, Ordering, lane, parallelism};

/// The steps in which a window slides.
const SLOTS: u64 = 10;

/// Places of slots. More than count, so that a caller who read the clock a little earlier finds all that counted then, although
/// others have gone on.
const KEPT: usize = 16;

/// How far apart the numbers of two generations are. A late call of an earlier one finds the number of its slot far behind those
/// that count; one of a later one would have to be this many slots behind the time.
const STRIDE: u64 = 1024;

/// The outcomes of the last so much time.
///
/// Good calls must be counted: a failure weighs by how many there were beside it. Each thread counts in cells of its own, as far as
/// there are enough, and good and failed calls apart.
///
/// Each slot has a number, which grows from generation to generation by more than there are slots in a window. A cell belongs to
/// the newest slot that was written to it, and has the slot's number in its own word: a call that comes too late changes nothing,
/// and neither does one of an earlier generation.
///
/// Of two who count at once, at least one sees the other's when it adds up. That takes a single order of all these accesses.
pub(super) struct TimeWindow {
    slot: u64,
    /// When slot 0 began.
    origin: Instant,
    /// The slot of the newest failure, and one more: 0 is none.
    failed: AtomicU64,
    /// The slot in which the counts were looked at for a good call and had the minimum, doubled, and one more.
    looked_at: AtomicU64,
    lanes: Box<[Lane]>,
}

/// Aligned so that threads do not write to each other's cache lines; some processors fetch two at a time.
#[repr(align(128))]
struct Lane {
    good: [Cell; KEPT],
    failed: [Cell; KEPT],
}

impl TimeWindow {
    /// Threads beyond that share lanes: each is a quarter of a KiB, and few programs have more cores at work on one destination.
    const MAX_LANES: usize = 8;

    pub(super) fn new(time: Duration, origin: Instant) -> Self {
        Self::with_lanes(time, origin, parallelism().min(Self::MAX_LANES))
    }

    pub(super) fn with_lanes(time: Duration, origin: Instant, lanes: usize) -> Self {
        Self {
            slot: (nanos(time) / SLOTS).max(1),
            origin,
            failed: AtomicU64::new(0),
            looked_at: AtomicU64::new(0),
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
        }
    }

    #[inline]
    pub(super) fn record(
        &self,
        generation: u64,
        failed: bool,
        now: Instant,
        limit: Limit,
    ) -> Option<Counts> {
        self.record_in(lane(), generation, failed, now, limit)
    }

    #[inline]
    pub(super) fn record_in(
        &self,
        lane: usize,
        generation: u64,
        failed: bool,
        now: Instant,
        limit: Limit,
    ) -> Option<Counts> {
        let slot = self.slot(generation, now);
        let lane = &self.lanes[lane % self.lanes.len()];
        if failed {
            self.failed.fetch_max(slot + 1, Ordering::SeqCst);
            lane.failed[place(slot)].add(slot);
        } else {
            lane.good[place(slot)].add(slot);
            if !self.is_worth_a_look(slot) {
                return None;
            }
        }
        let counts = self.sum(slot);
        if !failed && counts.calls >= limit.minimum {
            self.looked_at.store(slot << 1 | 1, Ordering::Relaxed);
        }
        limit.is_reached(counts).then_some(counts)
    }

    pub(super) fn counts(&self, generation: u64, now: Instant) -> Counts {
        self.sum(self.slot(generation, now))
    }

    /// Whether a good call can have brought the rate to its limit: it must bring the calls to their minimum, or come in a slot for
    /// which an older one has left the window.
    #[inline]
    fn is_worth_a_look(&self, slot: u64) -> bool {
        let failed = self.failed.load(Ordering::SeqCst);
        failed + SLOTS > slot + 1 && self.looked_at.load(Ordering::Relaxed) != (slot << 1 | 1)
    }

    fn sum(&self, slot: u64) -> Counts {
        let mut counts = Counts::default();
        let first = slot.saturating_sub(SLOTS - 1);
        for lane in &self.lanes {
            for number in first..=slot {
                let failures = lane.failed[place(number)].count(number);
                counts.failures += failures;
                counts.calls += failures + lane.good[place(number)].count(number);
            }
        }
        counts
    }

    /// The number of the slot at `now`; what lies before the origin counts as the first one.
    fn slot(&self, generation: u64, now: Instant) -> u64 {
        let since = nanos(now.saturating_duration_since(self.origin));
        generation
            .saturating_mul(STRIDE)
            .saturating_add(since / self.slot)
            .min(Cell::MAX_SLOT)
    }
}

impl fmt::Debug for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeWindow")
            .field("slot", &Duration::from_nanos(self.slot))
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            good: array::from_fn(|_| Cell::new()),
            failed: array::from_fn(|_| Cell::new()),
        }
    }
}

/// The calls of one slot: its number, and how many there were.
struct Cell(AtomicU64);

impl Cell {
    /// 16 million calls in a slot, per thread; more are not told apart.
    const COUNT_BITS: u32 = 24;
    const MAX_COUNT: u64 = (1 << Self::COUNT_BITS) - 1;
    const MAX_SLOT: u64 = (1 << (u64::BITS - Self::COUNT_BITS)) - 1;

    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What comes too late for the cell is dropped: the window has passed it.
    #[inline]
    fn add(&self, slot: u64) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (present, count) = (word >> Self::COUNT_BITS, word & Self::MAX_COUNT);
            if present > slot {
                return;
            }
            let before = if present == slot { count } else { 0 };
            let after = slot << Self::COUNT_BITS | (before + 1).min(Self::MAX_COUNT);
            match self
                .0
                .compare_exchange_weak(word, after, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(present) => word = present,
            }
        }
    }

    fn count(&self, slot: u64) -> u64 {
        let word = self.0.load(Ordering::SeqCst);
        if word >> Self::COUNT_BITS == slot {
            word & Self::MAX_COUNT
        } else {
            0
        }
    }
}

fn place(slot: u64) -> usize {
    (slot % KEPT as u64) as usize
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
