//! Connections of HTTP/1 that are refused, closed, reset and broken off (retry R3, R4, R10).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use steadfast::retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::io::AsyncReadExt;
use tower::Layer;

use super::{
    answer, attempts, config, get, http, hyper_client, marked, over_hyper, post,
    script::{Reserved, Script, Step, answers, says},
    send,
};
use crate::support::{Protocol, within};

/// A layer that has somebody listen once its first attempt has failed.
fn opening(reserved: Reserved, steps: Vec<Step>) -> (RetryLayer, Arc<Mutex<Option<Script>>>) {
    let opened = Arc::new(Mutex::new(None));
    let script = Arc::clone(&opened);
    let closed = Mutex::new(Some((reserved, steps)));
    let layer = http().with_classifier(move |attempted| {
        if attempted.error().is_some()
            && let Some((reserved, steps)) = closed.lock().unwrap().take()
        {
            *script.lock().unwrap() = Some(Script::serve_on(reserved.listen(), steps));
        }
        attempted.verdict()
    });
    (layer, opened)
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_whatever_the_request_does() {
    for method in [Method::GET, Method::POST, Method::PATCH] {
        let reserved = Reserved::port();
        let url = format!("http://{}/charges", reserved.address());
        let (layer, opened) = opening(reserved, vec![answers(201)]);
        let client = layer.layer(hyper_client(Protocol::Http1));
        let mut request = post(&url, "amount=5");
        *request.method_mut() = method.clone();

        let response = answer(&client, request).await;

        assert_eq!(response.status(), StatusCode::CREATED, "{method}");
        assert_eq!(attempts(&response), 2);
        let script = opened.lock().unwrap().take().unwrap();
        assert_eq!(script.requests(), 1);
        assert_eq!(script.seen()[0].body, b"amount=5");
    }
}

#[tokio::test]
async fn a_port_that_stays_shut_fails_with_the_clients_own_error_after_the_last_attempt() {
    let reserved = Reserved::port();
    let tried = Arc::new(Mutex::new(0));
    let count = Arc::clone(&tried);
    let layer = http().with_classifier(move |attempted| {
        *count.lock().unwrap() += 1;
        attempted.verdict()
    });
    let client = layer.layer(hyper_client(Protocol::Http1));

    let url = format!("http://{}/", reserved.address());
    let error = send(&client, post(&url, "amount=5")).await.unwrap_err();

    let _: &hyper_util::client::legacy::Error = &error;
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(*tried.lock().unwrap(), 3);
}

fn put(url: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::put(url).body(Full::from(body)).unwrap()
}

/// Whether each of these requests is sent again after the first connection ended in this way.
async fn ends_before_the_head(end: Step) {
    for what in ["a GET", "a PUT", "a POST", "a marked POST"] {
        let script = Script::serve([end.clone(), answers(201)]).await;
        let client = over_hyper(Protocol::Http1);
        let post = post(&script.url(), "amount=5");
        let request = match what {
            "a GET" => get(&script.url()),
            "a PUT" => put(&script.url(), "amount=5"),
            "a POST" => post,
            _ => marked(post),
        };

        let result = send(&client, request).await;

        if what == "a POST" {
            result.unwrap_err();
            assert_eq!(script.requests(), 1, "{end:?}");
        } else {
            let response = result.unwrap();
            assert_eq!(response.status(), StatusCode::CREATED, "{what}");
            assert_eq!(attempts(&response), 2, "{what}");
            let seen = script.seen();
            assert_eq!(seen.len(), 2, "{what}");
            assert_eq!(
                (&seen[0].head, &seen[0].body),
                (&seen[1].head, &seen[1].body),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn a_connection_that_closes_before_the_head_heals_for_idempotent_requests_alone() {
    ends_before_the_head(Step::Close).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_before_the_head_heals_for_idempotent_requests_alone() {
    ends_before_the_head(Step::Reset).await;
}

#[tokio::test]
async fn a_head_that_breaks_off_counts_as_no_head() {
    let half = Step::AnswerAndClose("HTTP/1.1 201 Cre".to_owned());
    ends_before_the_head(half).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_in_its_body_is_passed_on_as_it_came() {
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly so much";
    let script = Script::serve([Step::AnswerAndClose(broken.to_owned()), answers(200)]).await;
    let client = over_hyper(Protocol::Http1);

    let response = send(&client, get(&script.url())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(RetryOutcome::of(response.extensions()), None);
    let mut body = response.into_body();
    let first = within(body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "only so much");
    let error = within(body.frame()).await.unwrap().unwrap_err();

    assert!(error.is::<hyper::Error>(), "{error:?}");
    assert_eq!(script.requests(), 1);
}

#[tokio::test]
async fn a_failed_answer_that_breaks_off_is_forgotten_with_its_connection() {
    let broken = "HTTP/1.1 503 Off\r\ncontent-length: 100\r\n\r\nonly so much";
    let script = Script::serve([Step::AnswerAndClose(broken.to_owned()), answers(200)]).await;

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "said");
    assert_eq!(script.connections(), 2);
}

#[tokio::test]
async fn the_connection_of_a_short_failed_answer_serves_the_next_attempt() {
    let failed = || Step::Answer(says(503, &[], "come again"));
    let script = Script::serve([failed(), failed(), answers(200)]).await;

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 3);
    assert_eq!(script.requests(), 3);
    assert_eq!(script.connections(), 1);
}

#[tokio::test]
async fn the_connection_of_a_long_failed_answer_is_given_up() {
    let failed = Step::Answer(says(503, &[], &"sorry".repeat(100_000)));
    let script = Script::serve([failed, answers(200)]).await;

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 2);
    assert_eq!(script.connections(), 2);
}

#[tokio::test]
async fn a_failed_answer_whose_body_never_ends_does_not_hold_the_next_attempt_up() {
    let endless = "HTTP/1.1 503 Off\r\ncontent-length: 10\r\n\r\nhalf";
    let script = Script::serve([Step::Answer(endless.to_owned()), answers(200)]).await;

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.connections(), 2);
}

#[tokio::test]
async fn the_last_failed_answer_reaches_the_caller_whole() {
    let failed = |body: &str| Step::Answer(says(503, &["x-why: dinner"], body));
    let script = Script::serve([failed("one"), failed("two"), failed("three")]).await;

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-why"], "dinner");
    assert_eq!(response.body(), "three");
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.attempts(), 3);
    assert_eq!(outcome.stopped_by(), StoppedBy::Attempts);
}

#[tokio::test]
async fn a_connection_that_is_upgraded_goes_to_the_caller() {
    let switching = "HTTP/1.1 101 On\r\nconnection: upgrade\r\nupgrade: bank\r\n\r\nwelcome";
    let switching = Step::AnswerAndClose(switching.to_owned());
    let script = Script::serve([answers(503), switching]).await;
    let mut request = get(&script.url());
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "bank".parse().unwrap());

    let response = send(&over_hyper(Protocol::Http1), request).await.unwrap();

    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
    let mut said = String::new();
    within(TokioIo::new(upgraded).read_to_string(&mut said))
        .await
        .unwrap();
    assert_eq!(said, "welcome");
}

#[tokio::test]
async fn a_head_request_heals_and_keeps_its_connection() {
    let head = |status| {
        Step::Answer(format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: 100\r\n\r\n"
        ))
    };
    let script = Script::serve([head(503), head(200)]).await;
    let mut request = get(&script.url());
    *request.method_mut() = Method::HEAD;

    let response = answer(&over_hyper(Protocol::Http1), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-length"], "100");
    assert_eq!(script.connections(), 1);
}

#[tokio::test]
async fn the_key_layer_marks_a_post_and_all_its_attempts_have_one_key() {
    let script = Script::serve([Step::Close, Step::Reset, answers(201)]).await;
    let client = IdempotencyKeyLayer::new().layer(over_hyper(Protocol::Http1));

    let response = answer(&client, post(&script.url(), "amount=5")).await;

    assert_eq!(response.status(), StatusCode::CREATED);
    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].head.contains("\r\nidempotency-key: "), "{seen:?}");
    for again in &seen[1..] {
        assert_eq!((&again.head, &again.body), (&seen[0].head, &seen[0].body));
    }
}

