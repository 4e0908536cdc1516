//! What operators see: logs on stderr, and metrics at `GET /metrics`.

mod json;
mod logs;
mod metrics;
mod requests;

pub use self::{logs::install as install_logs, metrics::Metrics};
pub(crate) use requests::observe;
