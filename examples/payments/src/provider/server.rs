use std::io;

use axum::{Router, body::Body};
use http::Request;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use super::Lost;
use crate::server;

/// Serves the provider until `stop`, and then what is in flight.
///
/// A lost response closes its connection without a byte: hyper does so when a service fails, and a router cannot.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Body>| {
        let answering = routes.clone().oneshot(request);
        async move {
            let Ok(response) = answering.await;
            if response.extensions().get::<Lost>().is_some() {
                return Err(io::Error::other("the response is lost on purpose"));
            }
            Ok(response)
        }
    });
    server::serve(listener, service, stop).await;
}
