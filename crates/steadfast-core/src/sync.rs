//! What is shared between threads, in the form that loom can watch when its tests are built.

use std::sync::{OnceLock, atomic::AtomicUsize};

#[cfg(all(loom, test))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// How many threads can run at once. Asked once: the answer may come from files.
pub(crate) fn parallelism() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, Into::into))
}

/// A number of this thread: threads that were started one after the other have different ones, modulo any power of two.
pub(crate) fn lane() -> usize {
    use std::sync::atomic::Ordering;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static LANE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    LANE.with(|lane| *lane)
}
