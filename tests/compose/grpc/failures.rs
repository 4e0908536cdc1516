//! What a gRPC client is told when there is no answer to keep.

use std::time::Duration;

use http::Method;
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyHandle, Promise},
    store::MemoryStore,
};
use tonic::{Code, transport::Channel};

use super::{
    client::{assert_refused, call_raw, connect, create, grpc, keyed, order, replayed},
    config, memory,
    shop::{CREATE, Charges, Shop, serve},
};
use crate::support::{PROMISES, layer, until_done};

/// The codes whose outcome is unknown.
const UNKNOWN: [i32; 8] = [1, 2, 4, 8, 10, 13, 14, 15];

/// The codes that come before any execution.
const RELEASED: [i32; 2] = [12, 16];

#[tokio::test]
async fn a_missing_or_malformed_key_is_an_invalid_argument() {
    let shop = Shop::open();
    let channel =
        connect(serve(Charges::new(shop.clone()), memory(Promise::AtMostOnce)).await).await;

    let missing = create(&channel, tonic::Request::new(order(""))).await;
    let malformed = create(&channel, keyed("\"half", "")).await;

    assert_refused(
        &missing.unwrap_err(),
        Code::InvalidArgument,
        "MISSING_KEY",
        Some("-1"),
    );
    assert_refused(
        &malformed.unwrap_err(),
        Code::InvalidArgument,
        "MALFORMED_KEY",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_for_good() {
    let shop = Shop::open();
    let config = config().with_body_limit(10);
    let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;

    let refused = create(&channel, keyed("k", "more than ten bytes")).await;

    assert_refused(
        &refused.unwrap_err(),
        Code::ResourceExhausted,
        "BODY_TOO_LARGE",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 0);
}

#[tokio::test]
async fn an_unknown_outcome_is_executed_again_where_that_was_promised() {
    for code in UNKNOWN {
        let shop = Shop::open();
        let layer = memory(Promise::AtLeastOnce);
        let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
        let wish = format!("fail-first {code}");

        let first = create(&channel, keyed("k", &wish)).await;
        let again = create(&channel, keyed("k", &wish)).await;

        assert_eq!(first.unwrap_err().code(), Code::from_i32(code));
        assert_eq!(replayed(&again), Some("false"));
        assert_eq!(again.unwrap().get_ref().run, 2);
    }
}

#[tokio::test]
async fn an_unknown_outcome_stays_so_under_at_most_once() {
    for code in UNKNOWN {
        let shop = Shop::open();
        let layer = memory(Promise::AtMostOnce);
        let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
        let wish = format!("fail-first {code}");

        let first = create(&channel, keyed("k", &wish)).await;
        let again = create(&channel, keyed("k", &wish)).await;

        assert_eq!(first.unwrap_err().code(), Code::from_i32(code));
        assert_refused(
            &again.unwrap_err(),
            Code::FailedPrecondition,
            "OUTCOME_UNKNOWN",
            Some("-1"),
        );
        assert_eq!(shop.runs(), 1);
    }
}

#[tokio::test]
async fn a_status_that_comes_before_execution_frees_the_key() {
    for promise in PROMISES {
        for code in RELEASED {
            let shop = Shop::open();
            let channel = connect(serve(Charges::new(shop.clone()), memory(promise)).await).await;
            let wish = format!("fail-first {code}");

            let first = create(&channel, keyed("k", &wish)).await;
            let again = create(&channel, keyed("k", &wish)).await;

            assert_eq!(first.unwrap_err().code(), Code::from_i32(code));
            assert_eq!(again.unwrap().get_ref().run, 2);
        }
    }
}

#[tokio::test]
async fn a_running_call_is_told_as_unavailable_with_a_pushback() {
    let shop = Shop::shut();
    let config = config()
        .with_wait(Duration::ZERO)
        .with_retry_after(Duration::from_millis(250));
    let layer = layer(Promise::AtMostOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
    let first = tokio::spawn({
        let channel = channel.clone();
        async move { create(&channel, keyed("k", "")).await }
    });
    shop.until_started(1).await;

    let duplicate = create(&channel, keyed("k", "")).await;

    assert_refused(
        &duplicate.unwrap_err(),
        Code::Unavailable,
        "IN_PROGRESS",
        Some("250"),
    );
    shop.open_door();
    first.await.unwrap().unwrap();
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_call_whose_deadline_passed_goes_on_and_is_answered_later() {
    for promise in PROMISES {
        let (shop, handle, channel) = cut_by_its_deadline(promise).await;

        shop.open_door();
        until_done(&handle).await;
        let again = create(&channel, keyed("k", "")).await;

        assert_eq!(replayed(&again), Some("true"));
        assert_eq!(again.unwrap().get_ref().run, 1);
        assert_eq!(shop.runs(), 1);
    }
}

/// A shop with the door shut, and a call in its handler whose deadline has passed. A deadline that was too short for the call to
/// come so far is tried again in another shop, four times as long.
async fn cut_by_its_deadline(promise: Promise) -> (Shop, IdempotencyHandle<MemoryStore>, Channel) {
    let mut deadline = Duration::from_millis(200);
    while deadline < Duration::from_secs(60) {
        let shop = Shop::shut();
        let layer = memory(promise);
        let handle = layer.handle();
        let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;
        let mut hurried = keyed("k", "");
        hurried.set_timeout(deadline);

        let code = create(&channel, hurried).await.unwrap_err().code();

        assert!(
            matches!(code, Code::Cancelled | Code::DeadlineExceeded),
            "{code:?}"
        );
        if shop.runs() == 1 {
            return (shop, handle, channel);
        }
        deadline *= 4;
    }
    panic!("no call came to the handler before its deadline");
}

#[tokio::test]
async fn a_panic_leaves_what_the_promise_says() {
    let shop = Shop::open();
    let layer = memory(Promise::AtMostOnce);
    let address = serve(Charges::new(shop.clone()), layer).await;

    // It costs the connection, as a panic behind tonic does.
    let first = create(&connect(address).await, keyed("k", "panic")).await;
    let again = create(&connect(address).await, keyed("k", "panic")).await;

    assert!(first.is_err());
    assert_refused(
        &again.unwrap_err(),
        Code::FailedPrecondition,
        "OUTCOME_UNKNOWN",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn neither_a_content_type_nor_a_method_leads_around_the_layer() {
    let shop = Shop::open();
    let address = serve(Charges::new(shop.clone()), memory(Promise::AtMostOnce)).await;

    for (run, content_type, method) in [
        (1, "application/grpc+proto", Method::POST),
        (2, "application/json", Method::POST),
        (3, "text/plain", Method::POST),
        (4, "application/grpc", Method::PUT),
        (5, "application/grpc", Method::GET),
    ] {
        let call = async |key: Option<&str>| {
            let mut head = grpc(CREATE).method(method.clone());
            let headers = head.headers_mut().unwrap();
            headers.insert("content-type", content_type.parse().unwrap());
            if let Some(key) = key {
                headers.insert("idempotency-key", key.parse().unwrap());
            }
            call_raw(address, head, &order("")).await.head
        };

        let without_key = call(None).await;
        let key = run.to_string();
        let (first, again) = (call(Some(&key)).await, call(Some(&key)).await);

        assert!(
            !without_key.headers.contains_key("idempotent-replayed"),
            "{content_type} {method}: {without_key:?}"
        );
        assert_eq!(first.headers["idempotent-replayed"], "false");
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(shop.runs(), run, "{content_type} {method}");
    }
}

#[tokio::test]
async fn a_large_answer_is_given_once_and_never_executed_again() {
    let shop = Shop::open();
    let config: IdempotencyConfig = config().with_response_limit(1_000);
    let layer = layer(Promise::AtLeastOnce, MemoryStore::default(), config);
    let channel = connect(serve(Charges::new(shop.clone()), layer).await).await;

    let first = create(&channel, keyed("k", "large 100000")).await;
    let again = create(&channel, keyed("k", "large 100000")).await;

    assert_eq!(replayed(&first), Some("false"));
    assert_eq!(first.unwrap().get_ref().padding.len(), 100_000);
    assert_refused(
        &again.unwrap_err(),
        Code::FailedPrecondition,
        "RESPONSE_NOT_RETAINED",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 1);
}
