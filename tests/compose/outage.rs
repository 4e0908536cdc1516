//! A database that is stopped and killed under load. Afterwards a checker reads every client's history.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use steadfast::{
    idempotency::{IdempotencyConfig, Promise},
    store_postgres::PostgresStore,
};
use steadfast_testkit::postgres::Server;

use crate::support::{Answer, Bank, Connection, Protocol, charge, eventually, layer, serve};

const CLIENTS: usize = 12;

/// Everything that one client was answered for one operation, in order.
struct History {
    order: String,
    answers: Vec<Answer>,
}

#[derive(Default)]
struct Load {
    ends: AtomicBool,
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
}

impl Load {
    async fn until_acknowledged(&self, more: usize) {
        let now = self.acknowledged.load(Ordering::SeqCst);
        eventually("operations are acknowledged", || {
            self.acknowledged.load(Ordering::SeqCst) >= now + more
        })
        .await;
    }

    async fn until_refused(&self, more: usize) {
        let now = self.refused.load(Ordering::SeqCst);
        eventually("operations are refused", || {
            self.refused.load(Ordering::SeqCst) >= now + more
        })
        .await;
    }

    /// Pays one order after the other, each until it is acknowledged.
    async fn run(&self, address: SocketAddr, client: usize) -> Vec<History> {
        let mut histories = Vec::new();
        let mut connection = Connection::open(Protocol::Http1, address).await;
        for n in 0.. {
            if self.ends.load(Ordering::SeqCst) {
                break;
            }
            let order = format!("order-{client}-{n}");
            let mut answers = Vec::new();
            loop {
                let request = charge("/charges", &order, order.clone());
                let answer = connection.send(request).await.unwrap();
                let done = is_acknowledged(&answer);
                answers.push(answer);
                if done {
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                self.refused.fetch_add(1, Ordering::SeqCst);
                assert!(answers.len() < 500, "{order} never ends: {answers:?}");
                // A client that waits a little before it asks again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            histories.push(History { order, answers });
        }
        histories
    }
}

fn is_acknowledged(answer: &Answer) -> bool {
    answer.status == StatusCode::CREATED && !answer.is_unstored()
}

async fn histories_hold(promise: Promise) {
    let server = Server::start().await.unwrap();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let bank = Bank::with_work(Duration::from_millis(30));
    let layer = layer(promise, store, IdempotencyConfig::default());
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer);
    let address = serve(router).await;

    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let load = Arc::clone(&load);
            tokio::spawn(async move { load.run(address, client).await })
        })
        .collect();
    load.until_acknowledged(50).await;
    server.stop().await.unwrap();
    load.until_refused(CLIENTS + CLIENTS / 2).await;
    server.restart().await.unwrap();
    load.until_acknowledged(50).await;
    server.kill().await.unwrap();
    load.until_refused(CLIENTS + CLIENTS / 2).await;
    server.restart().await.unwrap();
    load.until_acknowledged(50).await;
    load.ends.store(true, Ordering::SeqCst);
    let histories: Vec<_> = join_all(clients)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();

    let starts = bank.starts();
    let mut connection = Connection::open(Protocol::Http2, address).await;
    for history in &histories {
        let request = charge("/charges", &history.order, history.order.clone());
        let replay = connection.send(request).await.unwrap();
        check(promise, history, &replay, &starts);
    }
    assert_eq!(bank.cut(), 0);
}

/// What the promise says of one operation.
fn check(promise: Promise, history: &History, replay: &Answer, starts: &HashMap<Bytes, usize>) {
    let History { order, answers } = history;
    assert_eq!(replay.marker(), Some("true"), "{order}: {replay:?}");

    let starts = starts[order.as_bytes()];
    let at_most_once = promise == Promise::AtMostOnce;
    assert!(starts >= 1, "{order} was answered and not run");
    assert!(
        starts == 1 || !at_most_once,
        "{order} was started {starts} times"
    );

    for (nth, answer) in answers.iter().enumerate() {
        if answer.status == StatusCode::CREATED {
            // Under at most once there is one run, so that even an answer that was not kept in time is the one.
            if is_acknowledged(answer) || at_most_once {
                assert_eq!(answer.body, replay.body, "{order} changed its answer");
            }
            continue;
        }
        let code = answer.code();
        let code = code.as_deref().unwrap_or("no problem");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        match answer.status {
            StatusCode::SERVICE_UNAVAILABLE => assert_eq!(code, "store-unavailable"),
            // An earlier claim of the same client, whose acknowledgement was lost.
            StatusCode::CONFLICT => {
                assert_eq!(code, "in-progress", "{order}: {answer:?}");
                assert!(nth > 0, "{order} was claimed by nobody else");
            }
            _ => panic!("{order}: {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_once_keeps_its_promise_through_stops_and_crashes_of_the_database() {
    histories_hold(Promise::AtMostOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_keeps_its_promise_through_stops_and_crashes_of_the_database() {
    histories_hold(Promise::AtLeastOnce).await;
}
