// The links stand first, so that those between pages lead to modules in rustdoc, and to files elsewhere. A doctest is named after
// them for that: its line is that of the page, and as many more as they have.
#![doc = include_str!("../guide/links.md")]
#![doc = include_str!("../guide/index.md")]

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/axum_client.md")]
pub mod axum_client {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/axum_server.md")]
pub mod axum_server {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/failure_windows.md")]
pub mod failure_windows {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/hyper_client.md")]
pub mod hyper_client {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/migration.md")]
pub mod migration {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/order.md")]
pub mod order {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/own_middleware.md")]
pub mod own_middleware {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/promises.md")]
pub mod promises {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/reqwest_client.md")]
pub mod reqwest_client {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/signals.md")]
pub mod signals {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/tonic_client.md")]
pub mod tonic_client {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/tonic_server.md")]
pub mod tonic_server {}

#[doc = include_str!("../guide/links.md")]
#[doc = include_str!("../guide/tuning.md")]
pub mod tuning {}

#[cfg(test)]
mod tests;
