//! Keys, retries and a server that keeps keys, together: an operation has its effect once, whatever is lost on the way.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Path, routing::post};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use steadfast::{
    core::verdict::Verdict,
    idempotency::{IdempotencyConfig, Promise},
    retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer},
    store::MemoryStore,
};
use tokio::sync::Notify;
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::{
    answer, attempts, config,
    echo::{Echo, EchoClient, SAY, Step, channel, saying},
    http, hyper_client,
    script::Reserved,
};
use crate::support::{Bank, Protocol, eventually, layer, memory, serve, within};

fn charge(address: SocketAddr, order: &str) -> Request<Full<Bytes>> {
    super::post(&format!("http://{address}/charges"), order.to_owned())
}

fn keyed(address: SocketAddr, key: &str, order: &str) -> Request<Full<Bytes>> {
    let mut request = charge(address, order);
    let headers = request.headers_mut();
    headers.insert("idempotency-key", key.parse().unwrap());
    request
}

/// What every replay must repeat: all but what belongs to the moment and the first caller.
fn lasting(response: &Response<Bytes>) -> (StatusCode, HeaderMap, Bytes) {
    let mut headers = response.headers().clone();
    for name in ["date", "set-cookie", "idempotent-replayed"] {
        headers.remove(name);
    }
    (response.status(), headers, response.body().clone())
}

#[tokio::test]
async fn two_callers_with_one_key_get_one_answer_of_one_run() {
    for protocol in Protocol::ALL {
        let bank = Bank::with_its_door_shut();
        // The second caller is told to come back, instead of waiting at the server.
        let no_wait = IdempotencyConfig::default().with_wait(Duration::ZERO);
        let keeps = layer(Promise::AtMostOnce, MemoryStore::default(), no_wait);
        let app = Router::new().route("/charges", bank.route()).layer(keeps);
        let address = serve(app).await;
        let bank_of_first = bank.clone();
        let conflicts = Arc::new(Mutex::new(0));
        let count = Arc::clone(&conflicts);
        let retry = http().with_classifier(move |attempted| {
            if let Some(head) = attempted.response()
                && head.status() == StatusCode::CONFLICT
            {
                *count.lock().unwrap() += 1;
                bank_of_first.open();
            }
            attempted.verdict()
        });
        let client = ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(retry)
            .service(hyper_client(protocol));

        let first = answer(&client, keyed(address, "k", "amount=5"));
        let second = async {
            bank.until_started(1).await;
            answer(&client, keyed(address, "k", "amount=5")).await
        };
        let (first, second) = tokio::join!(first, second);

        assert_eq!(first.status(), StatusCode::CREATED);
        assert_eq!(first.headers()["idempotent-replayed"], "false");
        assert_eq!(second.headers()["idempotent-replayed"], "true");
        assert_eq!(lasting(&first), lasting(&second));
        assert!(*conflicts.lock().unwrap() >= 1);
        assert!(attempts(&second) >= 2);
        assert_eq!((bank.started(), bank.finished()), (1, 1));
    }
}

