//! What a server sees of the attempts, over sockets and through hyper.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use steadfast_http::{
    BoxError,
    body::{BytePool, Replay, ReplayBody},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::support::{Item, Original, Tells};

const LIMIT: usize = 64 * 1024;

/// When the server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answers {
    Early,
    AfterTheBody,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

#[tokio::test]
async fn the_second_attempt_is_framed_like_the_first() {
    for protocol in BOTH {
        let mut server = Server::start(protocol, Answers::AfterTheBody).await;
        let body = Original::of([Item::data("four"), Item::data("five!")]);
        let (mut replay, first) = Replay::new(body, LIMIT, &BytePool::new(LIMIT));

        let _first = server.send(first).await;
        let _second = server.send(replay.again().unwrap()).await;

        for attempt in 1..=2 {
            let seen = server.seen().await;
            assert_eq!(seen.header(header::CONTENT_LENGTH), "9", "{attempt}");
            assert_eq!(seen.header(header::TRANSFER_ENCODING), "", "{attempt}");
            assert_eq!(seen.body.unwrap(), "fourfive!", "{attempt}");
        }
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_sent_again_with_its_trailers() {
    for protocol in BOTH {
        let mut server = Server::start(protocol, Answers::AfterTheBody).await;
        let items = [Item::data("four"), Item::trailers("1")];
        let body = Original::of(items).telling(Tells::Nothing);
        let (mut replay, first) = Replay::new(body, LIMIT, &BytePool::new(LIMIT));

        let _first = server.send(first).await;
        let _second = server.send(replay.again().unwrap()).await;

        for attempt in 1..=2 {
            let seen = server.seen().await;
            assert_eq!(seen.header(header::CONTENT_LENGTH), "", "{attempt}");
            let is_chunked = seen.header(header::TRANSFER_ENCODING) == "chunked";
            assert_eq!(is_chunked, protocol == Protocol::Http1, "{attempt}");
            assert_eq!(seen.body.unwrap(), "four", "{attempt}");
            assert_eq!(seen.trailers["checksum"], "1", "{attempt}");
        }
    }
}

#[tokio::test]
async fn a_request_without_a_body_is_sent_again_without_one() {
    for protocol in BOTH {
        let mut server = Server::start(protocol, Answers::AfterTheBody).await;
        let body = Empty::<Bytes>::new();
        let (mut replay, first) = Replay::new(body, LIMIT, &BytePool::new(LIMIT));

        let _first = server.send(first).await;
        let _second = server.send(replay.again().unwrap()).await;

        let (first, second) = (server.seen().await, server.seen().await);
        assert_eq!(first.headers, second.headers);
        assert_eq!(second.header(header::TRANSFER_ENCODING), "");
        assert_eq!(
            (first.body.unwrap(), second.body.unwrap()),
            ("".into(), "".into())
        );
    }
}

#[tokio::test]
async fn a_server_that_answers_early_gets_the_whole_body_next_time() {
    for protocol in BOTH {
        let mut server = Server::start(protocol, Answers::Early).await;
        let (upload, body) = mpsc::channel(2);
        let (mut replay, first) = Replay::new(Stream(body), LIMIT, &BytePool::new(LIMIT));
        upload.send("first half, ").await.unwrap();

        let answered = server.send(first).await;
        let second = replay.again().unwrap();

        let seen = server.seen().await;
        assert!(seen.body.is_err(), "the first attempt looked complete");
        if protocol == Protocol::Http1 {
            bounded(answered.connection).await.unwrap();
        }

        upload.send("second half").await.unwrap();
        drop(upload);
        let _second = server.send(second).await;
        let seen = server.seen().await;
        assert_eq!(seen.body.unwrap(), "first half, second half");
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_an_early_response() {
    for protocol in BOTH {
        let mut server = Server::start(protocol, Answers::Early).await;
        let (upload, body) = mpsc::channel(2);
        let (replay, first) = Replay::new(Stream(body), LIMIT, &BytePool::new(LIMIT));
        upload.send("first half, ").await.unwrap();

        let _answered = server.send(first).await;
        drop(replay);
        upload.send("second half").await.unwrap();
        drop(upload);

        let seen = server.seen().await;
        assert_eq!(seen.body.unwrap(), "first half, second half");
    }
}

/// A body that comes as somebody sends it.
struct Stream(mpsc::Receiver<&'static str>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|data| data.map(|data| Ok(Frame::data(data.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// A request as the server read it.
struct Seen {
    headers: HeaderMap,
    body: Result<Bytes, hyper::Error>,
    trailers: HeaderMap,
}

impl Seen {
    async fn read(request: Request<Incoming>) -> Self {
        let (head, body) = request.into_parts();
        let (body, trailers) = match body.collect().await {
            Ok(body) => {
                let trailers = body.trailers().cloned().unwrap_or_default();
                (Ok(body.to_bytes()), trailers)
            }
            Err(error) => (Err(error), HeaderMap::new()),
        };
        Self {
            headers: head.headers,
            body,
            trailers,
        }
    }

    fn header(&self, name: HeaderName) -> &str {
        let values = self.headers.get(name);
        values.map_or("", |value| value.to_str().unwrap())
    }
}

/// An attempt that was answered. The answer is not read, and what keeps the connection is not dropped.
struct Answered {
    _response: Response<Incoming>,
    _sender: Box<dyn Send>,
    connection: JoinHandle<()>,
}

/// A server that says of every request what it has read.
struct Server {
    protocol: Protocol,
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    async fn start(protocol: Protocol, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = service_fn(move |request| {
                    let sender = sender.clone();
                    let (answer, body) = mpsc::channel(1);
                    let reading = tokio::spawn(async move {
                        let seen = Seen::read(request).await;
                        let _ = sender.send(seen);
                        // An answer that ends before its request may close the connection: it ends after it.
                        drop(answer);
                    });
                    async move {
                        if answers == Answers::AfterTheBody {
                            let _ = reading.await;
                        }
                        Response::builder()
                            .status(StatusCode::SERVICE_UNAVAILABLE)
                            .body(Stream(body))
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    match protocol {
                        Protocol::Http1 => {
                            server::conn::http1::Builder::new()
                                .serve_connection(io, service)
                                .await
                        }
                        Protocol::Http2 => {
                            server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(io, service)
                                .await
                        }
                    }
                });
            }
        });
        Self {
            protocol,
            address,
            seen,
        }
    }

    /// Sends one attempt on a connection of its own, and waits for the head of the answer.
    async fn send<B>(&self, body: ReplayBody<B>) -> Answered
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = Request::post(format!("http://{}/", self.address))
            .header(header::HOST, "server")
            .header(header::TRAILER, "checksum")
            .body(body)
            .unwrap();
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (response, sender, connection): (_, Box<dyn Send>, _) = match self.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = client::conn::http1::handshake(io).await.unwrap();
                let connection = tokio::spawn(async move {
                    let _ = connection.await;
                });
                let response = bounded(sender.send_request(request)).await;
                (response, Box::new(sender), connection)
            }
            Protocol::Http2 => {
                let executor = TokioExecutor::new();
                let (mut sender, connection) =
                    client::conn::http2::handshake(executor, io).await.unwrap();
                let connection = tokio::spawn(async move {
                    let _ = connection.await;
                });
                let response = bounded(sender.send_request(request)).await;
                (response, Box::new(sender), connection)
            }
        };
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        Answered {
            _response: response,
            _sender: sender,
            connection,
        }
    }

    async fn seen(&mut self) -> Seen {
        bounded(self.seen.recv()).await.unwrap()
    }
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future)
        .await
        .expect("it takes too long")
}
