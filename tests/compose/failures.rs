//! Handlers that are cut or panic, with tower-http around and within.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use http::StatusCode;
use steadfast::idempotency::Promise;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::support::{
    Answer, Bank, Connection, PROMISES, Protocol, charge, memory, serve, until_done,
};

async fn send(address: SocketAddr, protocol: Protocol) -> Result<Answer, hyper::Error> {
    let mut client = Connection::open(protocol, address).await;
    client.send(charge("/charges", "k", "amount=5")).await
}

/// What a retry gets after a run whose outcome nobody knows: the choice that the promise made.
async fn assert_unknown(promise: Promise, address: SocketAddr, bank: &Bank) {
    for protocol in Protocol::ALL {
        let retry = send(address, protocol).await.unwrap();
        match promise {
            Promise::AtMostOnce => {
                assert_eq!(retry.status, StatusCode::CONFLICT);
                assert_eq!(retry.code().as_deref(), Some("outcome-unknown"));
                assert!(retry.text().contains(r#""retryable":false"#), "{retry:?}");
                assert_eq!(bank.started(), 1);
            }
            Promise::AtLeastOnce | _ => {
                assert_eq!(retry.status, StatusCode::CREATED);
                assert_eq!(retry.text(), "amount=5 run=2 execution=2");
                let replayed = protocol == Protocol::Http2;
                assert_eq!(
                    retry.marker(),
                    Some(if replayed { "true" } else { "false" })
                );
                assert_eq!(bank.started(), 2);
            }
        }
    }
}

#[tokio::test]
async fn a_timeout_within_cuts_the_handler_and_its_outcome_is_unknown() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::GATEWAY_TIMEOUT] {
        for promise in PROMISES {
            let bank = Bank::with_its_door_shut();
            let limit = TimeoutLayer::with_status_code(status, Duration::from_millis(500));
            let router = Router::new()
                .route("/charges", bank.route())
                .route_layer(limit)
                .route_layer(memory(promise));
            let address = serve(router).await;

            let first = send(address, Protocol::Http1).await.unwrap();
            assert_eq!(first.status, status);
            assert_eq!(first.marker(), Some("false"));
            assert_eq!((bank.started(), bank.cut()), (1, 1));

            bank.open();
            assert_unknown(promise, address, &bank).await;
        }
    }
}

#[tokio::test]
async fn a_timeout_around_answers_its_client_and_the_handler_goes_on() {
    for protocol in Protocol::ALL {
        for promise in PROMISES {
            let bank = Bank::with_its_door_shut();
            let layer = memory(promise);
            let limit = TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_millis(500),
            );
            let router = Router::new()
                .route("/charges", bank.route())
                .route_layer(layer.clone())
                .route_layer(limit);
            let address = serve(router).await;

            let first = send(address, protocol).await.unwrap();
            assert_eq!(first.status, StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(first.marker(), None);
            assert_eq!((bank.started(), bank.cut()), (1, 0));

            bank.open();
            until_done(&layer.handle()).await;
            let retry = send(address, protocol).await.unwrap();
            assert_eq!(retry.marker(), Some("true"));
            assert_eq!(retry.text(), "amount=5 run=1 execution=1");
            assert_eq!(bank.started(), 1);
        }
    }
}

#[tokio::test]
async fn a_panic_reaches_the_guard_around_and_its_outcome_is_unknown() {
    for promise in PROMISES {
        let bank = Bank::with_panics(1);
        let router = Router::new()
            .route("/charges", bank.route())
            .route_layer(memory(promise))
            .route_layer(CatchPanicLayer::new());
        let address = serve(router).await;

        let first = send(address, Protocol::Http1).await.unwrap();
        assert_eq!(first.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(first.marker(), None);
        assert_eq!(bank.cut(), 1);

        assert_unknown(promise, address, &bank).await;
    }
}

#[tokio::test]
async fn a_panic_guard_within_answers_for_the_handler_and_its_outcome_is_unknown() {
    for promise in PROMISES {
        let bank = Bank::with_panics(1);
        let router = Router::new()
            .route("/charges", bank.route())
            .route_layer(CatchPanicLayer::new())
            .route_layer(memory(promise));
        let address = serve(router).await;

        let first = send(address, Protocol::Http2).await.unwrap();
        assert_eq!(first.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(first.marker(), Some("false"));

        assert_unknown(promise, address, &bank).await;
    }
}

#[tokio::test]
async fn a_panic_that_nobody_catches_ends_the_connection_and_not_the_server() {
    for protocol in Protocol::ALL {
        for promise in PROMISES {
            let bank = Bank::with_panics(1);
            let router = Router::new()
                .route("/charges", bank.route())
                .route_layer(memory(promise));
            let address = serve(router).await;

            assert!(send(address, protocol).await.is_err());

            assert_unknown(promise, address, &bank).await;
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_after_its_client_left_is_settled_too() {
    for promise in PROMISES {
        let bank = Bank::with_its_door_shut();
        let layer = memory(promise);
        let panicking = axum::routing::post({
            let bank = bank.clone();
            async move |request: axum::extract::Request| -> axum::response::Response {
                let first = bank.started() == 0;
                let answer = bank.charge(request).await.unwrap();
                assert!(!first, "deliberate");
                answer.map(axum::body::Body::new)
            }
        });
        let router = Router::new()
            .route("/charges", panicking)
            .route_layer(layer.clone());
        let address = serve(bank.watch(router)).await;

        let mut client = Connection::open(Protocol::Http2, address).await;
        tokio::select! {
            answer = client.send(charge("/charges", "k", "amount=5")) => panic!("{answer:?}"),
            () = bank.until_started(1) => {}
        }
        crate::support::eventually("the caller is gone", || bank.left() == 1).await;
        bank.open();
        until_done(&layer.handle()).await;

        assert_unknown(promise, address, &bank).await;
    }
}
