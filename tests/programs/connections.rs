//! Clients that say nothing, stop in the middle, or do not read: none of them holds a connection, or the end of the program.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::tempdir;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::Instant,
};

use crate::{
    client::{Client, of_amount},
    program::{LIMIT, Program},
    provider::Provider,
};

/// The preface of HTTP/2 with empty settings (RFC 9113 section 3.4): a connection that is ready for its first request.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const STALLED_CHARGE: &[u8] = b"POST /v1/charges HTTP/1.1\r\nhost: payments\r\nauthorization: Bearer sk_test\r\nidempotency-key: k\r\n\
    content-length: 32\r\n\r\n{\"amount\"";

const LIST: &[u8] =
    b"GET /v1/charges HTTP/1.1\r\nhost: payments\r\nauthorization: Bearer sk_test\r\n\r\n";

fn say(url: &str, said: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    connection.write_all(said).unwrap();
    connection
}

/// What comes until the connection is closed, by whatever means.
async fn heard(mut connection: TcpStream) -> Vec<u8> {
    let reading = spawn_blocking(move || {
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        let mut heard = Vec::new();
        match connection.read_to_end(&mut heard) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {
                panic!("it was not closed within {LIMIT:?}")
            }
            // What was not read when it was closed is a reset.
            Ok(_) | Err(_) => heard,
        }
    });
    reading.await.unwrap()
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let begun = Instant::now();

    let mut connections = JoinSet::new();
    for url in [program.api(), program.provider_url()] {
        for said in [
            &b""[..],
            b"P",
            b"PRI * HTTP/2",
            HTTP2,
            b"GET /healthz HTTP/1.1\r\nhost: ",
        ] {
            connections.spawn(heard(say(url, said)));
        }
    }
    while let Some(closed) = connections.join_next().await {
        closed.unwrap();
        assert!(
            begun.elapsed() > Duration::from_secs(4),
            "a client has time to speak"
        );
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_not_waited_for() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let provider = b"POST /charges HTTP/1.1\r\nhost: provider\r\ncontent-length: 32\r\n\r\n{";

    let (charge, at_provider) = tokio::join!(
        heard(say(program.api(), STALLED_CHARGE)),
        heard(say(program.provider_url(), provider)),
    );

    let charge = String::from_utf8(charge).unwrap();
    assert!(charge.starts_with("HTTP/1.1 408 "), "{charge}");
    assert!(charge.contains(r#""code":"body-timeout""#), "{charge}");
    let at_provider = String::from_utf8(at_provider).unwrap();
    assert!(at_provider.starts_with("HTTP/1.1 400 "), "{at_provider}");
    let ledger = Provider::new(program.provider_url()).ledger().await;
    assert_eq!(ledger.calls, 0);
}

/// The limits are for clients that do nothing, and not for those that wait.
#[tokio::test]
async fn who_waits_for_a_charge_keeps_the_connection() {
    let folder = tempdir().unwrap();
    let arguments = ["--store", "memory:", "--provider-timeout", "60s"];
    let program = Program::serve(folder.path(), &arguments).await;
    let slow = json!({"mode": "slow", "latency_ms": 12_000});
    let provider = Provider::new(program.provider_url());
    provider.faults(&slow).await;

    let mut answers = JoinSet::new();
    for http2 in [false, true] {
        let client: HttpClient<HttpConnector, Full<Bytes>> =
            HttpClient::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http();
        let request = Request::post(format!("{}/v1/charges", program.api()))
            .header("authorization", "Bearer sk_test")
            .header("idempotency-key", format!("k-{http2}"))
            .body(of_amount(5).to_string().into())
            .unwrap();
        answers.spawn(async move { client.request(request).await.unwrap() });
    }

    for answer in answers.join_all().await {
        assert_eq!(answer.status(), 201, "{:?}", answer.version());
        answer.into_body().collect().await.unwrap();
    }
}

/// The program ends by itself, and before the end of its patience.
async fn ends_soon(mut program: Program) {
    // Accepted after the others, and answered.
    let client = Client::new(program.api());
    client.get("/v1/charges").await;

    program.signal(Signal::SIGTERM);
    let status = program.ended().await;

    assert!(status.success(), "{status}");
    let logs = program.logs();
    assert!(!logs.contains("were cut off"), "{logs}");
}

#[tokio::test]
async fn at_sigterm_clients_that_said_nothing_do_not_matter_for_long() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let _connections = [&b""[..], b"P", b"PRI * HTTP/2"].map(|said| say(program.api(), said));

    ends_soon(program).await;
}

#[tokio::test]
async fn at_sigterm_an_idle_http2_client_that_does_not_close_does_not_matter_for_long() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let _idle = say(program.api(), HTTP2);

    ends_soon(program).await;
}

#[tokio::test]
async fn at_sigterm_a_body_that_stalls_does_not_matter_for_long() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let stalled = say(program.api(), STALLED_CHARGE);

    let (told, ()) = tokio::join!(heard(stalled), ends_soon(program));

    let told = String::from_utf8(told).unwrap();
    assert!(told.contains(r#""code":"body-unreadable""#), "{told}");
}

#[tokio::test]
async fn at_sigterm_a_client_that_reads_nothing_does_not_matter_for_long() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let long = "\u{1f4b3}".repeat(500);
    for amount in 1..=100 {
        let request = json!({"amount": amount, "currency": "usd", "order": long, "customer": long});
        let answer = client.charge(&amount.to_string(), &request).await;
        assert_eq!(answer.status, 201);
    }
    let list = client.get("/v1/charges").await.body.len();
    assert!(list > 400_000, "{list}");

    // Until no more goes in: the program waits for the client to read.
    let mut unread = say(program.api(), LIST);
    let timeout = Duration::from_millis(500);
    unread.set_write_timeout(Some(timeout)).unwrap();
    let full = (0..1_000_000).find_map(|_| unread.write_all(LIST).err());
    assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);

    ends_soon(program).await;
}
