//! Answers of the provider that have no end, or break off: what one of them may cost.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, body::Body, response::IntoResponse, routing::post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use payments::config::ProviderLimits;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::in_process::{ONE_ATTEMPT, app_with, charge, problem, send, serve_provider};

const MADE: &str = r#"{"id": "pr_1", "amount": 5, "at": 1}"#;

/// A provider that answers each call as `answer` says, which is told how many came before.
async fn provider(
    answer: impl Fn(usize) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (reqwest::Url, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let charge = async move || answer(counted.fetch_add(1, Ordering::SeqCst));
    let url = serve_provider(Router::new().route("/charges", post(charge))).await;
    (url, calls)
}

/// Both streams end: without a limit the test fails, and costs nobody his memory.
#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read_to_its_end() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let (url, calls) = provider(move |_| {
        // Space before a charge, which JSON permits.
        let counted = Arc::clone(&counted);
        let pieces = (0..=PIECES).map(move |number| {
            counted.fetch_add(1, Ordering::SeqCst);
            let piece = if number == PIECES {
                Bytes::from_static(MADE.as_bytes())
            } else {
                Bytes::from_static(&[b' '; PIECE])
            };
            Ok::<_, Infallible>(piece)
        });
        Response::builder()
            .status(201)
            .body(Body::from_stream(stream::iter(pieces)))
            .unwrap()
    })
    .await;
    let limits = ProviderLimits {
        provider_attempts: 3,
        ..ONE_ATTEMPT
    };
    let app = app_with(&url, limits).await;

    let answer = send(&app.router, charge()).await;

    assert_eq!(problem(&answer), (503, "provider-error".into(), true));
    assert_eq!(
        calls.load(Ordering::SeqCst),
        1,
        "it would be as large again"
    );
    // What the sockets between hold is some megabytes.
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < PIECES / 2, "{sent} pieces were taken");
}

/// Each byte comes in time, and the whole never does.
#[tokio::test]
async fn an_answer_that_drips_has_the_time_of_one_attempt_and_opens_the_circuit() {
    let (url, calls) = provider(|_| {
        let drip = stream::repeat(()).then(async |()| {
            sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(Bytes::from_static(b" "))
        });
        Response::builder()
            .status(201)
            .body(Body::from_stream(drip))
            .unwrap()
    })
    .await;
    let limits = ProviderLimits {
        provider_attempts: 2,
        provider_timeout: Duration::from_millis(500),
        breaker_failures: 2,
        ..ONE_ATTEMPT
    };
    let app = app_with(&url, limits).await;
    let begun = Instant::now();

    let answer = tokio::time::timeout(Duration::from_secs(20), send(&app.router, charge())).await;
    let answer = answer.expect("the charge is held for as long as it drips");
    let next = send(&app.router, charge()).await;

    assert_eq!(problem(&answer), (503, "provider-unavailable".into(), true));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(problem(&next), (503, "circuit-open".into(), true));
    assert_eq!(calls.load(Ordering::SeqCst), 2, "each attempt had its time");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let (url, calls) = provider(|before| {
        if before > 0 {
            return (StatusCode::CREATED, MADE).into_response();
        }
        let (begun, _) = MADE.split_at(10);
        let broken = [
            Ok(Bytes::from_static(begun.as_bytes())),
            Err(io::Error::other("the provider is gone")),
        ];
        // So that the head has gone out before.
        let broken = stream::iter(broken).then(async |piece| {
            sleep(Duration::from_millis(100)).await;
            piece
        });
        Response::builder()
            .status(201)
            .body(Body::from_stream(broken))
            .unwrap()
    })
    .await;
    let limits = ProviderLimits {
        provider_attempts: 2,
        ..ONE_ATTEMPT
    };
    let app = app_with(&url, limits).await;

    let answer = send(&app.router, charge()).await;

    assert_eq!(answer.status(), 201);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// The largest that is read is far more than an answer has.
#[tokio::test]
async fn an_answer_may_have_more_than_is_asked_for() {
    let (url, _) = provider(|_| {
        let more = "x".repeat(60_000);
        let answer = json!({"id": "pr_1", "amount": 5, "at": 1, "more": more});
        (StatusCode::CREATED, Json(answer)).into_response()
    })
    .await;
    let app = app_with(&url, ONE_ATTEMPT).await;

    let answer = send(&app.router, charge()).await;

    assert_eq!(answer.status(), 201);
}

/// Who asks for a minute gets it: no second call, and a client that knows how long.
#[tokio::test]
async fn a_provider_that_asks_for_a_long_time_is_not_called_again_and_its_client_is_told() {
    for (status, asked) in [(429, "60"), (429, "20"), (503, "3"), (409, "7")] {
        let (url, calls) = provider(move |_| {
            Response::builder()
                .status(status)
                .header("retry-after", asked)
                .body(Body::empty())
                .unwrap()
        })
        .await;
        let limits = ProviderLimits {
            provider_attempts: 3,
            ..ONE_ATTEMPT
        };
        let app = app_with(&url, limits).await;
        let begun = Instant::now();

        let answer = send(&app.router, charge()).await;

        let case = format!("{status}, {asked} s");
        assert_eq!(
            problem(&answer),
            (503, "provider-unavailable".into(), true),
            "{case}"
        );
        assert_eq!(answer.headers()["retry-after"], asked, "{case}");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{case}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{case}");
    }
}

#[tokio::test]
async fn a_short_time_is_waited_out_within_the_request() {
    let (url, calls) = provider(|before| match before {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        _ => (StatusCode::CREATED, MADE).into_response(),
    })
    .await;
    let limits = ProviderLimits {
        provider_attempts: 3,
        ..ONE_ATTEMPT
    };
    let app = app_with(&url, limits).await;
    let begun = Instant::now();

    let answer = send(&app.router, charge()).await;

    assert_eq!(answer.status(), 201);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}
