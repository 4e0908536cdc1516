//! One key is one order. The clients are plain ones: this is the server's promise to everybody.

use http::HeaderMap;
use orders::{
    Deps,
    proto::{CancelOrderRequest, GetOrderRequest, PlaceOrderRequest, State},
};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::server::{Running, deps, keyed, list, plain, replayed, tea, within};

/// What is the same in each answer of an operation: headers and trailers, but for the marker and the moment.
fn lasting(metadata: &MetadataMap) -> HeaderMap {
    let mut headers = metadata.clone().into_headers();
    headers.remove("idempotent-replayed");
    headers.remove("date");
    headers
}

#[track_caller]
fn assert_refused(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains(reason), "{status:?}");
}

#[tokio::test]
async fn the_same_key_twice_is_one_order_and_one_answer_with_its_trailers() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();

    let first = within(client.place_order(keyed("k", tea()))).await.unwrap();
    let again = within(client.place_order(keyed("k", tea()))).await.unwrap();

    assert_eq!(replayed(&first), Some("false"));
    assert_eq!(replayed(&again), Some("true"));
    assert_eq!(again.get_ref(), first.get_ref());
    assert_eq!(first.metadata().get("order-execution").unwrap(), "1");
    assert_eq!(first.metadata().get("grpc-status").unwrap(), "0");
    assert_eq!(lasting(again.metadata()), lasting(first.metadata()));
    assert_eq!(list(&mut client).await, [first.into_inner()]);
}

#[tokio::test]
async fn a_refusal_is_the_answer_of_its_key_too() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();
    let nothing = PlaceOrderRequest {
        quantity: 0,
        ..tea()
    };

    let first = within(client.place_order(keyed("k", nothing.clone()))).await;
    let again = within(client.place_order(keyed("k", nothing))).await;

    let (first, again) = (first.unwrap_err(), again.unwrap_err());
    assert_eq!(first.code(), Code::InvalidArgument);
    assert_eq!(again.code(), Code::InvalidArgument);
    assert_eq!(again.message(), first.message());
    assert_eq!(lasting(again.metadata()), lasting(first.metadata()));
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();
    let placed = within(client.place_order(keyed("k", tea()))).await.unwrap();
    let more = PlaceOrderRequest {
        quantity: 3,
        ..tea()
    };

    let refused = within(client.place_order(keyed("k", more))).await;

    assert_refused(
        &refused.unwrap_err(),
        Code::FailedPrecondition,
        "KEY_REUSED",
    );
    assert_eq!(list(&mut client).await, [placed.into_inner()]);
}

#[tokio::test]
async fn both_methods_that_change_something_need_a_key() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();

    let placed = within(client.place_order(tea())).await;
    let cancelled = within(client.cancel_order(CancelOrderRequest::default())).await;

    for refused in [placed, cancelled] {
        assert_refused(&refused.unwrap_err(), Code::InvalidArgument, "MISSING_KEY");
    }
}

#[tokio::test]
async fn an_order_is_cancelled_once_and_only_its_key_is_told_so_again() {
    let server = Running::start(deps().await).await;
    let mut client = server.plain();
    let order = within(client.place_order(keyed("k", tea()))).await.unwrap();
    let cancel = CancelOrderRequest {
        id: order.into_inner().id,
    };

    for marker in ["false", "true"] {
        let cancelled = within(client.cancel_order(keyed("c", cancel.clone()))).await;
        let cancelled = cancelled.unwrap();
        assert_eq!(replayed(&cancelled), Some(marker));
        assert_eq!(cancelled.get_ref().state(), State::Cancelled);
    }
    let by_another = within(client.cancel_order(keyed("d", cancel))).await;

    assert_eq!(
        by_another.unwrap_err().message(),
        "another call has cancelled this order before"
    );
}

#[tokio::test]
async fn two_accounts_with_one_key_have_an_order_each_and_do_not_see_the_others() {
    let server = Running::start(deps().await).await;
    let mut ours = plain(server.address, "sk_ours");
    let mut theirs = plain(server.address, "sk_theirs");

    let our_order = within(ours.place_order(keyed("k", tea()))).await.unwrap();
    let their_order = within(theirs.place_order(keyed("k", tea()))).await.unwrap();

    let id = our_order.into_inner().id;
    assert_ne!(their_order.get_ref().id, id);
    assert_eq!(list(&mut theirs).await, [their_order.into_inner()]);
    let stolen = within(theirs.get_order(GetOrderRequest { id: id.clone() })).await;
    assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
    let stolen = within(theirs.cancel_order(keyed("c", CancelOrderRequest { id }))).await;
    assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_stranger_is_refused_and_claims_no_key() {
    let server = Running::start(deps().await).await;
    let mut stranger = plain(server.address, "");

    let refused = within(stranger.place_order(keyed("k", tea()))).await;
    let placed = within(server.plain().place_order(keyed("k", tea()))).await;

    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(replayed(&placed.unwrap()), Some("false"));
}

#[tokio::test]
async fn an_execution_that_nobody_remembers_finds_what_was_done() {
    let first = deps().await;
    let orders = first.orders.clone();
    // Servers with a store of their own, on one table.
    let on_the_table = async || {
        let orders = orders.clone();
        Running::start(Deps {
            orders,
            ..deps().await
        })
        .await
    };
    let server = Running::start(first).await;

    let placed = within(server.plain().place_order(keyed("k", tea()))).await;
    let order = placed.unwrap().into_inner();
    let mut client = on_the_table().await.plain();
    let found = within(client.place_order(keyed("k", tea()))).await.unwrap();
    assert_eq!(replayed(&found), Some("false"));
    assert_eq!(found.into_inner(), order);

    let more = PlaceOrderRequest {
        quantity: 3,
        ..tea()
    };
    let mut client = on_the_table().await.plain();
    let refused = within(client.place_order(keyed("k", more))).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(list(&mut client).await, std::slice::from_ref(&order));

    let cancel = CancelOrderRequest { id: order.id };
    for _ in 0..2 {
        let mut client = on_the_table().await.plain();
        let cancelled = within(client.cancel_order(keyed("c", cancel.clone()))).await;
        assert_eq!(replayed(&cancelled.unwrap()), Some("false"));
    }
}
