//! Where the layer stands: beside an HTTP layer on one port, behind a prefix, and where it should not.

use axum::Router;
use http::{StatusCode, Uri};
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Promise},
    store::MemoryStore,
};
use tonic::{Code, client::Grpc, codegen::http::uri::PathAndQuery, service::Routes};
use tonic_prost::ProstCodec;

use super::{
    client::{assert_refused, connect, create, create_with, keyed, order, replayed},
    config,
    shop::{CREATE, Charges, Order, PRICES, Receipt, Shop},
    streams::haggles,
};
use crate::support::{Bank, Connection, PROMISES, Protocol, charge, layer, serve};

/// A router without a fallback, which another can be merged with.
fn routes(charges: Charges) -> Router {
    Routes::from(Router::new())
        .add_service(charges)
        .into_axum_router()
}

#[tokio::test]
async fn both_layers_stand_on_one_port_each_around_its_own_routes() {
    for promise in PROMISES {
        let (shop, bank) = (Shop::open(), Bank::new());
        let store = MemoryStore::default();
        let http = layer(promise, store.clone(), IdempotencyConfig::default());
        let grpc = layer(promise, store, config());
        let app = Router::new()
            .route("/charges", bank.route())
            .route_layer(http)
            .merge(routes(Charges::new(shop.clone())).route_layer(grpc));
        let address = serve(app).await;
        let channel = connect(address).await;

        for marker in ["false", "true"] {
            let answer = create(&channel, keyed("of-grpc", "")).await;
            assert_eq!(replayed(&answer), Some(marker));
            assert_eq!(answer.unwrap().get_ref().run, 1);
        }
        for (protocol, marker) in [(Protocol::Http1, "false"), (Protocol::Http2, "true")] {
            let mut client = Connection::open(protocol, address).await;
            let answer = client.send(charge("/charges", "of-http", "amount=5")).await;
            let answer = answer.unwrap();
            assert_eq!(answer.status, StatusCode::CREATED);
            assert_eq!(answer.marker(), Some(marker));
        }
        haggles(channel.clone()).await;

        // One store and one scope: a key names one operation, whichever way it comes.
        let other = create(&channel, keyed("of-http", "")).await;
        assert_refused(
            &other.unwrap_err(),
            Code::FailedPrecondition,
            "KEY_REUSED",
            Some("-1"),
        );
        assert_eq!(shop.runs(), 1);
    }
}

#[tokio::test]
async fn a_layer_for_http_around_a_grpc_service_covers_its_streams_too() {
    let shop = Shop::open();
    let http = layer(
        Promise::AtMostOnce,
        MemoryStore::default(),
        IdempotencyConfig::default(),
    );
    let address = serve(routes(Charges::new(shop.clone())).layer(http)).await;
    let mut grpc = Grpc::new(connect(address).await);
    grpc.ready().await.unwrap();

    let path = PathAndQuery::from_static(PRICES);
    let codec = ProstCodec::<Order, Receipt>::default();
    let prices = grpc.server_streaming(tonic::Request::new(order("")), path, codec);

    assert_refused(
        &prices.await.err().unwrap(),
        Code::InvalidArgument,
        "MISSING_KEY",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 0);
}

#[tokio::test]
async fn a_method_behind_a_prefix_is_named_as_the_layer_sees_it() {
    type Nests = fn(Router, IdempotencyLayer<MemoryStore>) -> Router;
    let outside: Nests = |routes, layer| Router::new().nest("/grpc", routes).layer(layer);
    let inside: Nests = |routes, layer| Router::new().nest("/grpc", routes.layer(layer));
    for (named, nest) in [
        (format!("/grpc{CREATE}"), outside),
        (CREATE.to_owned(), inside),
    ] {
        let shop = Shop::open();
        let config = IdempotencyConfig::default().with_grpc_methods([named.clone()]);
        let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
        let address = serve(nest(routes(Charges::new(shop.clone())), layer)).await;
        let channel = connect(address).await;
        let origin: Uri = format!("http://{address}/grpc").parse().unwrap();

        for marker in ["false", "true"] {
            let grpc = Grpc::with_origin(channel.clone(), origin.clone());
            let answer = create_with(grpc, keyed("k", "")).await;
            assert_eq!(replayed(&answer), Some(marker), "{named}");
        }
        assert_eq!(shop.runs(), 1);
    }
}
