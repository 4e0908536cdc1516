//! The connections to upstreams.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::support::{Connection, Gateway, Protocol, Upstream, dead, empty, within};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A client and an upstream that have talked, with a connection of the gateway between them that is kept.
async fn introduced(arguments: &[&str]) -> (Gateway, TcpListener, TcpStream, TcpStream) {
    let (socket, url) = dead();
    let listener = socket.listen(8).unwrap();
    let gateway = Gateway::with(&[&format!("/={url}")], arguments).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    let mut read = [0; 4096];
    _ = within(upstream.read(&mut read)).await.unwrap();
    upstream.write_all(ANSWER).await.unwrap();
    let length = within(client.read(&mut read)).await.unwrap();
    assert!(read[..length].starts_with(b"HTTP/1.1 204"));
    (gateway, listener, client, upstream)
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_common_servers_do() {
    let (_gateway, _listener, _client, mut upstream) = introduced(&[]).await;

    let closed = timeout(Duration::from_secs(10), upstream.read(&mut [0; 16])).await;

    assert_eq!(closed.expect("it is kept for longer").unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_an_attempt_like_any_other() {
    let (_gateway, listener, mut client, upstream) = introduced(&["--attempts", "1"]).await;

    // The gateway learns of both at once, of the request first.
    client.try_write(REQUEST).unwrap();
    drop(upstream);

    let mut read = [0; 4096];
    let length = within(client.read(&mut read)).await.unwrap();
    let answer = std::str::from_utf8(&read[..length]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let again = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(again.is_err(), "the client beneath has sent it again");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_was_not_processed() {
    let (socket, url) = dead();
    let listener = socket.listen(1).unwrap();
    // Nobody accepts: what the queue does not hold gets no answer.
    let mut queue = Vec::new();
    let address: SocketAddr = listener.local_addr().unwrap();
    while let Ok(connection) =
        timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        queue.push(connection.unwrap());
    }
    let limits = ["--connect-timeout", "200ms", "--attempts", "1"];
    let gateway = Gateway::with(&[&format!("/={url}")], &limits).await;

    let answer = gateway.get("/").await;

    assert_eq!(answer.problem(), (502, "upstream-unreachable".to_owned()));
}

/// A way to the upstream whose first connection can be cut without a word.
async fn silenced(upstream: &Upstream) -> (String, watch::Sender<bool>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (silence, silent) = watch::channel(false);
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, authority) = (Arc::clone(&count), upstream.authority());
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&authority).await.unwrap();
            let is_first = counter.fetch_add(1, Ordering::SeqCst) == 0;
            let mut silent = silent.clone();
            tokio::spawn(async move {
                if !is_first {
                    _ = copy_bidirectional(&mut near, &mut far).await;
                    return;
                }
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = silent.wait_for(|silent| *silent) => {}
                }
                silent.changed().await.unwrap();
                drop((near, far));
            });
        }
    });
    (url, silence, count)
}

#[tokio::test]
async fn a_connection_that_has_died_in_silence_is_given_up() {
    let upstream = Upstream::saying("answer").await;
    let (url, silence, connections) = silenced(&upstream).await;
    let limits = [
        "--upstream-http2",
        "--attempts",
        "1",
        "--attempt-timeout",
        "300ms",
    ];
    let limits = [&limits[..], &["--breaker-failures", "100"]].concat();
    let gateway = Gateway::with(&[&format!("/={url}")], &limits).await;
    let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
    let answer = connection.send(empty("GET", "/")).await.unwrap();
    assert_eq!(answer.text(), "answer");

    silence.send(true).unwrap();

    // Fewer than open the circuit.
    let mut failed = 0;
    while gateway.get("/").await.status != 200 {
        failed += 1;
        assert!(failed < 15, "the dead connection is used for ever");
    }
    assert!(failed > 0, "it was not used");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
