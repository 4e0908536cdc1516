use std::{
    sync::{Arc, OnceLock},
    thread,
};

use crate::{
    CircuitBreaker,
    admission::{Held, Lane},
    shared::Shared,
};

/// Which breaker guards a request: a [`CircuitBreaker`], or one of a registry.
///
/// Nobody else implements it.
pub trait Breakers<Req>: sealed::Sealed + Clone {
    /// The breaker of this request.
    #[doc(hidden)]
    fn hold(&self, request: &Req) -> Held;

    /// Whether a request that comes now would pass, as far as that can be told before it is there.
    #[doc(hidden)]
    fn would_admit(&self) -> bool;
}

impl<Req> Breakers<Req> for CircuitBreaker {
    #[inline]
    fn hold(&self, _: &Req) -> Held {
        self.lanes.hold()
    }

    fn would_admit(&self) -> bool {
        self.shared.would_admit()
    }
}

/// The lanes of one breaker.
#[derive(Clone, Debug)]
pub(crate) struct Lanes(Arc<[Arc<Lane>]>);

impl Lanes {
    /// Threads beyond that share lanes: each is a quarter of a KiB, and few programs have more cores at work on one destination.
    const MAX: usize = 8;

    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        // Asked once: the answer may come from files.
        static THREADS: OnceLock<usize> = OnceLock::new();
        let threads =
            *THREADS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from));
        Self::of(shared, threads.min(Self::MAX))
    }

    pub(crate) fn of(shared: &Arc<Shared>, lanes: usize) -> Self {
        let lane = |_| {
            let shared = Arc::clone(shared);
            Arc::new(Lane { shared })
        };
        Self((0..lanes.next_power_of_two()).map(lane).collect())
    }

    #[inline]
    pub(crate) fn hold(&self) -> Held {
        // There is a power of two of them.
        Held(Arc::clone(&self.0[lane() & (self.0.len() - 1)]))
    }
}

/// A number of this thread: those that were started one after the other have different ones.
#[inline]
fn lane() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static LANE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    LANE.with(|lane| *lane)
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "nobody else implements it")]
    pub trait Sealed {}
    impl Sealed for crate::CircuitBreaker {}
}
