use std::{
    array, fmt,
    sync::{OnceLock, PoisonError},
    time::Instant,
};

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// One retry, in the billionths that amounts are counted in.
const RETRY: u128 = 1_000_000_000;

/// The seconds that count: the current one, and the nine before it.
const WINDOW: u32 = 10;

/// Deposits in the last seconds, and withdrawals.
///
/// Every request deposits, and only a failed one withdraws. So deposits are atomic counters, and withdrawals stand behind a lock:
/// it makes the sum, the comparison and the charge one step, which is what rules out an overdraft, and no hand-made scheme would
/// be as easy to trust. Deposits that come in meanwhile can only make the balance larger.
pub(super) struct Window {
    /// Billionths of a retry per original.
    ratio: u64,
    floor: u32,
    /// When slot 0 began: the first moment that was seen.
    origin: OnceLock<Instant>,
    /// The newest slot of the withdrawals and how many of them count, for those who only ask. Written under their lock.
    charged: AtomicU64,
    withdrawals: Mutex<Withdrawals>,
    deposits: Deposits,
}

impl Window {
    pub(super) const MAX_RATIO: f64 = 10.0;

    /// `ratio` is from 0 to [`MAX_RATIO`](Self::MAX_RATIO).
    pub(super) fn new(ratio: f64, floor: u32) -> Self {
        Self {
            ratio: (ratio * RETRY as f64).round() as u64,
            floor,
            origin: OnceLock::new(),
            charged: AtomicU64::new(Slot::EMPTY.packed()),
            withdrawals: Mutex::new(Withdrawals::default()),
            deposits: Deposits::new(),
        }
    }

    pub(super) fn is_always_empty(&self) -> bool {
        self.ratio == 0 && self.floor == 0
    }

    #[inline]
    pub(super) fn deposit(&self, now: Instant) {
        self.deposits.add(self.slot(now));
    }

    #[inline]
    pub(super) fn has_token(&self, now: Instant) -> bool {
        let charged = Slot::unpacked(self.charged.load(Ordering::Relaxed));
        let next = u64::from(charged.count) + 1;
        // in good health the floor alone pays, and neither the time nor any sum is needed
        if next <= self.floor_of_window() {
            return true;
        }
        let slot = self.slot(now).max(charged.number);
        if is_in_window(charged.number, slot) {
            // of what was charged, some may have left the window since: only if all of it is too much, the lock is needed
            self.covers(next, slot) || self.covers_one_more(&self.lock(), slot)
        } else {
            self.covers(1, slot)
        }
    }

    /// The slot that was charged.
    pub(super) fn withdraw(&self, now: Instant) -> Option<u32> {
        let slot = self.slot(now);
        let mut withdrawals = self.lock();
        withdrawals.advance(slot);
        let granted = self
            .covers_one_more(&withdrawals, withdrawals.newest)
            .then(|| withdrawals.charge());
        self.publish(&withdrawals);
        granted
    }

    pub(super) fn give_back(&self, slot: u32) {
        let mut withdrawals = self.lock();
        withdrawals.give_back(slot);
        self.publish(&withdrawals);
    }

    fn publish(&self, withdrawals: &Withdrawals) {
        let charged = Slot {
            number: withdrawals.newest,
            count: withdrawals.counted,
        };
        self.charged.store(charged.packed(), Ordering::Relaxed);
    }

    fn covers_one_more(&self, withdrawals: &Withdrawals, slot: u32) -> bool {
        let slot = slot.max(withdrawals.newest);
        // more than four billion could not be counted, and are not granted
        withdrawals
            .counted_at(slot)
            .checked_add(1)
            .is_some_and(|retries| self.covers(u64::from(retries), slot))
    }

    /// Whether what came in until the end of `slot` pays for this many retries.
    fn covers(&self, retries: u64, slot: u32) -> bool {
        let deposits = u128::from(self.deposits.sum(slot)) * u128::from(self.ratio);
        let floor = u128::from(self.floor_of_window()) * RETRY;
        u128::from(retries) * RETRY <= deposits + floor
    }

    fn floor_of_window(&self) -> u64 {
        u64::from(self.floor) * u64::from(WINDOW)
    }

    /// Whole seconds since the origin; what lies before it counts as its first second.
    fn slot(&self, now: Instant) -> u32 {
        let origin = *self.origin.get_or_init(|| now);
        u32::try_from(now.saturating_duration_since(origin).as_secs()).unwrap_or(u32::MAX)
    }

