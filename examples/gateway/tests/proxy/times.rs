//! Nothing takes for ever.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, channel::Channel};
use steadfast::http::BoxError;
use tokio::time::Instant;

use crate::support::{
    Connection, Gateway, Protocol, Raw, Reply, Upstream, empty, eventually, says, text, within,
};

/// Counts itself out when it is dropped.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An upstream that never answers, and how many of its requests were given up.
async fn silent() -> (Upstream, Arc<AtomicUsize>) {
    let given_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given_up);
    let upstream = Upstream::serving(move |request| {
        let held = Held(Arc::clone(&count));
        async move {
            _ = request.into_body().collect().await;
            let reply: Reply = pending().await;
            drop(held);
            reply
        }
    });
    (upstream.await, given_up)
}

#[tokio::test]
async fn a_request_ends_with_its_deadline() {
    let (upstream, given_up) = silent().await;
    let limits = ["--deadline", "300ms", "--attempt-timeout", "300ms"];
    let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

    let begun = Instant::now();
    let answer = gateway.get("/").await;

    assert_eq!(answer.problem(), (504, "deadline-passed".to_owned()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    eventually("the upstream's request is given up", || {
        given_up.load(Ordering::SeqCst) == upstream.begun()
    })
    .await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_made_again_if_it_may_be() {
    let upstream = Upstream::serving({
        let number = AtomicUsize::new(0);
        move |_| {
            let number = number.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0 | 2 => pending().await,
                    _ => says(200, "answer"),
                }
            }
        }
    })
    .await;
    let gateway = Gateway::with(&[&upstream.at("/")], &["--attempt-timeout", "1s"]).await;

    assert_eq!(gateway.get("/").await.text(), "answer");
    assert_eq!(upstream.begun(), 2);

    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    let answer = connection.send(text("POST", "/", "charge")).await.unwrap();
    assert_eq!(answer.problem(), (504, "attempt-timeout".to_owned()));
    assert_eq!(upstream.begun(), 3);
    let breaker = gateway.breaker(&upstream.url()).await;
    assert_eq!(
        breaker["failures_in_a_row"], 1,
        "the time was the upstream's"
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_work_for_it() {
    for client in Protocol::ALL {
        for arguments in [&[][..], &["--upstream-http2"]] {
            let (upstream, given_up) = silent().await;
            let gateway = Gateway::with(&[&upstream.at("/")], arguments).await;
            let address = gateway.address;

            let waiting = tokio::spawn(async move {
                let mut connection = Connection::open(client, address).await;
                _ = connection.begin(text("POST", "/", "charge")).await;
            });
            eventually("the request arrives", || upstream.begun() == 1).await;
            waiting.abort();

            eventually("the upstream's request is given up", || {
                given_up.load(Ordering::SeqCst) == 1
            })
            .await;
            assert_eq!(upstream.begun(), 1, "{client:?} {arguments:?}");
            let breaker = gateway.breaker(&upstream.url()).await;
            assert_eq!(breaker["failures_in_a_row"], 0, "nobody else's fault");
        }
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_answer_for_it() {
    for client in Protocol::ALL {
        let (sender, body) = Channel::<Bytes, BoxError>::new(1);
        let body = std::sync::Mutex::new(Some(body.boxed_unsync()));
        let upstream = Upstream::serving(move |_| {
            let body = body.lock().unwrap().take();
            async move { body.map(Response::new) }
        })
        .await;
        let gateway = Gateway::start(&[&upstream.at("/")]).await;

        let mut connection = Connection::open(client, gateway.address).await;
        let answer = connection.begin(empty("GET", "/")).await.unwrap();
        drop((answer, connection));

        let mut sender = sender;
        let part = Bytes::from_static(&[7; 1000]);
        within(async { while sender.send_data(part.clone()).await.is_ok() {} }).await;
    }
}

#[tokio::test]
async fn an_answer_that_pauses_too_long_is_cut() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    sender.send_data(Bytes::from_static(b"half")).await.unwrap();
    let body = std::sync::Mutex::new(Some(body.boxed_unsync()));
    let upstream = Upstream::serving(move |_| {
        let body = body.lock().unwrap().take();
        async move { body.map(Response::new) }
    })
    .await;
    let gateway = Gateway::with(&[&upstream.at("/")], &["--pause-timeout", "200ms"]).await;

    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    let answer = connection.begin(empty("GET", "/")).await.unwrap();

    assert!(within(answer.into_body().collect()).await.is_err());
    drop(sender);
}

#[tokio::test]
async fn a_connection_with_nothing_in_flight_is_closed_whatever_it_has_begun() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::with(&[&upstream.at("/")], &["--idle-timeout", "300ms"]).await;

    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for begun in ["", "GET / HTTP/1.1\r\nho", "PRI * HT", preface] {
        let mut connection = Raw::connect(gateway.address).await;
        connection.send(begun).await;
        connection.rest().await;
    }
    for client in Protocol::ALL {
        let mut connection = Connection::open(client, gateway.address).await;
        connection.send(empty("GET", "/")).await.unwrap();
        eventually("an idle connection is closed", || connection.is_closed()).await;
    }
}

#[tokio::test]
async fn a_connection_with_something_in_flight_stays() {
    for client in Protocol::ALL {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        let body = std::sync::Mutex::new(Some(body.boxed_unsync()));
        let upstream = Upstream::serving(move |_| {
            let body = body.lock().unwrap().take();
            async move {
                match body {
                    Some(body) => Some(Response::new(body)),
                    None => says(200, "answer"),
                }
            }
        })
        .await;
        let gateway = Gateway::with(&[&upstream.at("/")], &["--idle-timeout", "1s"]).await;

        let mut connection = Connection::open(client, gateway.address).await;
        let mut answer = connection
            .begin(empty("GET", "/"))
            .await
            .unwrap()
            .into_body();
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            sender.send_data(Bytes::from_static(b"part")).await.unwrap();
            let part = within(answer.frame()).await.unwrap().unwrap();
            assert_eq!(part.into_data().unwrap(), "part");
        }
        drop(sender);
        assert!(within(answer.collect()).await.is_ok(), "{client:?}");

        // In use, though seldom at work: requests come within the time.
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = connection.send(empty("GET", "/")).await.unwrap();
            assert_eq!(answer.text(), "answer", "{client:?}");
        }
    }
}
