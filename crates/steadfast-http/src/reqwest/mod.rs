//! HTTP layers around reqwest's client.
//!
//! reqwest's `Client` is a service of `reqwest::Request`; HTTP layers are written for `http::Request`. [`ReqwestLayer`] stands
//! between: it puts any HTTP layer around the client, and the whole still takes a `reqwest::Request`, answers with a
//! `reqwest::Response` and fails with a `reqwest::Error`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use steadfast_http::reqwest::ReqwestLayer;
//! use tower::{ServiceBuilder, ServiceExt};
//! # use tower::layer::util::Identity as RetryLayer;
//!
//! # async fn charge() -> Result<(), reqwest::Error> {
//! let client = reqwest::Client::builder()
//!     .retry(reqwest::retry::never())
//!     .timeout(Duration::from_secs(2))
//!     .build()?;
//! let stack = ServiceBuilder::new()
//!     .layer(ReqwestLayer::new(RetryLayer::new()))
//!     .service(client.clone());
//!
//! let request = client.post("https://payments.example/charges").body("amount=12").build()?;
//! let response = stack.clone().oneshot(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! `RetryLayer` stands for any HTTP layer. Several are passed as one: `ReqwestLayer::new(ServiceBuilder::new().layer(a).layer(b))`.
//! A service that speaks `http::Request` outside, too, needs only [`ReqwestService`].
//!
//! # What survives
//!
//! - of a request: method, URL without its fragment, headers, body, version, extensions, and the timeout that
//!   `RequestBuilder::timeout` set;
//! - of a response: status, headers, body with trailers, version, `url()`, `remote_addr()`, and the extensions. What a layer put
//!   there, such as a [`LocalRejection`](crate::LocalRejection), is read from `response.extensions()`. A response that a layer
//!   made up has the URL of the request;
//! - errors, untouched. A request that reqwest cannot send, such as one whose URI is relative, fails with an error for which
//!   `is_builder()` is true.
//!
//! # Marking a request
//!
//! reqwest has no way to reach the extensions of its requests. They are reached before or after, as those of an `http::Request`:
//!
//! ```
//! use steadfast_http::IdempotentRequest;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let client = reqwest::Client::new();
//! let request = client.post("https://payments.example/charges").body("amount=12").build()?;
//!
//! let mut request = http::Request::try_from(request)?;
//! request.extensions_mut().insert(IdempotentRequest);
//! let request = reqwest::Request::try_from(request)?;
//! # let _ = request;
//! # Ok(())
//! # }
//! ```
//!
//! # Traps
//!
//! - **`RequestBuilder::send` passes by every layer.** It calls the client that made the builder. `build` the request and `call`
//!   the stack.
//! - **reqwest repeats requests by itself** when an HTTP/2 server refuses a stream or closes the connection gracefully. Under a
//!   layer that retries, switch it off with `.retry(reqwest::retry::never())` on the client's builder: else attempts multiply,
//!   and no budget counts reqwest's own.
//! - **reqwest can only repeat a body that it holds in memory.** A body that a layer wrapped is a stream to it. It does not repeat
//!   such a request, nor does it follow a 307 or 308 with such a body: the redirect itself is the response. A body that arrives as
//!   the `reqwest::Body` it was is passed on as it is, and is repeated. Where both occur, `redirect::Policy::none()` on the
//!   client's builder gives one behaviour.
//! - **Redirects are followed beneath the layers.** A layer sees one call, and the response of the last hop. A retry starts again
//!   at the first.
//! - **Timeouts of reqwest bound one attempt**, not the call: the client's and `RequestBuilder::timeout` alike start anew with each
//!   attempt of a layer that retries, and go on while the body of the response is read. The time for all attempts is the retry
//!   layer's to limit.

mod layer;
mod service;
mod stack;

pub use layer::ReqwestLayer;
pub use service::{ReqwestService, ServiceFuture};
pub use stack::{ReqwestStack, StackFuture};