#[tokio::test]
async fn a_key_that_was_only_sent_is_trusted_where_the_layer_was_told_to() {
    let keyed = |url: &str| {
        let mut request = post(url, "amount=5");
        let headers = request.headers_mut();
        headers.insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let client = hyper_client(Protocol::Http1);

    let script = Script::serve([Step::Close, answers(201)]).await;
    let doubting = http().layer(client.clone());
    send(&doubting, keyed(&script.url())).await.unwrap_err();
    assert_eq!(script.requests(), 1);

    let script = Script::serve([Step::Close, answers(201)]).await;
    let trusting = http().trusting_key_header().layer(client);
    let response = answer(&trusting, keyed(&script.url())).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(script.requests(), 2);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_cut_and_another_one_made() {
    // The server waits for the client to go: it has said half of a head.
    let hang = Step::AnswerEarly("HTTP/1.1 200".to_owned());
    let script = Script::serve([hang, answers(200)]).await;
    let config = config().with_attempt_timeout(Duration::from_millis(500));
    let layer = RetryLayer::http().with_config(config).unwrap();
    let client = layer.layer(hyper_client(Protocol::Http1));

    let response = answer(&client, get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 2);
    script.until_given_up().await;
}

#[tokio::test]
async fn a_call_that_hangs_is_answered_with_504_when_its_deadline_comes() {
    let hang = Step::AnswerEarly(String::new());
    let script = Script::serve([hang]).await;
    let config = RetryConfig::default().with_deadline(Duration::from_millis(100));
    let layer = RetryLayer::http().with_config(config).unwrap();
    let client = layer.layer(hyper_client(Protocol::Http1));

    let response = answer(&client, get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["code"], "deadline-passed");
    assert_eq!(script.requests(), 1);
    script.until_given_up().await;
}

#[tokio::test]
async fn servers_are_told_the_number_of_the_attempt_in_the_header_that_was_named() {
    let script = Script::serve([answers(503), answers(503), answers(200)]).await;
    let config = config().with_attempt_header("x-attempt".parse().unwrap());
    let layer = RetryLayer::http().with_config(config).unwrap();

    answer(
        &layer.layer(hyper_client(Protocol::Http1)),
        get(&script.url()),
    )
    .await;

    let told = script.seen().into_iter().map(|seen| {
        let line = seen.head.lines().find(|line| line.starts_with("x-attempt"));
        line.map(str::to_owned)
    });
    let expected = [None, Some("x-attempt: 1"), Some("x-attempt: 2")];
    let expected = expected.map(|line| line.map(str::to_owned));
    assert_eq!(told.collect::<Vec<_>>(), expected);
}
