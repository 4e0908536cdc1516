//! Bodies are bounded, and pass as they come.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, channel::Channel};
use steadfast::http::BoxError;

use crate::support::{
    Connection, Gateway, Protocol, Raw, Upstream, empty, eventually, says, text, within,
};

const LIMIT: [&str; 2] = ["--max-body", "1000"];

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_anybody_sees_it() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::with(&[&upstream.at("/")], &LIMIT).await;

    for client in Protocol::ALL {
        let mut connection = Connection::open(client, gateway.address).await;
        let largest = connection.send(text("POST", "/", "x".repeat(1000))).await;
        assert_eq!(largest.unwrap().status, 200);
    }
    let mut connection = Raw::connect(gateway.address).await;
    connection
        .send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
        .await;
    let answer = connection.rest().await;

    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains(r#""code":"body-too-large""#), "{answer}");
    assert_eq!(upstream.begun(), 2);
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_cut_and_no_upstream_sees_a_whole_request() {
    for client in Protocol::ALL {
        for arguments in [&LIMIT[..], &["--max-body", "1000", "--upstream-http2"]] {
            let upstream = Upstream::saying("answer").await;
            let gateway = Gateway::with(&[&upstream.at("/")], arguments).await;
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            let request = empty("PUT", "/").map(|_| body.boxed_unsync());

            let mut connection = Connection::open(client, gateway.address).await;
            tokio::spawn(async move {
                for _ in 0..4 {
                    _ = sender.send_data(Bytes::from_static(&[7; 300])).await;
                }
                // There would be more.
                pending::<()>().await;
                drop(sender);
            });
            let answer = connection.send(request).await.unwrap();

            assert_eq!(answer.problem(), (413, "body-too-large".to_owned()));
            assert!(upstream.begun() <= 1, "it is not sent again");
            assert!(upstream.seen().is_empty(), "{client:?} {arguments:?}");
            let breaker = gateway.breaker(&upstream.url()).await;
            assert_eq!(breaker["failures_in_a_row"], 0, "nobody else's fault");
        }
    }
}

#[tokio::test]
async fn the_first_byte_of_an_answer_arrives_before_the_last_is_sent() {
    let (sender, body) = Channel::<Bytes, BoxError>::new(1);
    let (upstream, mut sender) = streaming(sender, body).await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    let mut answer = connection
        .begin(empty("GET", "/"))
        .await
        .unwrap()
        .into_body();
    sender
        .send_data(Bytes::from_static(b"first"))
        .await
        .unwrap();
    let first = within(answer.frame()).await.unwrap().unwrap();
    sender.send_data(Bytes::from_static(b"last")).await.unwrap();
    drop(sender);

    assert_eq!(first.into_data().unwrap(), "first");
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "last");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_waits_at_its_upstream() {
    const PART: usize = 64 << 10;
    const PARTS: usize = 2000;
    for client in Protocol::ALL {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        tokio::spawn(async move {
            for _ in 0..PARTS {
                let part = Bytes::from_static(&[7; PART]);
                if sender.send_data(part).await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (upstream, ()) = streaming((), body).await;
        let gateway = Gateway::start(&[&upstream.at("/")]).await;

        let mut connection = Connection::open(client, gateway.address).await;
        let answer = connection.begin(empty("GET", "/")).await.unwrap();

        // What sockets hold differs; the point is that it ends.
        let mut before = usize::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(before < PARTS / 2, "{client:?}: {before} parts ran ahead");
        let mut body = answer.into_body();
        let mut read = 0;
        while let Some(frame) = within(body.frame()).await {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(read, PART * PARTS, "{client:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_like_a_whole_one() {
    for client in Protocol::ALL {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        sender.send_data(Bytes::from_static(b"half")).await.unwrap();
        let (upstream, sender) = streaming(sender, body).await;
        let gateway = Gateway::start(&[&upstream.at("/")]).await;

        let mut connection = Connection::open(client, gateway.address).await;
        let mut answer = connection
            .begin(empty("GET", "/"))
            .await
            .unwrap()
            .into_body();
        let half = within(answer.frame()).await.unwrap().unwrap();
        sender.abort("the disk is gone".into());

        assert_eq!(half.into_data().unwrap(), "half");
        assert!(within(answer.frame()).await.unwrap().is_err(), "{client:?}");
        assert_eq!(upstream.begun(), 1, "its head has passed");
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_ends_its_attempt_and_is_nobodys_fault() {
    let upstream = Upstream::that(|_| says(200, "answer")).await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let mut connection = Raw::connect(gateway.address).await;
    connection
        .send("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n")
        .await;
    let answer = connection.rest().await;

    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("body-unreadable"), "{answer}");
    eventually("the attempt begins", || upstream.connections() == 1).await;
    assert!(upstream.seen().is_empty());
    let breaker = gateway.breaker(&upstream.url()).await;
    assert_eq!(breaker["failures_in_a_row"], 0);
}

/// An upstream that answers its only request with this body.
async fn streaming<T>(sender: T, body: Channel<Bytes, BoxError>) -> (Upstream, T) {
    let body = Mutex::new(Some(body.boxed_unsync()));
    let upstream = Upstream::serving(move |_| {
        let body = body.lock().unwrap().take();
        async move { body.map(Response::new) }
    });
    (upstream.await, sender)
}
