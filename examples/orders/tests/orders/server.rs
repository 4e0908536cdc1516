//! The service on a socket, and those who call it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use orders::{
    Deps,
    client::{Clients, Credentials, Limits},
    config::StoreUrl,
    database::Database,
    faults::FaultLayer,
    proto::{ListOrdersRequest, Order, PlaceOrderRequest, orders_client::OrdersClient},
};
use steadfast::circuit_breaker::BreakerConfig;
use tokio::{
    net::{TcpListener, TcpSocket},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tower::{Service, ServiceBuilder};

/// Generous, because a machine that also compiles is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(call: impl Future<Output = T>) -> T {
    timeout(LIMIT, call).await.unwrap()
}

/// Waits until the condition gives a value.
pub(crate) async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "it did not happen");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A service in memory, without work and without faults.
pub(crate) async fn deps() -> Deps {
    let database = Database::open(&StoreUrl::Memory).await.unwrap();
    Deps {
        store: database.store,
        orders: database.orders,
        lease: Duration::from_secs(60),
        work_time: Duration::ZERO,
        faults: FaultLayer::default(),
        stopping: CancellationToken::new(),
    }
}

/// The heads of the calls that came, in order.
#[derive(Clone, Default)]
pub(crate) struct Heads(Arc<Mutex<Vec<Parts>>>);

impl Heads {
    /// Those of one method.
    pub(crate) fn of(&self, method: &str) -> Vec<Parts> {
        let heads = self.0.lock().unwrap();
        let of_method = heads.iter().filter(|head| head.uri.path() == method);
        of_method.cloned().collect()
    }
}

/// The service, in front of which all calls are recorded.
pub(crate) fn recorded(
    deps: Deps,
    heads: &Heads,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    let heads = heads.clone();
    ServiceBuilder::new()
        .map_request(move |request: Request<Body>| {
            let (head, body) = request.into_parts();
            heads.0.lock().unwrap().push(head.clone());
            Request::from_parts(head, body)
        })
        .service(orders::app(deps).unwrap().service)
}

/// A server that runs until the test ends, or is stopped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) heads: Heads,
    stopping: CancellationToken,
}

impl Running {
    pub(crate) async fn start(deps: Deps) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), deps)
    }

    pub(crate) fn start_on(listener: TcpListener, deps: Deps) -> Self {
        let (address, heads) = (listener.local_addr().unwrap(), Heads::default());
        let stopping = deps.stopping.clone();
        let serving = Server::builder().serve_with_incoming_shutdown(
            recorded(deps, &heads),
            TcpIncoming::from(listener),
            stopping.clone().cancelled_owned(),
        );
        tokio::spawn(async { serving.await.unwrap() });
        Self {
            address,
            heads,
            stopping,
        }
    }

    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// The clients of the example.
    pub(crate) fn clients(&self) -> Clients {
        clients(self.address, &limits())
    }

    /// A generated client over a bare channel.
    pub(crate) fn plain(&self) -> Plain {
        plain(self.address, "sk_test")
    }
}

pub(crate) type Plain = OrdersClient<InterceptedService<Channel, Credentials>>;

pub(crate) fn plain(address: SocketAddr, api_key: &str) -> Plain {
    let channel = endpoint(address).connect_lazy();
    OrdersClient::with_interceptor(channel, Credentials::of_key(api_key).unwrap())
}

pub(crate) fn clients(address: SocketAddr, limits: &Limits) -> Clients {
    Clients::new(&endpoint(address), "sk_test", limits).unwrap()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

pub(crate) fn limits() -> Limits {
    Limits {
        deadline: LIMIT,
        attempt_timeout: LIMIT / 3,
        attempts: 3,
        breaker: BreakerConfig::default(),
    }
}

/// A port that is this test's, and refuses connections until somebody listens.
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    pub(crate) fn port() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(64).unwrap()
    }
}

pub(crate) fn tea() -> PlaceOrderRequest {
    PlaceOrderRequest {
        sku: "tea".to_owned(),
        quantity: 2,
    }
}

pub(crate) fn keyed<T>(key: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", key.parse().unwrap());
    request
}

/// Whether the answer says that it was given before; `None` if it has no marker.
pub(crate) fn replayed<T>(answer: &tonic::Response<T>) -> Option<&str> {
    let marker = answer.metadata().get("idempotent-replayed")?;
    Some(marker.to_str().unwrap())
}

/// All orders of the account.
pub(crate) async fn list(client: &mut Plain) -> Vec<Order> {
    let answer = within(client.list_orders(ListOrdersRequest {})).await;
    answer.unwrap().into_inner().orders
}
