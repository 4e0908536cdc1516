//! idempotency I7, I9 over a connection of HTTP/1: a client that hangs up, and trailers on the wire.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use steadfast_http::body::CapturedBody;
use steadfast_idempotency::{IdempotencyLayer, scope};
use steadfast_store::MemoryStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::timeout,
};
use tower::{Layer, service_fn};

use crate::support::{Body, BoxError, Latch, body};

type Memory = IdempotencyLayer<MemoryStore>;

fn layer() -> Memory {
    IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared()).unwrap()
}

/// Serves one connection: the client's end of it, and the task that serves it.
fn connect<F>(
    layer: &Memory,
    answer: impl Fn() -> F + Clone + Send + 'static,
) -> (DuplexStream, JoinHandle<()>)
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let inner = service_fn(move |_: Request<CapturedBody<Incoming>>| {
        let answer = answer();
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let service = TowerToHyperService::new(layer.layer(inner));
    let (client, server) = tokio::io::duplex(64 << 10);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    // A client that hangs up is an error of the connection.
    let serving = tokio::spawn(connection.map(drop));
    (client, serving)
}

const REQUEST: &[u8] = b"POST /charges HTTP/1.1\r\nhost: pay.example\r\nidempotency-key: k\r\n\
    te: trailers\r\nconnection: close\r\ncontent-length: 1\r\n\r\n5";

async fn exchange((client, _): (DuplexStream, JoinHandle<()>)) -> String {
    exchange_of(client, REQUEST).await
}

async fn exchange_of(mut client: DuplexStream, request: &[u8]) -> String {
    client.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(60), client.read_to_end(&mut answer));
    read.await.unwrap().unwrap();
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_does_not_stop_its_operation() {
    let layer = layer();
    let latch = Latch::new();
    let answer = {
        let latch = latch.clone();
        move || {
            let latch = latch.clone();
            async move {
                latch.pass().await;
                Response::new(body("charged"))
            }
        }
    };
    let (mut client, serving) = connect(&layer, answer.clone());
    client.write_all(REQUEST).await.unwrap();
    latch.reached().await;

    drop(client);
    serving.await.unwrap();
    assert_eq!(layer.handle().running(), 1);
    latch.open();
    layer.handle().drain(Duration::from_secs(5)).await.unwrap();

    let replay = exchange(connect(&layer, answer)).await;
    assert!(replay.contains("idempotent-replayed: true"), "{replay}");
    assert!(replay.contains("content-length: 7"), "{replay}");
    assert!(replay.ends_with("charged"), "{replay}");
}

/// What a handler streams, with trailers that it has announced.
fn streamed() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "42".parse().unwrap());
    let frames: [Result<Frame<Bytes>, BoxError>; 2] = [
        Ok(Frame::data(Bytes::from_static(b"charged"))),
        Ok(Frame::trailers(trailers)),
    ];
    let content = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    Response::builder()
        .header("trailer", "checksum")
        .body(content)
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_covered_gets_its_trailers() {
    let (client, _serving) = connect(&layer(), async || streamed());
    let put = [b"PUT", REQUEST.strip_prefix(b"POST").unwrap()].concat();

    let answer = exchange_of(client, &put).await;

    assert!(answer.contains("checksum: 42"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn the_first_client_gets_the_trailers_that_the_handler_announced() {
    let first = exchange(connect(&layer(), async || streamed())).await;

    assert!(first.contains("idempotent-replayed: false"), "{first}");
    assert!(first.contains("charged"), "{first}");
    assert!(first.contains("checksum: 42"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_the_trailers_on_the_wire() {
    let layer = layer();
    exchange(connect(&layer, async || streamed())).await;

    let replay = exchange(connect(&layer, async || streamed())).await;

    assert!(replay.contains("idempotent-replayed: true"), "{replay}");
    assert!(replay.contains("charged"), "{replay}");
    assert!(replay.contains("checksum: 42"), "{replay}");
}
