//! A server that does nothing but HTTP: what a request costs before there is a route.

use std::{io, pin::pin};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

use super::charges::{Customer, Keys, RECEIPT};
use crate::{
    BoxError,
    requests::{Client, Server, Verdict},
};

/// Reads each request to its end, and gives all the same answer, which is as long as the route's.
pub(crate) struct Floor;

impl Server for Floor {
    async fn serve(self, listener: TcpListener, stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let mut connections = JoinSet::new();
        let mut stopped = pin!(stopped);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let stream = TokioIo::new(stream);
                    connections.spawn(http1::Builder::new().serve_connection(stream, service_fn(answer)));
                }
                _ = &mut stopped => break,
            }
        }
        while let Some(ended) = connections.join_next().await {
            ended?.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let mut answer = Response::new(Full::new(Bytes::from_static(RECEIPT.as_bytes())));
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(answer)
}

/// Sends what a customer sends.
pub(crate) struct Visitor(Customer);

impl Visitor {
    pub(crate) const fn new(index: usize) -> Self {
        Self(Customer::new(index, Keys::Ignored, false))
    }
}

impl Client for Visitor {
    fn request(&mut self) -> Request<Full<Bytes>> {
        self.0.request()
    }

    fn check(&mut self, head: &response::Parts, body: &Bytes) -> Result<Verdict, BoxError> {
        if head.status == StatusCode::CREATED && body == RECEIPT {
            Ok(Verdict::Right)
        } else {
            Err(format!("an empty server answered {} {body:?}", head.status).into())
        }
    }
}
