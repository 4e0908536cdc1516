use crate::sync::{AtomicU64, Ordering};

/// How many calls failed in a row.
///
/// One word has the generation and the run, so that a call of another generation cannot change it: not even one that was overtaken
/// by a change of state at the last moment. Relaxed: the word is all there is, and publishes nothing else.
#[derive(Debug)]
pub(in crate::breaker) struct Run {
    limit: u32,
    word: AtomicU64,
}

impl Run {
    pub(in crate::breaker) fn new(limit: u32) -> Self {
        Self {
            limit,
            word: AtomicU64::new(0),
        }
    }

    /// Ends the run; writes nothing if there is none.
    #[inline]
    pub(in crate::breaker) fn succeeded(&self, generation: u64) {
        let mut word = self.word.load(Ordering::Relaxed);
        while length(word) != 0 && is_of(word, generation) {
            match self.word.compare_exchange_weak(
                word,
                packed(generation, 0),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(present) => word = present,
            }
        }
    }

    /// Lengthens the run, and tells its length if that is too long.
    pub(in crate::breaker) fn failed(&self, generation: u64) -> Option<u32> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if is_after(word, generation) {
                return None;
            }
            let before = if is_of(word, generation) {
                length(word)
            } else {
                0
            };
            let run = before.saturating_add(1);
            match self.word.compare_exchange_weak(
                word,
                packed(generation, run),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return (run >= self.limit).then_some(run),
                Err(present) => word = present,
            }
        }
    }

    pub(in crate::breaker) fn length(&self, generation: u64) -> u32 {
        let word = self.word.load(Ordering::Relaxed);
        if is_of(word, generation) {
            length(word)
        } else {
            0
        }
    }
}

/// Half of the generation's bits: who would be mistaken for another one must have slept through four billion changes of state.
fn packed(generation: u64, run: u32) -> u64 {
    generation << u32::BITS | u64::from(run)
}

const fn length(word: u64) -> u32 {
    word as u32
}

const fn tag(word: u64) -> u32 {
    (word >> u32::BITS) as u32
}

const fn is_of(word: u64, generation: u64) -> bool {
    tag(word) == generation as u32
}

/// Whether the word belongs to a later generation.
const fn is_after(word: u64, generation: u64) -> bool {
    let ahead = tag(word).wrapping_sub(generation as u32);
    ahead != 0 && ahead < 1 << 31
}
