//! Streams: those that are not named pass untouched, and one that is named by mistake does no harm.

use std::time::Duration;

use futures_util::StreamExt;
use steadfast::{
    idempotency::{IdempotencyConfig, Promise},
    store::MemoryStore,
};
use tokio::sync::mpsc;
use tonic::{Code, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    client::{assert_refused, connect, keyed},
    config, memory,
    shop::{Charges, HAGGLE, Order, PRICES, Receipt, Shop, serve},
};
use crate::support::{layer, within};

#[tokio::test]
async fn an_unnamed_stream_flows_both_ways_through_the_layer() {
    let layer = memory(Promise::AtMostOnce);
    haggles(connect(serve(Charges::new(Shop::open()), layer).await).await).await;
}

/// A stream both ways, where each answer comes before the next offer is sent.
pub(super) async fn haggles(channel: Channel) {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let (offer, offers) = mpsc::unbounded_channel::<Order>();
    let offers = futures_util::stream::unfold(offers, async |mut offers| {
        Some((offers.recv().await?, offers))
    });

    let path = PathAndQuery::from_static(HAGGLE);
    let codec = ProstCodec::<Order, Receipt>::default();
    offer.send(Order::default()).unwrap();
    let answers = grpc.streaming(tonic::Request::new(offers.boxed()), path, codec);
    let mut answers = within(answers).await.unwrap().into_inner();

    for amount in 1..=3 {
        let answer = within(answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.amount, amount);
        offer
            .send(Order {
                amount,
                ..Order::default()
            })
            .unwrap();
    }
    drop(offer);
    let last = within(answers.message()).await.unwrap().unwrap();
    assert_eq!(last.amount, 4);
    assert!(within(answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_unnamed_method_needs_no_key_and_has_no_marker() {
    let shop = Shop::open();
    let channel =
        connect(serve(Charges::new(shop.clone()), memory(Promise::AtMostOnce)).await).await;

    for runs in 1..=2 {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(PRICES);
        let codec = ProstCodec::<Order, Receipt>::default();
        let answers = grpc
            .server_streaming(keyed("k", ""), path, codec)
            .await
            .unwrap();
        assert!(answers.metadata().get("idempotent-replayed").is_none());
        assert_eq!(answers.into_inner().count().await, 3);
        assert_eq!(shop.runs(), runs);
    }
}

#[tokio::test]
async fn a_named_stream_that_ends_is_given_again_whole() {
    let shop = Shop::open();
    let config = config().with_grpc_methods([PRICES]);
    let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;

    for marker in ["false", "true"] {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(PRICES);
        let codec = ProstCodec::<Order, Receipt>::default();
        let answers = grpc
            .server_streaming(keyed("k", ""), path, codec)
            .await
            .unwrap();
        assert_eq!(
            answers.metadata().get("idempotent-replayed").unwrap(),
            marker
        );
        let amounts = answers.into_inner().map(|answer| answer.unwrap().amount);
        assert_eq!(amounts.collect::<Vec<_>>().await, [1, 2, 3]);
    }
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_named_stream_of_requests_without_end_never_comes_to_its_handler() {
    let config = IdempotencyConfig::default()
        .with_grpc_methods([HAGGLE])
        .with_body_timeout(Duration::from_millis(100));
    let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(Shop::open()), layer).await).await;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(futures_util::stream::pending::<Order>());
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", "k".parse().unwrap());

    let path = PathAndQuery::from_static(HAGGLE);
    let codec = ProstCodec::<Order, Receipt>::default();
    let refused = within(grpc.streaming(request, path, codec)).await;

    assert_refused(
        &refused.err().unwrap(),
        Code::Unavailable,
        "BODY_TIMEOUT",
        None,
    );
}

#[tokio::test]
async fn a_named_stream_without_end_flows_and_is_never_executed_again() {
    let shop = Shop::open();
    let config = config()
        .with_grpc_methods([PRICES])
        .with_response_limit(10_000);
    let layer = layer(Promise::AtLeastOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
    let open = async || {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(PRICES);
        let codec = ProstCodec::<Order, Receipt>::default();
        let request = keyed("k", "endless");
        grpc.server_streaming(request, path, codec).await
    };

    let mut prices = open().await.unwrap().into_inner();
    for amount in 1..=1_000 {
        let price = within(prices.message()).await.unwrap().unwrap();
        assert_eq!(price.amount, amount);
    }
    let again = open().await;

    assert_eq!(again.err().unwrap().code(), Code::FailedPrecondition);
    assert_eq!(shop.runs(), 1);
}
