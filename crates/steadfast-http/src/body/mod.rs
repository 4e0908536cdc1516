//! Bodies that were captured, and bodies that are either the original or a captured one.
//!
//! All of them yield [`Bytes`](bytes::Bytes) and fail with [`BoxError`](crate::BoxError), the original's error converted; none
//! asks the original for `Clone`, `Sync` or a constructor.

mod captured;
mod collector;
mod either;
mod pool;

pub use captured::Captured;
pub use collector::{Collected, Collector, Unfinished};
pub use either::{CapturedBody, ReplyBody};
pub use pool::{BytePool, Reservation};
