use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that the request bodies of one layer may hold together.
#[derive(Clone, Debug)]
pub struct BytePool(Arc<Semaphore>);

impl BytePool {
    /// The largest pool there can be.
    pub const MAX_BYTES: usize = Semaphore::MAX_PERMITS;

    /// A pool of this many bytes, [`MAX_BYTES`](Self::MAX_BYTES) at most.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Self::MAX_BYTES))))
    }

    /// An empty reservation, to grow with what arrives.
    #[must_use]
    pub fn reservation(&self) -> Reservation {
        Reservation {
            pool: self.clone(),
            permit: None,
        }
    }

    /// Bytes that nobody has reserved.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.available_permits()
    }
}

/// Bytes taken from a [`BytePool`]; they go back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    pool: BytePool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// Takes more bytes, or takes none and says `false` if the pool has too few. Never waits.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let Ok(bytes) = u32::try_from(bytes) else {
            return false;
        };
        let Ok(more) = Arc::clone(&self.pool.0).try_acquire_many_owned(bytes) else {
            return false;
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
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
