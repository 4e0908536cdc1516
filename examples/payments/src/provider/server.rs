use std::{io, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::Lost;

/// Out of file descriptors, for example: some may be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the provider until `stop`, and then what is in flight.
///
/// A server of its own, because a lost response closes its connection without a byte: hyper does so when a service fails, and a
/// router cannot.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the provider failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }

        let routes = routes.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answering = routes.clone().oneshot(request.map(Body::new));
            async move {
                let response = match answering.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                if response.extensions().get::<Lost>().is_some() {
                    return Err(io::Error::other("the response is lost on purpose"));
                }
                Ok(response)
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the provider ended");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}
