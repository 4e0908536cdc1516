//! Where a body ends, and what comes behind it.

use std::collections::BTreeMap;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Connection, Gateway, Protocol, Raw, Upstream, dead, empty};

/// An upstream that answers the first request of each connection with these bytes, and closes.
async fn answering(answer: &'static str) -> String {
    let (socket, url) = dead();
    let listener = socket.listen(8).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

fn values(headers: &HeaderMap) -> BTreeMap<&str, &str> {
    let pairs = headers.iter();
    pairs
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn trailers_bring_an_upstream_nothing_that_belongs_into_a_head() {
    for arguments in [&[][..], &["--upstream-http2"]] {
        let upstream = Upstream::saying("answer").await;
        let gateway = Gateway::with(&[&upstream.at("/")], arguments).await;

        let mut connection = Raw::connect(gateway.address).await;
        connection
            .send(
                "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
                 trailer: x-sum, x-forwarded-for, authorization, x-mine\r\n\r\n4\r\nfour\r\n0\r\nx-sum: 1\r\n\
                 content-length: 77\r\nx-forwarded-for: 6.6.6.6\r\nauthorization: secret\r\nconnection: x-mine\r\n\
                 x-mine: 2\r\n\r\n",
            )
            .await;
        let answer = connection.rest().await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{arguments:?}{answer}");
        let seen = &upstream.seen()[0];
        assert_eq!(seen.body, "four");
        let trailers = values(seen.trailers.as_ref().unwrap());
        assert_eq!(trailers, BTreeMap::from([("x-sum", "1")]), "{arguments:?}");
    }
}

#[tokio::test]
async fn trailers_bring_a_client_nothing_that_belongs_into_a_head() {
    let url = answering(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum, set-cookie, x-mine\r\ntransfer-encoding: chunked\r\n\r\n6\r\nanswer\r\n0\r\n\
         x-sum: 1\r\nconnection: x-mine\r\nx-mine: 2\r\nset-cookie: a=b\r\ncontent-length: 3\r\n\r\n",
    )
    .await;
    let gateway = Gateway::start(&[&format!("/={url}")]).await;

    for client in Protocol::ALL {
        let mut connection = Connection::open(client, gateway.address).await;
        let mut request = empty("GET", "/");
        let trailers = "trailers".parse().unwrap();
        request.headers_mut().insert("te", trailers);
        let answer = connection.send(request).await.unwrap();

        assert_eq!(answer.text(), "answer", "{client:?}");
        let trailers = values(answer.trailers.as_ref().unwrap());
        assert_eq!(trailers, BTreeMap::from([("x-sum", "1")]), "{client:?}");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_pass() {
    let url = answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n6\r\nanswer\r\n0\r\n\r\n",
    )
    .await;
    let gateway = Gateway::start(&[&format!("/={url}")]).await;

    for client in Protocol::ALL {
        let mut connection = Connection::open(client, gateway.address).await;
        let answer = connection.send(empty("GET", "/")).await.unwrap();
        assert_eq!(answer.text(), "answer", "{client:?}");
        assert!(!answer.headers.contains_key("content-length"));
    }
    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    let answer = connection.send(empty("HEAD", "/")).await.unwrap();
    assert!(!answer.headers.contains_key("content-length"));
}

#[tokio::test]
async fn an_answer_in_a_coding_that_nobody_undoes_does_not_pass() {
    for codings in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\ncoded\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n5\r\ncoded\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\ncoded",
    ] {
        let url = answering(codings).await;
        let gateway = Gateway::start(&[&format!("/={url}")]).await;

        let answer = gateway.get("/").await;

        assert_eq!(answer.problem(), (502, "upstream-failed".to_owned()));
    }
}

#[tokio::test]
async fn what_a_server_in_front_has_dropped_counts_for_nothing() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    for head in [
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 2",
    ] {
        let mut connection = Raw::connect(gateway.address).await;
        connection
            .send(format!(
                "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n\r\n4\r\nfour\r\n0\r\n\r\n"
            ))
            .await;
        let answer = connection.rest().await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.body, "four");
        assert!(seen.header("content-length").is_empty());
    }
}
