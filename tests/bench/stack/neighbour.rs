//! A server in a thread of its own.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::BoxError;

/// Reads each request to its end, and gives all the same answer, until it is dropped.
pub(super) struct Neighbour {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    pub(super) fn start() -> Result<Self, BoxError> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = serve(listener) => panic!("the server of the bench ended: {result:?}"),
                    // Its sender is dropped: nobody has anything to ask any more.
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(super) fn uri(&self) -> Uri {
        let uri = format!("http://{}/orders/8c5e1f40", self.address);
        uri.parse().expect("an address is an authority")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop = None;
        let thread = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = thread
            && !thread::panicking()
        {
            panic!("the server of the bench panicked");
        }
    }
}

async fn serve(listener: std::net::TcpListener) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(async move {
            // A client that hangs up in mid-answer is done measuring.
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(Bytes::from_static(b"answer"))))
}
