use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that the request bodies of one layer may hold together.
#[derive(Clone, Debug)]
pub struct BytePool {
    /// Relaxed: a count by itself, which orders nothing else.
    available: Arc<AtomicUsize>,
}

impl BytePool {
    /// A pool of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            available: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    /// An empty reservation, to grow with what arrives.
    #[must_use]
    pub fn reservation(&self) -> Reservation {
        Reservation {
            pool: self.clone(),
            bytes: 0,
        }
    }

    /// Bytes that nobody has reserved.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available.load(Ordering::Relaxed)
    }
}

/// Bytes taken from a [`BytePool`]; they go back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    pool: BytePool,
    bytes: usize,
}

impl Reservation {
    /// Takes more bytes, or takes none and says `false` if the pool has too few. Never waits.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let less = |available: usize| available.checked_sub(bytes);
        let taken = self
            .pool
            .available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.available.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reserved_goes_back_when_it_is_dropped() {
        let pool = BytePool::new(10);
        let mut one = pool.reservation();
        let mut another = pool.reservation();

        assert!(one.try_grow(6));
        assert!(one.try_grow(2));
        assert!(!another.try_grow(3));
        assert_eq!(pool.available(), 2);

        drop(one);
        assert!(another.try_grow(10));
    }
}
