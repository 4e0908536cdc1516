//! A gRPC service as generated code has it, server and client written out: `test.Echo` with a method of each kind.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode};
use http_body::Body;
use steadfast::{idempotency::IdempotencyLayer, store::MemoryStore};
use tokio::sync::Notify;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body as TonicBody,
    client::{Grpc as ClientGrpc, GrpcService},
    codec::CompressionEncoding,
    codegen::{StdError, http::uri::PathAndQuery},
    server::{Grpc as ServerGrpc, NamedService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::script::Reserved;

pub(crate) const SAY: &str = "/test.Echo/Say";
const COUNT: &str = "/test.Echo/Count";
const GATHER: &str = "/test.Echo/Gather";
const CHAT: &str = "/test.Echo/Chat";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Saying {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(uint32, tag = "2")]
    pub(crate) number: u32,
}

pub(crate) fn saying(text: impl Into<String>) -> Saying {
    Saying {
        text: text.into(),
        number: 0,
    }
}

/// What the server does with one call.
pub(crate) enum Step {
    /// Gives back what it got.
    Echo,
    /// Does so once it is told to.
    EchoLater(Arc<Notify>),
    /// Fails before there is a message.
    Fail(Status),
    /// Fails in the trailers, after the first message.
    FailLate(Status),
    /// Answers with this status and no word of gRPC, as a proxy does.
    Proxied(StatusCode),
    /// Never answers.
    Hang,
}

/// Takes one step for each call, and echoes once it has taken all of them.
#[derive(Clone)]
pub(crate) struct Echo(Arc<Inner>);

struct Inner {
    steps: Mutex<VecDeque<Step>>,
    heads: Mutex<Vec<HeaderMap>>,
    compresses: bool,
}

impl Echo {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::of(steps, false)
    }

    /// Compresses what it says, and takes what is compressed.
    pub(crate) fn compressing(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::of(steps, true)
    }

    fn of(steps: impl IntoIterator<Item = Step>, compresses: bool) -> Self {
        Self(Arc::new(Inner {
            steps: Mutex::new(steps.into_iter().collect()),
            heads: Mutex::default(),
            compresses,
        }))
    }

    /// The headers of each call, as they came over the wire.
    pub(crate) fn heads(&self) -> Vec<HeaderMap> {
        self.0.heads.lock().unwrap().clone()
    }

    /// This header of each call.
    pub(crate) fn header(&self, name: &str) -> Vec<Option<String>> {
        let heads = self.heads().into_iter();
        let value = |head: HeaderMap| Some(head.get(name)?.to_str().unwrap().to_owned());
        heads.map(value).collect()
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.heads.lock().unwrap().len()
    }

    pub(crate) async fn serve(self) -> SocketAddr {
        let reserved = Reserved::port();
        let address = reserved.address();
        self.serve_on(reserved);
        address
    }

    /// Serves behind a layer that keeps keys.
    pub(crate) async fn serve_behind(self, layer: IdempotencyLayer<MemoryStore>) -> SocketAddr {
        let reserved = Reserved::port();
        let address = reserved.address();
        let server = Server::builder().layer(layer).add_service(self);
        let incoming = TcpIncoming::from(reserved.listen());
        tokio::spawn(async { server.serve_with_incoming(incoming).await.unwrap() });
        address
    }

    /// Serves until it is stopped. What is under way then is finished.
    pub(crate) fn serve_on(self, reserved: Reserved) -> Serving {
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let server = Server::builder()
            .add_service(self)
            .serve_with_incoming_shutdown(TcpIncoming::from(reserved.listen()), async move {
                stopped.notified().await;
            });
        let server = tokio::spawn(async { server.await.unwrap() });
        Serving { stop, server }
    }

    fn next(&self, head: &HeaderMap) -> Step {
        self.0.heads.lock().unwrap().push(head.clone());
        let next = self.0.steps.lock().unwrap().pop_front();
        next.unwrap_or(Step::Echo)
    }
}

/// A server that runs.
pub(crate) struct Serving {
    stop: Arc<Notify>,
    server: tokio::task::JoinHandle<()>,
}

impl Serving {
    pub(crate) async fn stop(self) {
        self.stop.notify_one();
        self.server.await.unwrap();
    }
}

