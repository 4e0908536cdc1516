//! The client, the layers around it, the bodies they carry and the server that they call.

use std::{
    cell::Cell,
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    fmt,
    future::{Pending, Ready, pending, ready},
    iter,
    marker::PhantomData,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use steadfast_http::{
    BoxError, LocalRejection,
    problem::Code,
    reqwest::{ReqwestLayer, ReqwestService, ReqwestStack},
};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt, layer::util::Identity};

// === the client and its layers ===

pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy()
}

pub(crate) fn client() -> reqwest::Client {
    builder().build().unwrap()
}

pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

pub(crate) fn stack(client: &reqwest::Client) -> ReqwestStack<ReqwestService> {
    ServiceBuilder::new()
        .layer(ReqwestLayer::new(Identity::new()))
        .service(client.clone())
}

/// Gives the inner service a body that is not reqwest's.
#[derive(Clone)]
pub(crate) struct Wrapping<S>(pub(crate) S);

impl<S, B> Service<Request<B>> for Wrapping<S>
where
    S: Service<Request<Either<B, Empty<Bytes>>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.0.call(request.map(Either::Left))
    }
}

/// Answers every request by itself.
pub(crate) struct Rejecting<S>(pub(crate) S);

impl<S, B> Service<Request<B>> for Rejecting<S>
where
    S: Service<Request<B>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = S::Error;
    type Future = Ready<Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let response = Response::builder()
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .extension(LocalRejection::new(Code::InProgress))
            .body(Full::from("rejected"));
        ready(Ok(response.unwrap()))
    }
}

/// Sends every request twice, one after the other.
pub(crate) struct Twice<S>(pub(crate) S);

impl<S> Service<Request<reqwest::Body>> for Twice<S>
where
    S: Service<Request<reqwest::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<reqwest::Body>) -> Self::Future {
        let service = self.0.clone();
        let (head, _) = request.into_parts();
        Box::pin(async move {
            let first = Request::from_parts(head.clone(), reqwest::Body::default());
            let _ = service.clone().oneshot(first).await;
            let second = Request::from_parts(head, reqwest::Body::default());
            service.oneshot(second).await
        })
    }
}

/// Stands for the client: ready only when it is open.
pub(crate) struct Gate {
    pub(crate) open: bool,
}

impl Service<reqwest::Request> for Gate {
    type Response = reqwest::Response;
    type Error = reqwest::Error;
    type Future = Pending<Result<reqwest::Response, reqwest::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        if self.open {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, _: reqwest::Request) -> Self::Future {
        pending()
    }
}

/// Names the request for which a service that takes several is asked.
pub(crate) fn poll_ready_for<R, S: Service<R>>(
    _: PhantomData<R>,
    service: &mut S,
    cx: &mut Context<'_>,
) -> Poll<Result<(), S::Error>> {
    service.poll_ready(cx)
}

/// Fails the test where `future` would hang.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future)
        .await
        .expect("a timeout of the client fires before this one")
}

// === bodies ===

pub(crate) struct NotSync {
    pub(crate) body: Full<Bytes>,
    pub(crate) polls: Cell<u32>,
}

impl Body for NotSync {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polls.set(self.polls.get() + 1);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives these frames, one with each poll, and then ends or stalls.
pub(crate) struct Frames<E> {
    frames: VecDeque<Result<Frame<Bytes>, E>>,
    stalls: bool,
}

impl<E> Frames<E> {
    pub(crate) fn ended<const N: usize>(frames: [Result<Frame<Bytes>, E>; N]) -> Self {
        Self {
            frames: frames.into(),
            stalls: false,
        }
    }

    pub(crate) fn stalled<const N: usize>(frames: [Result<Frame<Bytes>, E>; N]) -> Self {
        Self {
            frames: frames.into(),
            stalls: true,
        }
    }
}

impl<E: Unpin> Body for Frames<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        match self.frames.pop_front() {
            None if self.stalls => Poll::Pending,
            frame => Poll::Ready(frame),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Torn;

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("torn")
    }
}

impl Error for Torn {}

// === the server ===

pub(crate) const SHORT: Duration = Duration::from_millis(200);
pub(crate) const LONG: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(connection);
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, BoxError> {
    match request.uri().path() {
        "/moved" => Ok(Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, "/seen")
            .body(Empty::new().boxed_unsync())?),
        "/never" => pending().await,
        "/seen" => seen(request).await,
        "/stalls" => {
            let body = Frames::stalled([Ok(Frame::data("head".into()))]);
            Ok(Response::new(body.boxed_unsync()))
        }
        "/teapot" => Ok(Response::builder()
            .status(StatusCode::IM_A_TEAPOT)
            .header("x-pot", "brown")
            .body(Full::from("steep").boxed_unsync())?),
        path => panic!("no such path: {path}"),
    }
}

/// Answers with what arrived, as text.
async fn seen(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(lines).unwrap_or_default();
    let target = head.uri.path_and_query().unwrap();
    let text = format!(
        "{} {target} {:?}\n{}\n{trailers}\n{}",
        head.method,
        head.version,
        lines(&head.headers),
        str::from_utf8(&body.to_bytes())?,
    );
    Ok(Response::new(Full::from(text).boxed_unsync()))
}

fn lines(headers: &HeaderMap) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
        .collect()
}

/// What arrived at the server.
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<String>,
    pub(crate) trailers: Vec<String>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        let (line, rest) = text.split_once('\n').unwrap();
        let mut lines = rest.split('\n').map(str::to_owned);
        Self {
            line: line.to_owned(),
            headers: lines.by_ref().take_while(|line| !line.is_empty()).collect(),
            trailers: lines.by_ref().take_while(|line| !line.is_empty()).collect(),
            body: lines.collect::<Vec<_>>().join("\n"),
        }
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter_map(|line| line.split_once(": "))
            .filter(|(header, _)| *header == name)
            .map(|(_, value)| value)
            .collect()
    }
}
