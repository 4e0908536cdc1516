use std::{convert::Infallible, net::SocketAddr};

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use steadfast::{idempotency::IdempotencyHandle, store::Store};
use tokio::net::{TcpListener, TcpSocket};
use tower::Service;

use super::LONG;

/// Serves a router until the runtime of the test ends.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let (listener, address) = bind();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Serves a tower service with hyper alone; `service` makes one for each connection.
pub(crate) async fn serve_plain<S, B>(service: impl Fn() -> S + Send + 'static) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (listener, address) = bind();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service());
            tokio::spawn(async move {
                // How a connection ends is its client's to see.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Waits until nothing of a layer runs.
pub(crate) async fn until_done<St: Store>(handle: &IdempotencyHandle<St>) {
    handle.drain(LONG).await.unwrap();
}

fn bind() -> (TcpListener, SocketAddr) {
    // The default queue, of 128, overflows when hundreds of clients come at once; the kernel then resets some of them.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
