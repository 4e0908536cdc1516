//! A message and a failure, each given again from a durable store; and a store that nobody has set up.

use steadfast::{
    store::{MemoryStore, Store},
    store_postgres::PostgresStore,
    store_sqlite::SqliteStore,
};
use tonic::Code;

use super::{
    answers::assert_same,
    client::{assert_refused, call_raw, connect, create, grpc, keyed, order},
    config,
    shop::{CREATE, Charges, Shop, serve},
};
use crate::support::{PROMISES, layer};

/// By another server over the same store, as after a restart.
async fn gives_again(stores: [impl Store + Clone; 2]) {
    for promise in PROMISES {
        let shop = Shop::open();
        let mut addresses = Vec::new();
        for store in stores.clone() {
            let namespace = format!("{promise:?}");
            let layer = layer(promise, store, config().with_namespace(namespace));
            addresses.push(serve(Charges::fleeting(shop.clone()), layer).await);
        }

        for (run, wish) in [(1, ""), (2, "fail 9")] {
            let call = async |address| {
                let head = grpc(CREATE).header("idempotency-key", format!("k{run}"));
                call_raw(address, head, &order(wish)).await
            };
            let first = call(addresses[0]).await;
            let again = call(addresses[1]).await;

            assert_eq!(first.ends_with_head, wish == "fail 9");
            assert_same(first, again);
            assert_eq!(shop.runs(), run);
        }
    }
}

#[tokio::test]
async fn over_memory() {
    let store = MemoryStore::default();
    gives_again([store.clone(), store]).await;
}

#[tokio::test]
async fn over_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || {
        let store = SqliteStore::open(folder.path().join("keys.db")).await;
        let store = store.unwrap();
        store.migrate().await.unwrap();
        store
    };
    gives_again([open().await, open().await]).await;
}

#[tokio::test]
async fn over_postgres() {
    let database = steadfast_testkit::postgres::database().await.unwrap();
    let connect = async || {
        let store = PostgresStore::connect(database.url()).await.unwrap();
        store.migrate().await.unwrap();
        store
    };
    gives_again([connect().await, connect().await]).await;
}

#[tokio::test]
async fn a_store_without_its_table_is_no_reason_to_call_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("keys.db")).await;
    let store = store.unwrap();
    for promise in PROMISES {
        let shop = Shop::open();
        let layer = layer(promise, store.clone(), config());
        let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;

        let refused = create(&channel, keyed("k", "")).await;

        assert_refused(
            &refused.unwrap_err(),
            Code::FailedPrecondition,
            "STORE_UNAVAILABLE",
            Some("-1"),
        );
        assert_eq!(shop.runs(), 0);
    }
}
