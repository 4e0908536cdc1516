//! What operators see: logs on stderr, and metrics at `GET /metrics`.

mod charges;
mod json;
mod logs;
mod metrics;
mod requests;

pub use self::{logs::install as install_logs, metrics::Metrics};
pub(crate) use charges::count_surplus_charge;
pub(crate) use requests::observe;
