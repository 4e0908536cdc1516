//! Clients: tonic's, and bare HTTP/2 that shows every byte.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{
    Code, Request, Response, Status, client::Grpc, codegen::http::uri::PathAndQuery,
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::shop::{CREATE, Order, Receipt};

pub(super) async fn connect(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub(super) fn order(wish: &str) -> Order {
    Order {
        amount: 42,
        wish: wish.to_owned(),
    }
}

pub(super) fn keyed(key: &str, wish: &str) -> Request<Order> {
    let mut request = Request::new(order(wish));
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", key.parse().unwrap());
    request
}

pub(super) async fn create(
    channel: &Channel,
    request: Request<Order>,
) -> Result<Response<Receipt>, Status> {
    create_with(Grpc::new(channel.clone()), request).await
}

pub(super) async fn create_with(
    mut grpc: Grpc<Channel>,
    request: Request<Order>,
) -> Result<Response<Receipt>, Status> {
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(CREATE);
    grpc.unary(request, path, ProstCodec::default()).await
}

/// Whether the answer says that it was given before; `None` if it has no marker.
pub(super) fn replayed(answer: &Result<Response<Receipt>, Status>) -> Option<&str> {
    let metadata = match answer {
        Ok(response) => response.metadata(),
        Err(status) => status.metadata(),
    };
    let marker = metadata.get("idempotent-replayed")?;
    Some(marker.to_str().unwrap())
}

/// Whether the layer refused the call like this, with its reason for programs and its word to clients that retry by themselves:
/// after how many milliseconds, or -1 for not at all. No detail goes beyond that.
#[track_caller]
pub(super) fn assert_refused(status: &Status, code: Code, reason: &str, pushback: Option<&str>) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.check_error_details().unwrap();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, reason, "{status:?}");
    assert_eq!(info.domain, "steadfast");
    let retryable = (pushback != Some("-1")).to_string();
    let metadata = [("retryable".to_owned(), retryable)];
    assert_eq!(info.metadata, metadata.into(), "{status:?}");

    let told = status.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(told.map(|value| value.to_str().unwrap()), pushback);
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    let milliseconds = pushback.filter(|&pushback| pushback != "-1");
    assert_eq!(
        delay.map(|delay| delay.as_millis().to_string()).as_deref(),
        milliseconds
    );
    assert!(status.metadata().get("idempotent-replayed").is_none());
}

/// An answer as it stands in HTTP/2.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) head: response::Parts,
    /// Whether the head ended the stream: Trailers-Only.
    pub(super) ends_with_head: bool,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// A gRPC call, as far as its head says.
pub(super) fn grpc(path: &str) -> http::request::Builder {
    http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Sends a call over a connection of its own.
pub(super) async fn call_raw(
    address: SocketAddr,
    head: http::request::Builder,
    order: &Order,
) -> Raw {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(async { connection.await.unwrap() });
    let path = head.uri_ref().unwrap().clone();
    let request = head
        .uri(format!("http://{address}{path}"))
        .body(Full::new(framed(order)))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let ends_with_head = http_body::Body::is_end_stream(&body);
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Raw {
        head,
        ends_with_head,
        body: collected.to_bytes(),
        trailers,
    }
}

/// One message, uncompressed, with its length in front.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len().try_into().unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}
