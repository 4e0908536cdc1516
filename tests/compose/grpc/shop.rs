//! A gRPC service as generated code has it, written out: `shop.Charges` with a method of each kind.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Body;
use steadfast::{
    idempotency::{IdempotencyLayer, Operation},
    store::Store,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{
    Code, Request, Response, Status, Streaming,
    codec::CompressionEncoding,
    metadata::{MetadataMap, MetadataValue},
    server::{Grpc, NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, util::MapRequestLayer};

use super::fleeting;
use crate::support::eventually;

pub(super) const CREATE: &str = "/shop.Charges/Create";
/// Answers with a stream.
pub(super) const PRICES: &str = "/shop.Charges/Prices";
/// Takes a stream and answers with one.
pub(super) const HAGGLE: &str = "/shop.Charges/Haggle";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Order {
    #[prost(uint64, tag = "1")]
    pub(super) amount: u64,
    /// What the shop shall do: nothing strange, or one of the words of `Shop::create`.
    #[prost(string, tag = "2")]
    pub(super) wish: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Receipt {
    #[prost(uint64, tag = "1")]
    pub(super) amount: u64,
    /// Which run of the handler this was, of all.
    #[prost(uint32, tag = "2")]
    pub(super) run: u32,
    #[prost(string, tag = "3")]
    pub(super) provider_key: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) padding: Vec<u8>,
}

/// The handlers. They count their runs, and wait at their door when that is shut.
#[derive(Clone)]
pub(super) struct Shop(Arc<Inner>);

struct Inner {
    /// Calls that came to the outside of the layer.
    calls: AtomicU32,
    runs: AtomicU32,
    door: watch::Sender<bool>,
    seen: Mutex<Vec<MetadataMap>>,
}

impl Shop {
    pub(super) fn open() -> Self {
        Self(Arc::new(Inner {
            calls: AtomicU32::new(0),
            runs: AtomicU32::new(0),
            door: watch::Sender::new(true),
            seen: Mutex::default(),
        }))
    }

    pub(super) fn shut() -> Self {
        let shop = Self::open();
        shop.0.door.send_replace(false);
        shop
    }

    pub(super) fn open_door(&self) {
        self.0.door.send_replace(true);
    }

    pub(super) fn runs(&self) -> u32 {
        self.0.runs.load(Ordering::SeqCst)
    }

    pub(super) async fn until_started(&self, runs: u32) {
        eventually("a handler starts", || self.runs() >= runs).await;
    }

    /// How many calls came to the outside of the layer.
    pub(super) fn calls(&self) -> u32 {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub(super) async fn until_called(&self, calls: u32) {
        eventually("a call comes", || self.calls() >= calls).await;
    }

    /// Counts the calls that come to the outside of the layer.
    fn counting<B>(
        &self,
    ) -> MapRequestLayer<impl Fn(http::Request<B>) -> http::Request<B> + Clone + use<B>> {
        let inner = Arc::clone(&self.0);
        MapRequestLayer::new(move |request| {
            inner.calls.fetch_add(1, Ordering::SeqCst);
            request
        })
    }

    /// The metadata of each request that a handler saw.
    pub(super) fn seen(&self) -> Vec<MetadataMap> {
        self.0.seen.lock().unwrap().clone()
    }

    async fn create(self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        let run = self.0.runs.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.seen.lock().unwrap().push(request.metadata().clone());
        let mut door = self.0.door.subscribe();
        door.wait_for(|open| *open).await.unwrap();

        let provider_key = request
            .extensions()
            .get::<Operation>()
            .map(|operation| operation.derive("charge"))
            .unwrap_or_default();
        let order = request.into_inner();
        let mut words = order.wish.split(' ');
        let (wish, number) = (words.next().unwrap(), words.next());
        let number = || number.unwrap().parse().unwrap();
        match wish {
            "fail" => return Err(failure(number())),
            "fail-first" if run == 1 => return Err(failure(number())),
            "panic" => panic!("deliberate"),
            _ => {}
        }
        let padding = if wish == "large" {
            vec![7; number() as usize]
        } else {
            Vec::new()
        };
        let mut response = Response::new(Receipt {
            amount: order.amount,
            run,
            provider_key,
            padding,
        });
        let metadata = response.metadata_mut();
        metadata.insert("x-shop", MetadataValue::from_static("corner"));
        metadata.append("x-note", MetadataValue::from_static("one"));
        metadata.append("x-note", MetadataValue::from_static("two"));
        metadata.insert_bin("x-raw-bin", MetadataValue::from_bytes(b"\x00\xff"));
        Ok(response)
    }
}

/// A status with all that one can have.
pub(super) fn failure(code: i32) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-hint", MetadataValue::from_static("ask again"));
    metadata.insert_bin("x-trace-bin", MetadataValue::from_bytes(b"\x01\x02"));
    Status::with_details_and_metadata(
        Code::from_i32(code),
        "50 % caf\u{e9} is closed",
        Bytes::from_static(b"\x08\x05details"),
        metadata,
    )
}

struct Create(Shop);

impl UnaryService<Order> for Create {
    type Response = Receipt;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Receipt>, Status>> + Send>>;

    fn call(&mut self, request: Request<Order>) -> Self::Future {
        Box::pin(self.0.clone().create(request))
    }
}

type Receipts = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

/// What the server is made of, as generated code names it.
#[derive(Clone)]
pub(super) struct Charges {
    shop: Shop,
    compresses: bool,
    is_fleeting: bool,
}

impl Charges {
    pub(super) const fn new(shop: Shop) -> Self {
        Self {
            shop,
            compresses: false,
            is_fleeting: false,
        }
    }

    /// Compresses what its callers can decompress.
    pub(super) fn compressing(shop: Shop) -> Self {
        Self {
            compresses: true,
            ..Self::new(shop)
        }
    }

    /// Its receipts and refusals speak of their moment too, in head and trailers.
    pub(super) fn fleeting(shop: Shop) -> Self {
        Self {
            is_fleeting: true,
            ..Self::new(shop)
        }
    }

    fn grpc(&self) -> Grpc<ProstCodec<Receipt, Order>> {
        let grpc = Grpc::new(ProstCodec::default());
        if self.compresses {
            grpc.send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip)
        } else {
            grpc
        }
    }
}

impl NamedService for Charges {
    const NAME: &'static str = "shop.Charges";
}

impl<B> Service<http::Request<B>> for Charges
where
    B: Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (shop, mut grpc) = (self.shop.clone(), self.grpc());
        let is_fleeting = self.is_fleeting;
        Box::pin(async move {
            Ok(match request.uri().path() {
                CREATE => {
                    let response = grpc.unary(Create(shop), request).await;
                    if is_fleeting {
                        fleeting::add(response)
                    } else {
                        response
                    }
                }
                PRICES => {
                    let prices = tower::service_fn(|request: Request<Order>| {
                        shop.0.runs.fetch_add(1, Ordering::SeqCst);
                        async move {
                            let endless = request.get_ref().wish == "endless";
                            let last = if endless { u64::MAX } else { 3 };
                            let prices = stream::iter(1..=last).then(|amount| async move {
                                tokio::task::yield_now().await;
                                Ok(Receipt {
                                    amount,
                                    padding: vec![0; 1 << 10],
                                    ..Receipt::default()
                                })
                            });
                            Ok::<_, Status>(Response::new(prices.boxed() as Receipts))
                        }
                    });
                    grpc.server_streaming(prices, request).await
                }
                HAGGLE => {
                    let haggle =
                        tower::service_fn(|request: Request<Streaming<Order>>| async move {
                            let offers = request.into_inner().map(|offer| {
                                offer.map(|offer| Receipt {
                                    amount: offer.amount + 1,
                                    ..Receipt::default()
                                })
                            });
                            Ok::<_, Status>(Response::new(offers.boxed() as Receipts))
                        });
                    grpc.streaming(haggle, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Serves it with one `.layer(...)` on a tonic server, until the runtime of the test ends.
pub(super) async fn serve<St: Store>(charges: Charges, layer: IdempotencyLayer<St>) -> SocketAddr {
    let (incoming, address) = listen().await;
    let server = Server::builder()
        .layer(charges.shop.counting())
        .layer(layer)
        .add_service(charges)
        .serve_with_incoming(incoming);
    tokio::spawn(async { server.await.unwrap() });
    address
}

pub(super) async fn listen() -> (TcpIncoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (TcpIncoming::from(listener), address)
}
