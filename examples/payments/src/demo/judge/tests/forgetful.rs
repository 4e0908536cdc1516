//! Layers that remember nothing, and how they are found out.

use std::time::Duration;

use steadfast::{
    idempotency::{IdempotencyLayer, Outcome, scope},
    store::DynStore,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    account::Account,
    api::{self, Api},
    config::{ProviderLimits, StoreUrl},
    database::Database,
    demo::clients::Clients,
    provider::{self, Provider},
    provider_client::ProviderClient,
    server,
    telemetry::Metrics,
};

/// The layer stores nothing, and the table of charges and the provider hide it: one charge, one call, one body.
#[test]
fn answers_that_are_not_remembered_are_found_out_in_every_scene() {
    let joined = replayed;
    let not_again = "not given again to a client that came after it";
    let all_executed = (0..40).map(|_| executed()).chain([joined()]);
    for (mut sent, named) in [
        (
            told([executed(), executed()]),
            "3 clients got a 201 that is no replay",
        ),
        // Two clicks of which the second joined the first.
        (
            told([executed(), joined()]),
            "2 clients got a 201 that is no replay",
        ),
        (told([unknown(), executed()]), not_again),
        // The first client has left, and its retry joined the execution.
        (vec![lost(), told([joined()]).remove(0)], not_again),
        // The process of the first client was killed.
        (
            vec![lost(), told([executed()]).remove(0)],
            "2 clients got a 201 that is no replay",
        ),
        (told(all_executed), "41 clients got a 201 that is no replay"),
    ] {
        sent.push(latecomer(executed()));
        assert_names(named, &judge(&SCENE, &sent, &ledger(&["pr_1"], 1)));
    }
}

#[test]
fn a_route_without_the_layer_is_found_out() {
    let body = executed().body;
    let bare = || answer(201, &[], str::from_utf8(&body).unwrap());
    let mut sent = told([bare()]);
    sent.push(latecomer(bare()));

    let broken = judge(&SCENE, &sent, &ledger(&["pr_1"], 1));

    assert_names("executed again", &broken);
    assert_names("not given again", &broken);
}

#[tokio::test]
async fn a_layer_that_stores_nothing_is_found_out() {
    let kept = broken_with(|layer| layer).await;
    let broken = broken_with(|layer| layer.with_outcome(|_| Some(Outcome::Release))).await;

    assert_eq!(kept, [""; 0]);
    assert_names("executed again", &broken);
    assert_names("not given again", &broken);
}

/// The routes with a layer of their own: as it is, or one that never stores.
async fn broken_with(change: impl FnOnce(Layer) -> Layer) -> Vec<String> {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let (listener, provider) = bind().await;
    let routes = Provider::default().routes();
    tokio::spawn(provider::serve(listener, routes, stop.clone()));
    let Database { store, charges, .. } = Database::open(&StoreUrl::Memory).await.unwrap();
    let limits = ProviderLimits {
        provider_attempts: 3,
        provider_timeout: Duration::from_secs(30),
        breaker_failures: 5,
        breaker_open: Duration::from_secs(30),
        breaker_successes: 3,
    };
    let api = Api {
        charges,
        provider: ProviderClient::new(&provider.parse().unwrap(), limits).unwrap(),
        metrics: Metrics::of_nothing(),
    };
    let scope = scope::from_extension(|account: &Account| account.id());
    let layer = change(IdempotencyLayer::at_least_once(store, scope).unwrap());
    let (listener, address) = bind().await;
    let routes = api::routes(api.into(), layer);
    tokio::spawn(server::serve(listener, routes, stop.clone()));

    let clients = Clients::new().unwrap();
    for _ in 0..2 {
        clients.ask_until_answered(&address, ORDER).await;
    }

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ledger = http.get(format!("{provider}/ledger")).send().await.unwrap();
    judge(&SCENE, &clients.sent(), &ledger.json().await.unwrap())
}

type Layer = IdempotencyLayer<DynStore>;

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}
