use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use steadfast::http::BoxError;
use tokio::net::TcpStream;

use super::within;

type Body = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

pub(crate) fn empty(method: &str, path: &str) -> Request<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap()
}

pub(crate) fn text(method: &str, path: &str, text: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(text.into());
    empty(method, path).map(|_| body.map_err(|never| match never {}).boxed_unsync())
}

/// One connection of a client.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// Of a client that has no room for bodies.
    pub(crate) async fn open_without_room(address: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(async { _ = connection.await });
        Self {
            address,
            sender: Sender::Http2(sender),
        }
    }

    pub(crate) async fn open(protocol: Protocol, address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        // How a connection ends is seen by who waits for an answer on it.
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(async { _ = connection.await });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let executor = TokioExecutor::new();
                let (sender, connection) = http2::handshake(executor, stream).await.unwrap();
                tokio::spawn(async { _ = connection.await });
                Sender::Http2(sender)
            }
        };
        Self { address, sender }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends the request and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let (head, body) = self.begin(request).await?.into_parts();
        let body = within(body.collect()).await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }

    /// Sends the request and reads the head of the answer.
    pub(crate) async fn begin(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let authority = self.address.to_string();
        match &mut self.sender {
            Sender::Http1(sender) => {
                let host = request.headers_mut().entry(header::HOST);
                host.or_insert(authority.parse().unwrap());
                sender.ready().await?;
                within(sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                let path = request.uri().path_and_query().unwrap().clone();
                *request.uri_mut() = Uri::builder()
                    .scheme("http")
                    .authority(authority)
                    .path_and_query(path)
                    .build()
                    .unwrap();
                sender.ready().await?;
                within(sender.send_request(request)).await
            }
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and the code of a problem.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.headers.get(header::CONTENT_TYPE).unwrap(),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        let code = problem["code"].as_str().unwrap().to_owned();
        (self.status.as_u16(), code)
    }
}
