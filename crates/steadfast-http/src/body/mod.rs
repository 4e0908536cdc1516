//! Bodies that were captured, bodies that are either the original or a captured one, and bodies that can be sent again.
//!
//! All of them yield [`Bytes`](bytes::Bytes) and fail with [`BoxError`](crate::BoxError), the original's error converted; none
//! asks the original for `Clone`, `Sync` or a constructor.

mod captured;
mod collector;
mod either;
mod from_body;
mod pool;
mod replay;

pub use captured::Captured;
pub use collector::{Collected, Collector, Unfinished, ended_by_limit};
pub use either::{CapturedBody, ReplyBody};
pub use from_body::FromBody;
pub use pool::{BytePool, Reservation};
pub use replay::{Replay, ReplayBody, Superseded};
