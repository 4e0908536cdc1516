//! Around a layer that keeps keys, and within it (idempotency I10; circuit-breaker B7).

use std::net::SocketAddr;

use axum::Router;
use http::StatusCode;
use steadfast::{
    circuit_breaker::State,
    idempotency::{IdempotencyConfig, Promise},
    store::MemoryStore,
};

use super::{assert_rejected_over_the_wire, breaker, counted, http, servers::Till, trip};
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