    /// Every change to the withdrawals is whole before anything could panic, so that a poisoned lock hides nothing.
    fn lock(&self) -> MutexGuard<'_, Withdrawals> {
        self.withdrawals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let charged = Slot::unpacked(self.charged.load(Ordering::Relaxed));
        f.debug_struct("Budget")
            .field("mode", &"ratio")
            .field("ratio", &(self.ratio as f64 / RETRY as f64))
            .field("floor", &self.floor)
            .field("charged", &charged.count)
            .finish_non_exhaustive()
    }
}

/// Whether slot `number` counts at `slot`, which is the same or a later one.
fn is_in_window(number: u32, slot: u32) -> bool {
    slot.checked_sub(number).is_some_and(|age| age < WINDOW)
}

/// A second since the origin, and a count.
#[derive(Clone, Copy)]
struct Slot {
    number: u32,
    count: u32,
}

impl Slot {
    const EMPTY: Self = Self {
        number: 0,
        count: 0,
    };

    fn packed(self) -> u64 {
        u64::from(self.number) << u32::BITS | u64::from(self.count)
    }

    fn unpacked(packed: u64) -> Self {
        Self {
            number: (packed >> u32::BITS) as u32,
            count: packed as u32,
        }
    }
}

/// How many slots of deposits are kept. More than count, so that a caller who read the clock a little earlier finds all that
/// counted then, although others have gone on.
pub(super) const KEPT: usize = 16;

/// Original requests by the second. Each cell belongs to the newest slot that was written to it.
///
/// Cells are read and written relaxed: a cell is a whole fact by itself, and of one cell nobody sees older values after newer
/// ones. Aligned so that the counters, which all requests write, share no cache line with what all requests only read.
#[repr(align(128))]
struct Deposits {
    cells: [AtomicU64; KEPT],
}

impl Deposits {
    fn new() -> Self {
        Self {
            cells: array::from_fn(|_| AtomicU64::new(Slot::EMPTY.packed())),
        }
    }

    fn cell(&self, number: u32) -> &AtomicU64 {
        &self.cells[number as usize % KEPT]
    }

    /// What comes too late for its cell is dropped: the window has passed it.
    fn add(&self, number: u32) {
        let cell = self.cell(number);
        let mut packed = cell.load(Ordering::Relaxed);
        loop {
            let present = Slot::unpacked(packed);
            if present.number > number {
                return;
            }
            let before = if present.number == number {
                present.count
            } else {
                0
            };
            let added = Slot {
                number,
                count: before.saturating_add(1),
            };
            match cell.compare_exchange_weak(
                packed,
                added.packed(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(present) => packed = present,
            }
        }
    }

    /// How many there were in the window that ends with `slot`.
    fn sum(&self, slot: u32) -> u64 {
        let oldest = slot.saturating_sub(WINDOW - 1);
        (oldest..=slot)
            .map(|number| {
                let present = Slot::unpacked(self.cell(number).load(Ordering::Relaxed));
                if present.number == number {
                    u64::from(present.count)
                } else {
                    0
                }
            })
            .sum()
    }
}

/// The retries that were granted, by the second.
#[derive(Default)]
struct Withdrawals {
    /// The latest slot that was asked for; slots after it are never written.
    newest: u32,
    /// Those of the slots in the window that ends with the newest.
    counts: [u32; WINDOW as usize],
    /// Their sum.
    counted: u32,
}

impl Withdrawals {
    /// Forgets what the window passes on its way to `slot`, which may lie behind.
    fn advance(&mut self, slot: u32) {
        let passed = slot.saturating_sub(self.newest).min(WINDOW);
        for number in slot - passed..slot {
            // the slot after this one takes the place of one that is ten seconds older
            let count = &mut self.counts[index(number + 1)];
            self.counted -= *count;
            *count = 0;
        }
        self.newest = self.newest.max(slot);
    }

    /// How many count at `slot`, which is the newest or a later one.
    fn counted_at(&self, slot: u32) -> u32 {
        let oldest = slot.saturating_sub(WINDOW - 1);
        (oldest..=self.newest)
            .map(|number| self.counts[index(number)])
            .sum()
    }

    /// Charges the newest slot, once there is room for one more.
    fn charge(&mut self) -> u32 {
        self.counts[index(self.newest)] += 1;
        self.counted += 1;
        self.newest
    }

    fn give_back(&mut self, slot: u32) {
        if !is_in_window(slot, self.newest) {
            return;
        }
        let count = &mut self.counts[index(slot)];
        // a withdrawal of another budget finds nothing here, or takes from others
        if let Some(less) = count.checked_sub(1) {
            *count = less;
            self.counted -= 1;
        }
    }
}

fn index(number: u32) -> usize {
    (number % WINDOW) as usize
}