type Sayings = Pin<Box<dyn Stream<Item = Result<Saying, Status>> + Send>>;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl<B> Service<http::Request<B>> for Echo
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    type Response = http::Response<TonicBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let step = self.next(request.headers());
        let mut grpc = ServerGrpc::new(ProstCodec::<Saying, Saying>::default());
        if self.0.compresses {
            grpc = grpc
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        Box::pin(async move {
            let late = match step {
                Step::Echo => None,
                Step::EchoLater(told) => {
                    told.notified().await;
                    None
                }
                Step::Fail(status) => return Ok(status.into_http()),
                Step::FailLate(status) => Some(status),
                Step::Proxied(status) => {
                    let mut response = http::Response::new(TonicBody::empty());
                    *response.status_mut() = status;
                    return Ok(response);
                }
                Step::Hang => std::future::pending().await,
            };
            Ok(match request.uri().path() {
                SAY => {
                    let say = service_fn(async |request: Request<Saying>| {
                        Ok(Response::new(request.into_inner()))
                    });
                    grpc.unary(say, request).await
                }
                COUNT => {
                    let count = service_fn(move |request: Request<Saying>| {
                        let late = late.clone();
                        async move {
                            let saying = request.into_inner();
                            let last = if late.is_some() { 1 } else { saying.number };
                            let sayings = stream::iter(1..=last).map(move |number| {
                                Ok(Saying {
                                    number,
                                    ..saying.clone()
                                })
                            });
                            let end = stream::iter(late.map(Err));
                            Ok(Response::new(sayings.chain(end).boxed() as Sayings))
                        }
                    });
                    grpc.server_streaming(count, request).await
                }
                GATHER => {
                    let gather = service_fn(async |request: Request<Streaming<Saying>>| {
                        let mut sayings = request.into_inner();
                        let mut all = saying("");
                        while let Some(said) = sayings.message().await? {
                            all.text += &said.text;
                            all.number += 1;
                        }
                        Ok(Response::new(all))
                    });
                    grpc.client_streaming(gather, request).await
                }
                CHAT => {
                    let chat = service_fn(async |request: Request<Streaming<Saying>>| {
                        Ok(Response::new(request.into_inner().boxed() as Sayings))
                    });
                    grpc.streaming(chat, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Channel::from_shared(format!("http://{address}")).unwrap()
}

/// A channel that connects when it is first used, and again when it must.
pub(crate) fn channel(address: SocketAddr) -> Channel {
    endpoint(address).connect_lazy()
}

/// The client, with the bounds that generated code has.
#[derive(Clone, Debug)]
pub(crate) struct EchoClient<T> {
    inner: ClientGrpc<T>,
}

impl<T> EchoClient<T>
where
    T: GrpcService<TonicBody>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner: ClientGrpc::new(inner),
        }
    }

    pub(crate) fn compressing(mut self) -> Self {
        self.inner = self
            .inner
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip);
        self
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.inner.ready().await;
        ready.map_err(|error| {
            let error: StdError = error.into();
            Status::unknown(format!("the service was not ready: {error}"))
        })
    }

    pub(crate) async fn say(
        &mut self,
        request: impl tonic::IntoRequest<Saying>,
    ) -> Result<Response<Saying>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(SAY);
        let request = request.into_request();
        self.inner.unary(request, path, ProstCodec::default()).await
    }

    pub(crate) async fn count(
        &mut self,
        request: impl tonic::IntoRequest<Saying>,
    ) -> Result<Response<Streaming<Saying>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(COUNT);
        let request = request.into_request();
        let codec = ProstCodec::default();
        self.inner.server_streaming(request, path, codec).await
    }

    pub(crate) async fn gather(
        &mut self,
        request: impl tonic::IntoStreamingRequest<Message = Saying>,
    ) -> Result<Response<Saying>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(GATHER);
        let request = request.into_streaming_request();
        let codec = ProstCodec::default();
        self.inner.client_streaming(request, path, codec).await
    }

    pub(crate) async fn chat(
        &mut self,
        request: impl tonic::IntoStreamingRequest<Message = Saying>,
    ) -> Result<Response<Streaming<Saying>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(CHAT);
        let request = request.into_streaming_request();
        let codec = ProstCodec::default();
        self.inner.streaming(request, path, codec).await
    }
}
