//! The gateway example, between two of nginx.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use gateway::{
    app,
    config::Config,
    server::{self, Patience},
};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    nginx::{Nginx, statuses},
    program::Program,
    provider::Provider,
    upstream::{Upstream, nobody},
};

/// A gateway that runs as long as the value is there.
struct Gateway {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Gateway {
    async fn to(upstreams: &[&Nginx], arguments: &[&str]) -> Self {
        let upstreams: Vec<_> = upstreams.iter().map(|nginx| nginx.url("")).collect();
        let route = format!("/={}", upstreams.join(","));
        let config =
            Config::try_parse_from([&["gateway", "--route", &route], arguments].concat()).unwrap();
        let app = app(&config).unwrap();
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = move |client, request| app.proxy.clone().answer(client, request);
        let patience = Patience::of(&config.limits);
        tokio::spawn(server::serve(listener, answer, patience, stop.clone()));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }
}

/// A client that tries nothing again.
fn plain() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}

async fn charge(url: &str, key: Option<&str>) -> reqwest::Response {
    let mut request = plain()
        .post(url)
        .json(&json!({"amount": 700, "currency": "usd"}));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_charge_by_way_of_nginx_the_gateway_and_nginx_again_is_made_once_by_a_provider_that_fails()
 {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let provider = Provider::new(program.provider_url());
    let address = program.provider_url().strip_prefix("http://").unwrap();
    let back = Nginx::before(address.parse().unwrap()).await;
    let gateway = Gateway::to(&[&back], &["--trust-idempotency-key", "/"]).await;
    let front = Nginx::before(gateway.address).await;
    let url = front.url("/charges");

    provider.faults(&json!({"mode": "down", "count": 2})).await;
    let healed = charge(&url, Some("k")).await;
    assert_eq!(healed.status(), 201);
    let made: Value = healed.json().await.unwrap();
    let faults = json!({"mode": "lose_response", "count": 1});
    provider.faults(&faults).await;
    let found = charge(&url, Some("k")).await;
    let found: Value = found.json().await.unwrap();
    assert_eq!(found["id"], made["id"]);
    provider.faults(&json!({"mode": "down", "count": 1})).await;
    let refused = charge(&url, None).await;
    assert_eq!(refused.status(), 503);

    assert_eq!(statuses(&front.seen(3).await), [201, 201, 503]);
    let attempts = [503, 503, 201, 502, 201, 503];
    assert_eq!(statuses(&back.seen(6).await), attempts);
    let ledger = provider.ledger().await;
    assert_eq!((ledger.charges.len(), ledger.calls), (1, 6));

    program.kill();
    for _ in 0..4 {
        assert_eq!(charge(&url, None).await.status(), 502);
    }
    let open = charge(&url, Some("k")).await;
    assert_eq!(open.status(), 503);
    assert!(open.headers().contains_key("retry-after"));
    let problem: Value = open.json().await.unwrap();
    assert_eq!(problem["code"], "circuit-open");
    let attempts = [&attempts[..], &[502; 4]].concat();
    assert_eq!(statuses(&back.seen(6 + 4).await), attempts);
}

#[tokio::test]
async fn an_nginx_whose_upstream_is_down_is_left_alone_for_one_that_is_well() {
    let (upstream, address) = Upstream::play(&[]).await;
    let port = nobody();
    let (well, sick) = tokio::join!(
        Nginx::before(address),
        Nginx::before(port.local_addr().unwrap())
    );
    let gateway = Gateway::to(&[&sick, &well], &[]).await;
    let url = format!("http://{}/page", gateway.address);

    let client = plain();
    for _ in 0..30 {
        let page = client.get(&url).send().await.unwrap();
        assert_eq!(page.status(), 200);
    }

    assert_eq!(upstream.got().len(), 30);
    assert_eq!(statuses(&well.seen(30).await), [200; 30]);
    // After five failures in a row nobody asks it.
    assert_eq!(statuses(&sick.seen(5).await), [502; 5]);
}
