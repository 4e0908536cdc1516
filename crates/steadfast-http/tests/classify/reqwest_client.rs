//! reqwest.

use std::time::Duration;

use reqwest::{Body, Client, Error};
use steadfast_core::verdict::Verdict;

use crate::support::{
    ELAPSED, FailingBody, PERMANENT, TRANSIENT, answers, assert_verdict, nobody, silent,
};

async fn post(url: String) -> Error {
    Client::new().post(url).send().await.unwrap_err()
}

fn response(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n")
}

#[tokio::test]
async fn a_refused_connection_is_no_proof_as_it_may_be_that_of_a_redirect() {
    let error = post(format!("http://{}/charges", nobody().await)).await;
    assert!(error.is_connect());
    assert_verdict(&error, TRANSIENT);

    let location = format!("location: http://{}/receipts/1\r\n", nobody().await);
    let charged = answers(response("303 See Other", &location)).await;
    let error = post(format!("http://{charged}/charges")).await;
    assert!(error.is_connect());
    assert_verdict(&error, TRANSIENT);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_head_is_no_proof() {
    let address = answers(String::new()).await;

    assert_verdict(&post(format!("http://{address}/charges")).await, TRANSIENT);
}

#[tokio::test]
async fn a_timeout_has_elapsed() {
    let client = Client::builder()
        .timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    let url = format!("http://{}/charges", silent().await);

    let error = client.post(url).send().await.unwrap_err();

    assert_verdict(&error, ELAPSED);
}

#[tokio::test]
async fn a_request_that_cannot_be_built_says_nothing_about_the_destination() {
    let error = post("mailto:charges@example.com".to_owned()).await;

    assert_verdict(&error, Verdict::Ignored);
}

#[tokio::test]
async fn a_request_body_that_fails_says_nothing_about_the_destination() {
    let url = format!("http://{}/charges", silent().await);
    let request = Client::new().post(url).body(Body::wrap(FailingBody));

    let error = request.send().await.unwrap_err();

    assert_verdict(&error, Verdict::Ignored);
}

#[tokio::test]
async fn redirects_without_an_end_are_permanent() {
    let address = answers(response("307 Temporary Redirect", "location: /charges\r\n")).await;

    let error = post(format!("http://{address}/charges")).await;

    assert!(error.is_redirect(), "{error:?}");
    assert_verdict(&error, PERMANENT);
}

#[tokio::test]
async fn a_status_that_was_made_an_error_keeps_its_meaning() {
    for (status, expected) in [
        ("503 Service Unavailable", TRANSIENT),
        ("501 Not Implemented", PERMANENT),
        ("404 Not Found", Verdict::Success),
    ] {
        let address = answers(response(status, "content-length: 0\r\n")).await;
        let url = format!("http://{address}/charges");
        let response = Client::new().get(url).send().await.unwrap();

        let error = response.error_for_status().unwrap_err();

        assert_verdict(&error, expected);
    }
}

#[tokio::test]
async fn a_body_that_was_cut_off_is_transient() {
    let address = answers(response("200 OK", "content-length: 10\r\n")).await;
    let url = format!("http://{address}/charges");
    let response = Client::new().get(url).send().await.unwrap();

    let error = response.bytes().await.unwrap_err();

    assert_verdict(&error, TRANSIENT);
}