#[tokio::test]
async fn two_callers_of_grpc_with_one_key_get_one_answer_of_one_run() {
    let door = Arc::new(Notify::new());
    let echo = Echo::new([Step::EchoLater(Arc::clone(&door))]);
    let no_wait = IdempotencyConfig::default()
        .with_grpc_methods([SAY])
        .with_wait(Duration::ZERO);
    let keeps = layer(Promise::AtMostOnce, MemoryStore::default(), no_wait);
    let address = echo.clone().serve_behind(keeps).await;
    let retry = RetryLayer::grpc().with_config(config()).unwrap();
    let retry = retry.with_classifier(move |attempted| {
        // The second caller was told that the operation is in progress.
        if attempted.verdict() != Verdict::Success {
            door.notify_one();
        }
        attempted.verdict()
    });
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(retry)
        .service(channel(address));
    let (mut first, mut second) = (EchoClient::new(stack.clone()), EchoClient::new(stack));
    let request = || {
        let mut request = tonic::Request::new(saying("hello"));
        let metadata = request.metadata_mut();
        metadata.insert("idempotency-key", "k".parse().unwrap());
        request
    };

    let first = first.say(request());
    let second = async {
        eventually("the handler starts", || echo.calls() == 1).await;
        second.say(request()).await
    };
    let (first, second) = within(async { tokio::join!(first, second) }).await;

    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(
        first.metadata().get("idempotent-replayed").unwrap(),
        "false"
    );
    assert_eq!(
        second.metadata().get("idempotent-replayed").unwrap(),
        "true"
    );
    assert_eq!(first.into_inner(), second.into_inner());
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn an_attempt_that_was_cut_and_the_one_after_it_are_one_operation() {
    for protocol in Protocol::ALL {
        let bank = Bank::with_its_door_shut();
        let app = Router::new()
            .route("/charges", bank.route())
            .layer(memory(Promise::AtMostOnce));
        let address = serve(bank.watch(app)).await;
        let config = config()
            .with_max_attempts(20)
            .with_attempt_timeout(Duration::from_millis(300));
        let client = ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(RetryLayer::http().with_config(config).unwrap())
            .service(hyper_client(protocol));

        let call = answer(&client, charge(address, "amount=5"));
        let opening = async {
            eventually("a second attempt comes", || bank.callers() >= 2).await;
            bank.open();
        };
        let (response, ()) = tokio::join!(call, opening);

        assert_eq!(response.status(), StatusCode::CREATED, "{response:?}");
        assert_eq!(response.body(), "amount=5 run=1 execution=1");
        assert_eq!(response.headers()["idempotent-replayed"], "true");
        assert!(attempts(&response) >= 2);
        assert_eq!((bank.started(), bank.finished()), (1, 1));
    }
}

/// Which answers are lost on the way back: of every third order the first one, of every ninth the second one too.
fn is_lost(order: usize, answers: usize) -> bool {
    order.is_multiple_of(3) && answers == 0 || order.is_multiple_of(9) && answers == 1
}

/// An app that keeps keys, behind a wire that loses answers once the handler has run: HTTP/1 loses the connection with them, HTTP/2
/// the stream.
async fn lossy(effects: Arc<Mutex<HashMap<usize, usize>>>) -> SocketAddr {
    let handler = async move |Path(order): Path<usize>, body: Bytes| {
        *effects.lock().unwrap().entry(order).or_default() += 1;
        (StatusCode::CREATED, body)
    };
    let app = Router::new()
        .route("/charges/{order}", post(handler))
        .layer(memory(Promise::AtMostOnce));
    let listener = Reserved::port().listen();
    let address = listener.local_addr().unwrap();
    let answered: Arc<Mutex<HashMap<usize, usize>>> = Arc::default();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (app, answered) = (app.clone(), Arc::clone(&answered));
            let service = service_fn(move |request: Request<Incoming>| {
                let (app, answered) = (app.clone(), Arc::clone(&answered));
                let order = request.uri().path().rsplit('/').next();
                let order: usize = order.unwrap().parse().unwrap();
                async move {
                    let answer = app.oneshot(request).await.unwrap();
                    let mut answered = answered.lock().unwrap();
                    let answers = answered.entry(order).or_default();
                    let lost = is_lost(order, *answers);
                    *answers += 1;
                    if lost {
                        Err(io::Error::other("lost"))
                    } else {
                        Ok(answer)
                    }
                }
            });
            tokio::spawn(async move {
                // How a connection ends is its client's to see.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_of_all_answers_may_be_lost_and_each_operation_happens_once() {
    const ORDERS: usize = 90;
    for protocol in Protocol::ALL {
        let effects = Arc::new(Mutex::new(HashMap::new()));
        let address = lossy(Arc::clone(&effects)).await;
        let config: RetryConfig = config().with_max_attempts(4);
        let client = ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(RetryLayer::http().with_config(config).unwrap())
            .service(hyper_client(protocol));

        let calls = (0..ORDERS).map(|order| {
            let client = client.clone();
            tokio::spawn(async move {
                let url = format!("http://{address}/charges/{order}");
                answer(&client, super::post(&url, format!("amount={order}"))).await
            })
        });
        for (order, response) in join_all(calls).await.into_iter().enumerate() {
            let response = response.unwrap();
            assert_eq!(response.status(), StatusCode::CREATED, "{response:?}");
            assert_eq!(response.body(), format!("amount={order}").as_bytes());
            let was_lost = is_lost(order, 0);
            let expected = if was_lost { "true" } else { "false" };
            assert_eq!(response.headers()["idempotent-replayed"], expected);
        }
        let effects = effects.lock().unwrap();
        let once = (0..ORDERS).map(|order| (order, 1)).collect();
        assert_eq!(*effects, once);
    }
}

#[tokio::test]
async fn without_a_key_a_lost_answer_is_the_callers_to_judge() {
    let effects = Arc::new(Mutex::new(HashMap::new()));
    let address = lossy(Arc::clone(&effects)).await;
    let client = http().layer(hyper_client(Protocol::Http1));
    // The server wants a key; the layer was not told that it honours them.
    let mut request = keyed(address, "k", "amount=5");
    *request.uri_mut() = format!("http://{address}/charges/0").parse().unwrap();

    let lost = within(client.oneshot(request)).await.unwrap_err();

    assert!(!lost.is_connect());
    assert_eq!(effects.lock().unwrap()[&0], 1);
}
