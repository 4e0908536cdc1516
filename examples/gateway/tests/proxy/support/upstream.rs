use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::{BodyExt, Collected, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use steadfast::http::BoxError;
use tokio::net::{TcpListener, TcpSocket};

/// None closes the connection, as if the server had died.
pub(crate) type Reply = Option<Response<UnsyncBoxBody<Bytes, BoxError>>>;

/// An answer of this status, with this text.
pub(crate) fn says(status: u16, text: &'static str) -> Reply {
    let body = Full::from(text).map_err(|never| match never {});
    let response = Response::builder().status(status);
    Some(response.body(body.boxed_unsync()).unwrap())
}

/// A port that is ours, and that refuses connections as long as the value is there.
pub(crate) fn dead() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// A server behind the gateway, which speaks HTTP/1 and HTTP/2.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    begun: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// A request that came whole.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let values = self.head.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }
}

impl Upstream {
    /// Answers each whole request by its number, counted from zero.
    pub(crate) async fn that(answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let upstream = Self::serving(move |request| {
            let (answer, taken, log) = (answer.clone(), taken.clone(), log.clone());
            async move {
                let (head, body) = request.into_parts();
                let body: Collected<Bytes> = body.collect().await.ok()?;
                let trailers = body.trailers().cloned();
                let body = body.to_bytes();
                log.lock().unwrap().push(Seen {
                    head,
                    body,
                    trailers,
                });
                answer(taken.fetch_add(1, Ordering::SeqCst))
            }
        })
        .await;
        Self { seen, ..upstream }
    }

    /// Answers with this text.
    pub(crate) async fn saying(text: &'static str) -> Self {
        Self::that(move |_| says(200, text)).await
    }

    /// Does with requests what it likes. They are counted when they begin, and not kept.
    pub(crate) async fn serving<F>(
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            begun: Arc::default(),
            connections: Arc::default(),
        };
        let (begun, connections) = (upstream.begun.clone(), upstream.connections.clone());
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (begun, handler) = (begun.clone(), handler.clone());
                let service = service_fn(move |request| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let reply = handler(request);
                    async move { reply.await.ok_or("it has died") }
                });
                tokio::spawn(async move {
                    // How a connection ends is its client's to see.
                    _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    Ok::<_, Infallible>(())
                });
            }
        });
        upstream
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// A route of this prefix to it.
    pub(crate) fn at(&self, prefix: &str) -> String {
        format!("{prefix}={}", self.url())
    }

    /// The requests that came whole.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests began.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
