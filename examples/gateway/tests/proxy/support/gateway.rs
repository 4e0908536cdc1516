use std::{future::ready, net::SocketAddr, time::Duration};

use clap::Parser;
use gateway::{
    app,
    config::Config,
    server::{self, Patience},
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Answer, Connection, Protocol, empty};

/// A gateway that runs as long as the value is there.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    _stop: DropGuard,
}

impl Gateway {
    /// One with these routes, and the numbers that users get.
    pub(crate) async fn start(routes: &[&str]) -> Self {
        Self::with(routes, &[]).await
    }

    pub(crate) async fn with(routes: &[&str], arguments: &[&str]) -> Self {
        let routes = routes.iter().flat_map(|route| ["--route", route]);
        let arguments = arguments.iter().copied();
        let all = ["gateway"].into_iter().chain(routes).chain(arguments);
        let config = Config::try_parse_from(all).unwrap();
        let app = app(&config).unwrap();
        let stop = CancellationToken::new();
        let patience = Patience::of(&config.limits);

        let (listener, address) = bind().await;
        let proxy = move |client, request| app.proxy.clone().answer(client, request);
        tokio::spawn(server::serve(listener, proxy, patience, stop.clone()));
        let (listener, admin) = bind().await;
        let answer = move |_, request| ready(app.admin.answer(&request));
        tokio::spawn(server::serve(
            listener,
            answer,
            Patience {
                idle: Duration::from_secs(60),
                ..patience
            },
            stop.clone(),
        ));
        Self {
            address,
            admin,
            _stop: stop.drop_guard(),
        }
    }

    /// What a GET of this path answers, over HTTP/1.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let mut connection = Connection::open(Protocol::Http1, self.address).await;
        connection.send(empty("GET", path)).await.unwrap()
    }

    /// What the health check says of this upstream.
    pub(crate) async fn breaker(&self, upstream: &str) -> Value {
        let mut connection = Connection::open(Protocol::Http1, self.admin).await;
        let answer = connection.send(empty("GET", "/healthz")).await.unwrap();
        answer.json()["breakers"][upstream].clone()
    }
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
