//! The first answer and its replays.

use http::{HeaderMap, request::Builder};
use steadfast::idempotency::Promise;
use tonic::{Code, Status, client::Grpc, codec::CompressionEncoding};

use super::{
    client::{
        Raw, assert_refused, call_raw, connect, create, create_with, grpc, keyed, order, replayed,
    },
    fleeting::{DATE, FLEETING},
    memory,
    shop::{CREATE, Charges, Shop, failure, serve},
};
use crate::support::PROMISES;

/// The codes whose answers are kept.
const KEPT: [i32; 6] = [3, 5, 6, 7, 9, 11];

#[tokio::test]
async fn a_call_is_executed_once_and_its_message_given_again() {
    for promise in PROMISES {
        let shop = Shop::open();
        let channel = connect(serve(Charges::new(shop.clone()), memory(promise)).await).await;

        let first = create(&channel, keyed("k", "")).await;
        let again = create(&channel, keyed("k", "")).await;

        assert_eq!(replayed(&first), Some("false"));
        assert_eq!(replayed(&again), Some("true"));
        let (first, again) = (first.unwrap(), again.unwrap());
        assert_eq!(first.get_ref(), again.get_ref());
        assert_eq!(first.get_ref().amount, 42);
        assert_eq!(first.get_ref().provider_key.len(), 32);
        assert_eq!(shop.runs(), 1);
    }
}

fn keyed_head() -> Builder {
    grpc(CREATE).header("idempotency-key", "k")
}

/// Nothing in HTTP/2 tells a replay from the first answer but the marker, the date of the server, and what is never stored, which
/// the first has and the replay has not.
#[track_caller]
pub(super) fn assert_same(mut first: Raw, mut again: Raw) {
    for (raw, marker) in [(&mut first, "false"), (&mut again, "true")] {
        let headers = &mut raw.head.headers;
        assert_eq!(headers.remove("idempotent-replayed").unwrap(), marker);
    }
    take_fleeting(&mut first.head.headers);
    if let Some(trailers) = &mut first.trailers {
        take_fleeting(trailers);
    }
    // hyper's own: a record has none, and a head must.
    let date = again.head.headers.remove(DATE).unwrap();
    assert!(!FLEETING.contains(&(DATE, date.to_str().unwrap())));

    assert_eq!(first.head.headers, again.head.headers);
    assert_eq!(first.head.status, again.head.status);
    assert_eq!(first.ends_with_head, again.ends_with_head);
    assert_eq!(first.body, again.body);
    assert_eq!(first.trailers, again.trailers);
}

/// Takes out what is never stored, each of which has to be there.
#[track_caller]
fn take_fleeting(headers: &mut HeaderMap) {
    for (name, value) in FLEETING {
        assert_eq!(headers.remove(name).unwrap(), value, "{name}");
    }
}

#[tokio::test]
async fn a_replay_is_the_first_answer_frame_by_frame() {
    for promise in PROMISES {
        let shop = Shop::open();
        let address = serve(Charges::fleeting(shop.clone()), memory(promise)).await;
        let call = async || call_raw(address, keyed_head(), &order("")).await;

        let first = call().await;

        assert!(!first.ends_with_head);
        assert!(!first.body.is_empty());
        assert_eq!(first.trailers.as_ref().unwrap()["grpc-status"], "0");
        assert_eq!(first.head.headers.get_all("x-note").iter().count(), 2);
        assert_same(first, call().await);
        assert_eq!(shop.runs(), 1);
    }
}

#[tokio::test]
async fn a_kept_failure_is_trailers_only_again_with_its_details() {
    for code in KEPT {
        let shop = Shop::open();
        let charges = Charges::fleeting(shop.clone());
        let address = serve(charges, memory(Promise::AtMostOnce)).await;
        let wish = order(&format!("fail {code}"));
        let call = async || call_raw(address, keyed_head(), &wish).await;

        let first = call().await;

        assert!(first.ends_with_head, "{code}");
        assert_eq!(first.head.headers["grpc-status"], code.to_string());
        assert_same(first, call().await);
        assert_eq!(shop.runs(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_tonic_client_gets_the_same_status_again() {
    let shop = Shop::open();
    let layer = memory(Promise::AtLeastOnce);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
    let expected = failure(9);

    let first = create(&channel, keyed("k", "fail 9")).await;
    let again = create(&channel, keyed("k", "fail 9")).await;

    assert_eq!(replayed(&again), Some("true"));
    for status in [first.unwrap_err(), again.unwrap_err()] {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), expected.message());
        assert_eq!(status.details(), expected.details());
        let metadata = status.metadata();
        assert_eq!(metadata.get("x-hint"), expected.metadata().get("x-hint"));
        let trace = "x-trace-bin";
        assert_eq!(metadata.get_bin(trace), expected.metadata().get_bin(trace));
    }
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn an_answer_is_kept_for_clients_that_cannot_decompress() {
    let shop = Shop::open();
    let charges = Charges::compressing(shop.clone());
    let channel = connect(serve(charges, memory(Promise::AtMostOnce)).await).await;
    let gzip = || Grpc::new(channel.clone()).accept_compressed(CompressionEncoding::Gzip);

    let first = create_with(gzip(), keyed("k", "large 5000")).await;
    let plain = create(&channel, keyed("k", "large 5000")).await;

    assert_eq!(replayed(&plain), Some("true"));
    assert_eq!(first.unwrap().get_ref(), plain.unwrap().get_ref());
    assert_eq!(shop.runs(), 1);
    assert!(shop.seen()[0].get("grpc-accept-encoding").is_none());
}

#[tokio::test]
async fn another_compression_or_content_subtype_is_another_request() {
    let shop = Shop::open();
    let charges = Charges::compressing(shop.clone());
    let address = serve(charges, memory(Promise::AtMostOnce)).await;
    let channel = connect(address).await;
    create(&channel, keyed("k", "")).await.unwrap();

    let gzip = Grpc::new(channel.clone()).send_compressed(CompressionEncoding::Gzip);
    let compressed = create_with(gzip, keyed("k", "")).await;
    let mut head = keyed_head();
    let headers = head.headers_mut().unwrap();
    headers.insert("content-type", "application/grpc+proto".parse().unwrap());
    let subtype = call_raw(address, head, &order("")).await;
    let same = call_raw(address, keyed_head(), &order("")).await;

    let refused = Code::FailedPrecondition;
    assert_refused(&compressed.unwrap_err(), refused, "KEY_REUSED", Some("-1"));
    let subtype = Status::from_header_map(&subtype.head.headers).unwrap();
    assert_refused(&subtype, refused, "KEY_REUSED", Some("-1"));
    assert_eq!(same.head.headers["idempotent-replayed"], "true");
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let shop = Shop::open();
    let channel =
        connect(serve(Charges::new(shop.clone()), memory(Promise::AtMostOnce)).await).await;
    create(&channel, keyed("k", "")).await.unwrap();

    let other = create(&channel, keyed("k", "another wish")).await;

    assert_refused(
        &other.unwrap_err(),
        Code::FailedPrecondition,
        "KEY_REUSED",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 1);
}
