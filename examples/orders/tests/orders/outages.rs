//! A server that is not there is left alone, and found again.

use std::time::Duration;

use orders::{client::Limits, methods::PLACE_ORDER, proto::WatchOrderRequest};
use steadfast::circuit_breaker::{BreakerConfig, State};
use tonic::{Code, Status};

use crate::server::{Reserved, Running, clients, deps, eventually, limits, tea, within};

/// What is left of the open time: only a rejection of the breaker says so here.
#[track_caller]
fn assert_rejected(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains("CIRCUIT_OPEN"), "{status:?}");
}

#[tokio::test]
async fn a_server_that_is_down_opens_the_circuit_and_closes_it_when_it_is_back() {
    let port = Reserved::port();
    let limits = Limits {
        breaker: BreakerConfig::default()
            .with_consecutive_failures(3)
            .with_open_for(Duration::from_secs(3))
            .with_probes(1, 1),
        ..limits()
    };
    let clients = clients(port.address(), &limits);
    let mut client = clients.unary.clone();

    // Three attempts, each of them refused.
    let down = within(client.place_order(tea())).await.unwrap_err();
    assert_eq!(down.code(), Code::Unavailable);
    assert_eq!(clients.breaker.state(), State::Open);

    // It is back, and nobody asks yet.
    let server = Running::start_on(port.listen(), deps().await);
    assert_rejected(&within(client.place_order(tea())).await.unwrap_err());
    let watch = WatchOrderRequest::default();
    let watched = within(clients.streams.clone().watch_order(watch)).await;
    assert_rejected(&watched.unwrap_err());
    assert!(server.heads.of(PLACE_ORDER).is_empty());

    eventually(async || client.place_order(tea()).await.ok()).await;
    assert_eq!(clients.breaker.state(), State::Closed);
}
