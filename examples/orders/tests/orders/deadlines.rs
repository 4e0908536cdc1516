//! How long a caller waits is known on both sides.

use std::time::Duration;

use http::request::Parts;
use orders::{
    Deps,
    client::Limits,
    methods::{PLACE_ORDER, WATCH_ORDER},
    proto::WatchOrderRequest,
};
use steadfast::http::grpc;
use tonic::{Code, Request};

use crate::server::{LIMIT, Running, clients, deps, keyed, limits, replayed, tea, within};

/// What the server was told of the time that is left, attempt by attempt.
fn told(heads: &[Parts]) -> Vec<Option<Duration>> {
    let timeouts = heads.iter().map(|head| grpc::timeout(&head.headers));
    timeouts.collect()
}

#[tokio::test]
async fn each_attempt_tells_the_server_what_is_left_of_the_callers_time() {
    let mut deps = deps().await;
    deps.faults.fail_first = 2;
    let server = Running::start(deps).await;
    let mut request = Request::new(tea());
    request.set_timeout(Duration::from_secs(8));

    within(server.clients().unary.place_order(request))
        .await
        .unwrap();

    let told = told(&server.heads.of(PLACE_ORDER));
    assert_eq!(told.len(), 3);
    assert!(told[0].unwrap() <= Duration::from_secs(8), "{told:?}");
    // The third attempt comes after a wait.
    assert!(told[1] < told[0] && told[2] < told[1], "{told:?}");
}

#[tokio::test]
async fn a_caller_that_says_nothing_has_the_deadline_of_the_client() {
    let mut deps = deps().await;
    deps.faults.fail_first = 2;
    let server = Running::start(deps).await;
    let limits = Limits {
        deadline: Duration::from_secs(8),
        attempt_timeout: Duration::from_secs(8),
        ..limits()
    };

    within(clients(server.address, &limits).unary.place_order(tea()))
        .await
        .unwrap();

    let told = told(&server.heads.of(PLACE_ORDER));
    assert_eq!(told.len(), 3);
    assert!(told[0].unwrap() <= limits.deadline, "{told:?}");
    assert!(told[1] < told[0] && told[2] < told[1], "{told:?}");
}

#[tokio::test]
async fn an_attempt_has_no_more_time_than_its_own_limit() {
    let server = Running::start(deps().await).await;
    let limits = Limits {
        attempt_timeout: Duration::from_secs(4),
        ..limits()
    };

    within(clients(server.address, &limits).unary.place_order(tea()))
        .await
        .unwrap();

    let told = told(&server.heads.of(PLACE_ORDER));
    assert_eq!(told.len(), 1);
    assert!(told[0].unwrap() <= limits.attempt_timeout, "{told:?}");
}

#[tokio::test]
async fn a_stream_has_no_limit_unless_its_caller_says_so() {
    let server = Running::start(deps().await).await;
    let mut client = server.clients().streams;

    let watch = WatchOrderRequest::default();
    within(client.watch_order(watch)).await.unwrap_err();

    assert_eq!(told(&server.heads.of(WATCH_ORDER)), [None]);
}

#[tokio::test]
async fn work_that_cannot_be_finished_in_time_is_not_begun_and_its_key_is_free() {
    let slow = Deps {
        work_time: LIMIT * 10,
        ..deps().await
    };
    let quick = Deps {
        store: slow.store.clone(),
        orders: slow.orders.clone(),
        ..deps().await
    };
    let slow = Running::start(slow).await;
    let quick = Running::start(quick).await;
    let in_a_minute = || {
        let mut request = keyed("k", tea());
        request.set_timeout(Duration::from_secs(60));
        request
    };

    let refused = within(slow.plain().place_order(in_a_minute())).await;
    let placed = within(quick.plain().place_order(in_a_minute())).await;

    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(refused.message().contains("did nothing"), "{refused}");
    // The record of the first is gone: otherwise this were its second execution.
    let placed = placed.unwrap();
    assert_eq!(replayed(&placed), Some("false"));
    assert_eq!(placed.metadata().get("order-execution").unwrap(), "1");
}

#[tokio::test]
async fn a_call_that_comes_too_late_leaves_the_record_of_its_key_as_it_was() {
    let slow = Deps {
        work_time: LIMIT * 10,
        ..deps().await
    };
    let quick = Deps {
        store: slow.store.clone(),
        orders: slow.orders.clone(),
        ..deps().await
    };
    let slow = Running::start(slow).await;
    let quick = Running::start(quick).await;
    let mut client = quick.plain();
    let placed = within(client.place_order(keyed("k", tea()))).await.unwrap();

    let mut request = keyed("k", tea());
    request.set_timeout(LIMIT);
    let late = within(slow.plain().place_order(request)).await;
    let again = within(client.place_order(keyed("k", tea()))).await.unwrap();

    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(replayed(&again), Some("true"));
    assert_eq!(again.into_inner(), placed.into_inner());
}
