//! What the code of an answer means for its key, by the table and by a layer's own word.

use super::{
    client::{assert_refused, connect, create, keyed, replayed},
    memory,
    shop::{Charges, Shop, serve},
};
use crate::support::PROMISES;
use steadfast::{
    http::grpc::Code,
    idempotency::{IdempotencyLayer, Outcome, Promise},
    store::MemoryStore,
};

/// A layer for handlers that pass on the status of another service.
fn suspicious(promise: Promise) -> IdempotencyLayer<MemoryStore> {
    memory(promise).with_outcome(|head| {
        let code = head.extensions.get()?;
        // From the other service: here the caller was let in, and the method exists.
        matches!(code, Code::Unauthenticated | Code::Unimplemented).then_some(Outcome::Unknown)
    })
}

#[tokio::test]
async fn a_status_of_another_service_that_is_passed_on_keeps_the_key() {
    for wish in ["fail-first 16", "fail-first 12"] {
        let shop = Shop::open();
        let layer = suspicious(Promise::AtMostOnce);
        let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;

        create(&channel, keyed("k", wish)).await.unwrap_err();
        let again = create(&channel, keyed("k", wish)).await;

        assert_refused(
            &again.unwrap_err(),
            tonic::Code::FailedPrecondition,
            "OUTCOME_UNKNOWN",
            Some("-1"),
        );
        assert_eq!(shop.runs(), 1, "{wish}");
    }
}

#[tokio::test]
async fn the_layers_own_word_leaves_the_rest_to_the_table() {
    for promise in PROMISES {
        for wish in ["", "fail 9"] {
            let shop = Shop::open();
            let charges = Charges::new(shop.clone());
            let channel = connect(serve(charges, suspicious(promise)).await).await;

            let first = create(&channel, keyed("k", wish)).await;
            let again = create(&channel, keyed("k", wish)).await;

            assert_eq!(replayed(&first), Some("false"));
            assert_eq!(replayed(&again), Some("true"));
            assert_eq!(shop.runs(), 1);
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_not_meant_for_all_is_not_shared() {
    for promise in PROMISES {
        for wish in ["fail-first 16", "fail-first 12"] {
            let shop = Shop::shut();
            let channel = connect(serve(Charges::new(shop.clone()), memory(promise)).await).await;
            let call = || {
                let channel = channel.clone();
                tokio::spawn(async move { create(&channel, keyed("k", wish)).await })
            };

            let first = call();
            shop.until_started(1).await;
            let joined = call();
            shop.until_called(2).await;
            shop.open_door();

            first.await.unwrap().unwrap_err();
            let joined = joined.await.unwrap();
            assert_eq!(replayed(&joined), Some("false"), "{wish}: {joined:?}");
            assert_eq!(joined.unwrap().get_ref().run, 2);
        }
    }
}
