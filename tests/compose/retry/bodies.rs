//! Bodies of requests that are sent again (retry R9).

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use steadfast::retry::{RetryLayer, RetryOutcome, StoppedBy};
use tokio::sync::mpsc;
use tower::Layer;

use super::{
    answer, attempts, config, http2, hyper_client, marked, over_hyper, post,
    script::{Script, Step, answers, says},
    send,
};
use crate::support::{Protocol, eventually, within};

type Streamed = UnsyncBoxBody<Bytes, Infallible>;

/// A body whose length nobody knows.
fn streamed(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Streamed {
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn parts() -> [Frame<Bytes>; 3] {
    ["amount=", "5&currency=", "EUR"].map(|part| Frame::data(Bytes::from_static(part.as_bytes())))
}

const WHOLE: &[u8] = b"amount=5&currency=EUR";

/// A body that comes as its sender likes.
fn sent() -> (mpsc::UnboundedSender<&'static str>, Streamed) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = stream::unfold(receiver, async |mut receiver| {
        let part: &'static str = receiver.recv().await?;
        Some((
            Ok(Frame::data(Bytes::from_static(part.as_bytes()))),
            receiver,
        ))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn put<B>(url: &str, body: B) -> Request<B> {
    Request::put(url).body(body).unwrap()
}

#[tokio::test]
async fn a_body_of_known_length_has_the_same_head_and_bytes_on_every_attempt() {
    let script = Script::serve([answers(503), Step::Close, answers(200)]).await;
    let request = marked(post(&script.url(), WHOLE));

    let response = answer(&over_hyper(Protocol::Http1), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_same(&script, "content-length: 21");
}

#[tokio::test]
async fn a_body_of_unknown_length_has_the_same_head_and_bytes_on_every_attempt() {
    let script = Script::serve([answers(503), Step::Close, answers(200)]).await;
    let request = put(&script.url(), streamed(parts()));

    let response = answer(&over_hyper(Protocol::Http1), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_same(&script, "transfer-encoding: chunked");
}

fn assert_same(script: &Script, framing: &str) {
    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].head.contains(framing), "{seen:?}");
    for attempt in &seen {
        assert_eq!(attempt.head, seen[0].head);
        assert_eq!(attempt.body, WHOLE);
    }
}

#[tokio::test]
async fn a_request_without_a_body_is_framed_alike_on_every_attempt() {
    let script = Script::serve([answers(503), answers(503), answers(200)]).await;

    answer(&over_hyper(Protocol::Http1), super::get(&script.url())).await;

    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    for attempt in &seen {
        assert_eq!(attempt.head, seen[0].head);
        assert!(!attempt.head.contains("content-length"));
        assert!(!attempt.head.contains("transfer-encoding"));
    }
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_costs_no_byte_of_it() {
    let early = Step::AnswerEarly(says(503, &["connection: close"], "too much"));
    let script = Script::serve([early, answers(200)]).await;
    let client = over_hyper(Protocol::Http1);

    let request = put(&script.url(), streamed(parts()));
    let response = answer(&client, request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.seen()[1].body, WHOLE);
    script.until_given_up().await;
}

#[tokio::test]
async fn a_body_that_is_still_being_written_is_taken_over_by_the_next_attempt() {
    let early = Step::AnswerEarly(says(503, &[], "too much"));
    let script = Script::serve([early, answers(200)]).await;
    let client = over_hyper(Protocol::Http1);
    let (sender, body) = sent();
    sender.send("amount=").unwrap();

    let request = put(&script.url(), body);
    let response = tokio::spawn(async move { answer(&client, request).await });
    // The first attempt has failed with one part sent; the others do not exist yet.
    eventually("the second attempt connects", || script.connections() == 2).await;
    sender.send("5&currency=").unwrap();
    sender.send("EUR").unwrap();
    drop(sender);

    let response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 2);
    let seen = script.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].body, WHOLE);
    script.until_given_up().await;
}

/// What a server of HTTP/2 got in one call.
#[derive(Debug, Default, PartialEq)]
struct Got {
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// Answers 503 to so many calls as soon as their head comes, and to later ones when it has all of them.
async fn early_http2(early: usize) -> (String, Arc<Mutex<Vec<Got>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let got = Arc::clone(&all);
    let url = http2::serve(move |mut call| {
        let got = Arc::clone(&got);
        async move {
            if call.number < early {
                got.lock().unwrap().push(Got::default());
                return call.answer(StatusCode::SERVICE_UNAVAILABLE);
            }
            let body = call.body().await;
            let trailers = call.request.body_mut().trailers().await.unwrap();
            got.lock().unwrap().push(Got { body, trailers });
            call.answer(StatusCode::OK);
        }
    })
    .await;
    (url, all)
}

#[tokio::test]
async fn over_http2_too_an_early_answer_costs_no_byte() {
    let (url, got) = early_http2(1).await;

    let request = put(&url, streamed(parts()));
    let response = answer(&over_hyper(Protocol::Http2), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(got.lock().unwrap()[1].body, WHOLE);
}

#[tokio::test]
async fn over_http2_too_a_body_that_is_still_being_written_is_taken_over() {
    let (url, got) = early_http2(1).await;
    let client = over_hyper(Protocol::Http2);
    let (sender, body) = sent();
    sender.send("amount=").unwrap();

    let request = put(&url, body);
    let sending = client.clone();
    let response = tokio::spawn(async move { answer(&sending, request).await });
    eventually("the first attempt fails", || {
        !got.lock().unwrap().is_empty()
    })
    .await;
    sender.send("5&currency=").unwrap();
    sender.send("EUR").unwrap();
    drop(sender);

    let response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(got.lock().unwrap()[1].body, WHOLE);
    let next = answer(&client, put(&url, streamed(parts()))).await;
    assert_eq!(next.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_early_answers_left_unread_does_not_stop_the_connection() {
    // More in sum than the window of the connection, which is 64 KiB.
    let (url, got) = early_http2(2).await;
    let body: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
    let frames = body
        .chunks(1_000)
        .map(|part| Frame::data(Bytes::copy_from_slice(part)));

    let request = put(&url, streamed(frames));
    let response = answer(&over_hyper(Protocol::Http2), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 3);
    assert!(got.lock().unwrap()[2].body == body);
}

#[tokio::test]
async fn a_body_that_fails_ends_the_call_though_its_error_looks_like_that_of_a_connection() {
    let failing = || {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let frames = parts().map(Ok).into_iter().chain([Err(reset)]);
        StreamBody::new(stream::iter(frames))
    };

    let script = Script::serve([answers(200)]).await;
    let client = over_hyper(Protocol::Http1);
    let request = put(&script.url(), failing());
    send(&client, request).await.unwrap_err();
    assert_eq!((script.connections(), script.requests()), (1, 0));

    let heads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heads);
    let url = http2::serve(move |mut call| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { while let Some(Ok(_)) = call.request.body_mut().data().await {} }
    })
    .await;
    let client = over_hyper(Protocol::Http2);
    send(&client, put(&url, failing())).await.unwrap_err();
    assert!(heads.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn trailers_arrive_on_the_second_attempt_too() {
    let got = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&got);
    let url = http2::serve(move |mut call| {
        let all = Arc::clone(&all);
        async move {
            let body = call.body().await;
            let trailers = call.request.body_mut().trailers().await.unwrap();
            all.lock().unwrap().push(Got { body, trailers });
            call.answer(if call.number == 0 {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            });
        }
    })
    .await;
    let trailers = HeaderMap::from_iter([
        ("checksum".parse().unwrap(), "21".parse().unwrap()),
        ("note".parse().unwrap(), "one".parse().unwrap()),
        ("note".parse().unwrap(), "two".parse().unwrap()),
    ]);
    let frames = parts()
        .into_iter()
        .chain([Frame::trailers(trailers.clone())]);

    let request = put(&url, streamed(frames));
    let response = answer(&over_hyper(Protocol::Http2), request).await;

    assert_eq!(response.status(), StatusCode::OK);
    let got = got.lock().unwrap();
    assert_eq!(got.len(), 2);
    for got in &*got {
        assert_eq!(got.body, WHOLE);
        assert_eq!(got.trailers.as_ref(), Some(&trailers));
    }
}

#[tokio::test]
async fn a_body_past_the_limit_arrives_whole_and_is_not_sent_again() {
    let layer = RetryLayer::http().with_config(config().with_replay_limit(20));
    let layer = layer.unwrap();

    let script = Script::serve([answers(503), answers(200)]).await;
    let client = layer.layer(hyper_client(Protocol::Http1));
    let response = answer(&client, put(&script.url(), streamed(parts()))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.stopped_by(), StoppedBy::Body);
    assert_eq!(script.requests(), 1);
    assert_eq!(script.seen()[0].body, WHOLE);

    // One that tells its length passes untouched.
    let script = Script::serve([answers(503), answers(200)]).await;
    let client = layer.layer(hyper_client(Protocol::Http1));
    let response = answer(&client, marked(post(&script.url(), WHOLE))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.stopped_by(), StoppedBy::Body);
    assert_eq!(script.requests(), 1);
    assert_eq!(script.seen()[0].body, WHOLE);
}

#[tokio::test]
async fn a_large_body_within_its_limit_is_sent_again_byte_for_byte() {
    let body: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
    for protocol in Protocol::ALL {
        let frames = body
            .chunks(1_000)
            .map(|part| Frame::data(Bytes::copy_from_slice(part)));
        let got = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&got);
        let app = axum::Router::new().fallback(async move |body: Bytes| {
            let mut all = all.lock().unwrap();
            all.push(body);
            if all.len() < 3 {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            }
        });
        let url = format!("http://{}/", crate::support::serve(app).await);

        let request = put(&url, streamed(frames));
        let response = answer(&over_hyper(protocol), request).await;

        assert_eq!(response.status(), StatusCode::OK);
        let got = got.lock().unwrap();
        assert_eq!(got.len(), 3);
        assert!(got.iter().all(|got| *got == body));
    }
}
