//! A client leaves a connection that carries nothing.

use std::{future::pending, net::SocketAddr, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orders::{
    client::Limits,
    commands,
    config::{ClientConfig, OrderConfig},
    methods::PLACE_ORDER,
    proto::WatchOrderRequest,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tonic::{Code, transport::Endpoint};

use crate::server::{LIMIT, Running, clients, deps, keyed, limits, tea, within};

/// A network before the server whose first connection carries nothing, and is never closed.
async fn swallowing_the_first(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _first = listener.accept().await.unwrap();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                // It fails when either side leaves.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_carries_nothing_is_left_within_the_call() {
    let server = Running::start(deps().await).await;
    let network = swallowing_the_first(server.address).await;

    let placed = within(clients(network, &limits()).unary.place_order(tea())).await;

    placed.unwrap();
    assert_eq!(server.heads.of(PLACE_ORDER).len(), 1);
}

#[tokio::test]
async fn a_watch_begins_on_the_next_connection_when_the_first_carries_nothing() {
    let server = Running::start(deps().await).await;
    let placed = within(server.plain().place_order(keyed("k", tea()))).await;
    let id = placed.unwrap().into_inner().id;
    let network = swallowing_the_first(server.address).await;
    let mut client = clients(network, &limits()).streams;

    let begun = within(client.watch_order(WatchOrderRequest { id: id.clone() })).await;

    let first = within(begun.unwrap().into_inner().message()).await.unwrap();
    assert_eq!(first.unwrap().id, id);
}

#[tokio::test]
async fn a_server_that_cannot_be_connected_is_not_waited_for() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts: once the queue is full, the system drops what comes.
    let mut queue = Vec::new();
    while let Ok(queued) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(queued.unwrap());
    }
    // The attempt alone would wait until the call is over.
    let limits = Limits {
        attempt_timeout: LIMIT / 2,
        deadline: LIMIT / 2,
        attempts: 1,
        ..limits()
    };

    let refused = within(clients(address, &limits).unary.place_order(tea())).await;

    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watch_that_does_not_begin_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It answers pings, and no call.
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let silent = hyper::service::service_fn(|_| {
            pending::<Result<http::Response<String>, std::convert::Infallible>>()
        });
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), silent)
            .await
    });

    let watched = within(commands::watch(OrderConfig {
        id: "or_0".to_owned(),
        client: ClientConfig {
            server: Endpoint::from_shared(format!("http://{address}")).unwrap(),
            api_key: "sk_test".to_owned(),
            deadline: Duration::from_millis(300),
            attempt_timeout: Duration::from_millis(300),
            attempts: 1,
        },
    }))
    .await;

    let failure = watched.unwrap_err().to_string();
    assert!(failure.contains("did not begin within 300ms"), "{failure}");
}
