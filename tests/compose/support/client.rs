use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Http1 => Self::Http2,
            Self::Http2 => Self::Http1,
        }
    }
}

/// A request for a charge under this key.
pub(crate) fn charge(path: &str, key: &str, order: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("idempotency-key", key)
        .body(Full::new(order.into()))
        .unwrap()
}

/// One connection of one client.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: Sender,
    socket: Arc<std::net::TcpStream>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn open(protocol: Protocol, address: SocketAddr) -> Self {
        Self::try_open(protocol, address).await.unwrap()
    }

    pub(crate) async fn try_open(
        protocol: Protocol,
        address: SocketAddr,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(address).await?.into_std()?;
        stream.set_nodelay(true)?;
        let socket = Arc::new(stream.try_clone()?);
        let stream = TokioIo::new(TcpStream::from_std(stream)?);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                // How a connection ends is seen by who waits for an answer on it.
                tokio::spawn(async { _ = connection.await });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(async { _ = connection.await });
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            address,
            sender,
            socket,
        })
    }

    /// Another client on the same connection, which only HTTP/2 has.
    pub(crate) fn another_stream(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else {
            panic!("HTTP/1 has one request at a time");
        };
        Self {
            address: self.address,
            sender: Sender::Http2(sender.clone()),
            socket: Arc::clone(&self.socket),
        }
    }

    /// Sends the request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Answer, hyper::Error> {
        let authority = self.address.to_string();
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                let authority = authority.parse().unwrap();
                request.headers_mut().insert(header::HOST, authority);
                sender.ready().await?;
                sender.send_request(request).await?
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
                sender.send_request(request).await?
            }
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }

    /// Shut down, it cuts the connection, whatever is under way on it.
    pub(crate) fn socket(&self) -> Arc<std::net::TcpStream> {
        Arc::clone(&self.socket)
    }
}

/// A whole answer, as it came over the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// `Idempotent-Replayed`.
    pub(crate) fn marker(&self) -> Option<&str> {
        let value = self.headers.get("idempotent-replayed")?;
        Some(value.to_str().unwrap())
    }

    /// Whether the layer says that the store has not acknowledged it.
    pub(crate) fn is_unstored(&self) -> bool {
        self.headers.contains_key("idempotent-stored")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The code of a problem; `None` for any other answer.
    pub(crate) fn code(&self) -> Option<String> {
        let kind = self.headers.get(header::CONTENT_TYPE)?;
        if kind != "application/problem+json" {
            return None;
        }
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        Some(problem["code"].as_str().unwrap().to_owned())
    }

    /// The answer without what belongs to the moment and the first caller: what every replay must repeat byte for byte.
    pub(crate) fn lasting(&self) -> Self {
        let mut lasting = self.clone();
        for name in [header::DATE, header::SET_COOKIE] {
            lasting.headers.remove(name);
        }
        lasting.headers.remove("idempotent-replayed");
        lasting
    }
}
