//! Around a layer that keeps keys, and within it (idempotency I10; circuit-breaker B7).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, routing::post};
use futures_util::{future::join_all, poll};
use http::StatusCode;
use steadfast::{
    circuit_breaker::{BreakerConfig, State},
    idempotency::{IdempotencyConfig, Promise},
    store::MemoryStore,
};
use tokio::sync::Notify;
use tower::ServiceExt;

use super::{
    assert_rejected_over_the_wire, breaker, brief, configured, counted, http, servers::Till, trip,
    until_probed,
};
use crate::support::{
    Answer, Bank, Connection, PROMISES, Protocol, charge, layer, memory, serve, within,
};

async fn ask(address: SocketAddr, key: &str, order: &'static str) -> Answer {
    let mut client = Connection::open(Protocol::Http1, address).await;
    within(client.send(charge("/charges", key, order)))
        .await
        .unwrap()
}

#[tokio::test]
async fn outside_of_keys_a_rejection_leaves_no_trace_of_the_operation() {
    for promise in PROMISES {
        let (till, breaker) = (Till::new(500), breaker());
        let app = Router::new()
            .route("/charges", till.route())
            .layer(memory(promise))
            .layer(http(&breaker));
        let address = serve(app).await;
        for key in ["a", "b", "c", "d", "e"] {
            assert_eq!(ask(address, key, "amount=5").await.status, 500);
        }

        let rejection = ask(address, "k", "amount=5").await;
        assert_rejected_over_the_wire(&rejection);
        assert_eq!(rejection.marker(), None);
        assert_eq!(till.runs(), 5);
        till.answers(201);
        breaker.reset();

        let first = ask(address, "k", "amount=5").await;
        assert_eq!(
            (first.status, first.marker()),
            (StatusCode::CREATED, Some("false"))
        );
        let replay = ask(address, "k", "amount=5").await;
        assert_eq!(
            (replay.status, replay.marker()),
            (StatusCode::CREATED, Some("true"))
        );
        assert_eq!(till.runs(), 6);
        // The price: replays are refused too.
        trip(&breaker);
        assert_rejected_over_the_wire(&ask(address, "k", "amount=5").await);
    }
}

#[tokio::test]
async fn outside_of_keys_each_duplicate_that_joined_a_failure_counts() {
    let (breaker, door, runs) = (
        breaker(),
        Arc::new(Notify::new()),
        Arc::new(AtomicUsize::new(0)),
    );
    let handler = {
        let (door, runs) = (Arc::clone(&door), Arc::clone(&runs));
        async move || {
            runs.fetch_add(1, Ordering::SeqCst);
            door.notified().await;
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let app = Router::new()
        .route("/charges", post(handler))
        .layer(memory(Promise::AtLeastOnce))
        .layer(http(&breaker));

    let mut calls = Vec::new();
    for _ in 0..5 {
        let request = charge("/charges", "k", "amount=5").map(Body::new);
        let mut call = Box::pin(app.clone().oneshot(request));
        assert!(poll!(&mut call).is_pending(), "it runs, or has joined");
        calls.push(call);
    }
    door.notify_one();
    for response in within(join_all(calls)).await {
        assert_eq!(response.unwrap().status(), 500);
    }

    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn outside_of_keys_replays_close_it_as_probes_while_the_handler_is_down() {
    let (till, breaker) = (Till::new(201), configured(brief()));
    let app = Router::new()
        .route("/charges", till.route())
        .layer(memory(Promise::AtLeastOnce))
        .layer(http(&breaker));
    let address = serve(app).await;
    assert_eq!(ask(address, "kept", "amount=5").await.status, 201);
    till.answers(500);
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(ask(address, key, "amount=5").await.status, 500);
    }

    until_probed(&breaker).await;
    for _ in 0..BreakerConfig::DEFAULT_PROBE_SUCCESSES {
        assert_eq!(
            ask(address, "kept", "amount=5").await.marker(),
            Some("true")
        );
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(till.runs(), 6);
}

#[tokio::test]
async fn what_the_layer_of_keys_refuses_is_no_failure_of_the_handler() {
    let (bank, breaker) = (Bank::new(), breaker());
    let app = Router::new()
        .route("/charges", bank.route())
        .layer(memory(Promise::AtMostOnce))
        .layer(http(&breaker));
    let address = serve(app).await;
    assert_eq!(ask(address, "k", "amount=5").await.status, 201);
    assert_eq!(counted(&breaker), (1, 0));

    for _ in 0..6 {
        // Malformed, reused, and none.
        assert_eq!(ask(address, "", "amount=5").await.status, 400);
        assert_eq!(ask(address, "k", "amount=6").await.status, 422);
        let mut client = Connection::open(Protocol::Http2, address).await;
        let without = super::post("/charges", "amount=5");
        assert_eq!(within(client.send(without)).await.unwrap().status, 400);
    }

    assert_eq!(counted(&breaker), (1, 0));
    assert_eq!(ask(address, "k", "amount=5").await.marker(), Some("true"));
    assert_eq!(counted(&breaker), (2, 0));
}

#[tokio::test]
async fn a_service_that_holds_as_much_as_it_may_does_not_open_it() {
    let (bank, breaker) = (Bank::with_its_door_shut(), breaker());
    let config = IdempotencyConfig::default().with_max_running(1);
    let app = Router::new()
        .route("/charges", bank.route())
        .layer(layer(Promise::AtMostOnce, MemoryStore::default(), config))
        .layer(http(&breaker));
    let address = serve(app).await;
    let first = tokio::spawn(ask(address, "first", "amount=5"));
    bank.until_started(1).await;

    for key in ["a", "b", "c", "d", "e", "f"] {
        let refused = ask(address, key, "amount=5").await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.code().as_deref(), Some("overloaded"));
    }
    bank.open();
    assert_eq!(within(first).await.unwrap().status, 201);

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(counted(&breaker), (1, 0));
}

/// Why the breaker stands outside: within, its answer is one of the handler.
#[tokio::test]
async fn within_keys_a_rejection_leaves_the_outcome_unknown() {
    for promise in PROMISES {
        let (till, breaker) = (Till::new(201), breaker());
        let app = Router::new()
            .route("/charges", till.route())
            .layer(http(&breaker))
            .layer(memory(promise));
        let address = serve(app).await;
        trip(&breaker);

        assert_rejected_over_the_wire(&ask(address, "k", "amount=5").await);
        assert_eq!(till.runs(), 0);
        breaker.reset();

        let again = ask(address, "k", "amount=5").await;
        if promise == Promise::AtMostOnce {
            assert_eq!(again.code().as_deref(), Some("outcome-unknown"));
            assert_eq!(till.runs(), 0);
        } else {
            assert_eq!(again.status, StatusCode::CREATED);
            assert_eq!(till.runs(), 1);
        }
    }
}
