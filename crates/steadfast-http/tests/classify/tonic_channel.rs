//! tonic's channel.

use std::{net::SocketAddr, time::Duration};

use http::Request;
use steadfast_core::verdict::Verdict;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint, Error},
};
use tower::ServiceExt;

use crate::support::{
    ELAPSED, FailingBody, THROTTLED, TRANSIENT, Then, UNPROCESSED, assert_verdict, http2, nobody,
};

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

async fn send(channel: Channel, body: Body) -> Error {
    let request = Request::post("/payments.Payments/Charge")
        .body(body)
        .unwrap();
    channel.oneshot(request).await.unwrap_err()
}

async fn error_of(address: SocketAddr) -> Error {
    send(endpoint(address).connect_lazy(), Body::empty()).await
}

#[tokio::test]
async fn a_refused_connection_was_not_processed() {
    assert_verdict(&error_of(nobody().await).await, UNPROCESSED);
}

#[tokio::test]
async fn a_refused_connection_was_not_processed_behind_a_status_either() {
    let status = Status::from_error(error_of(nobody().await).await.into());

    assert_verdict(&status, UNPROCESSED);
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_is_no_proof() {
    let address = http2(1, Then::Close).await;

    assert_verdict(&error_of(address).await, TRANSIENT);
}

#[tokio::test]
async fn a_reset_stream_is_known_by_its_reason() {
    for (reason, expected) in [
        (h2::Reason::REFUSED_STREAM, UNPROCESSED),
        (h2::Reason::CANCEL, TRANSIENT),
        (h2::Reason::ENHANCE_YOUR_CALM, THROTTLED),
    ] {
        let address = http2(1, Then::Reset(reason)).await;

        assert_verdict(&error_of(address).await, expected);
    }
}

#[tokio::test]
async fn a_graceful_goaway_is_proof_for_the_streams_above_its_id_alone() {
    for (last_id, expected) in [(0, UNPROCESSED), (1, TRANSIENT)] {
        let address = http2(1, Then::GoAway(last_id, h2::Reason::NO_ERROR)).await;

        assert_verdict(&error_of(address).await, expected);
    }
}

#[tokio::test]
async fn a_request_body_that_fails_says_nothing_about_the_destination() {
    let address = http2(1, Then::Silence).await;

    let error = send(endpoint(address).connect_lazy(), Body::new(FailingBody)).await;

    assert_verdict(&error, Verdict::Ignored);
}

#[tokio::test]
async fn a_timeout_of_the_endpoint_has_elapsed() {
    let address = http2(1, Then::Silence).await;
    let endpoint = endpoint(address).timeout(Duration::from_millis(20));

    let error = send(endpoint.connect_lazy(), Body::empty()).await;

    assert_verdict(&error, ELAPSED);
}
