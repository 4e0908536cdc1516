//! When a server says that one shall come back (retry R5, R6).

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use steadfast::retry::{RetryOutcome, StoppedBy};
use tokio::time::Instant;

use super::{
    answer, attempts, get, marked, over_hyper, post,
    script::{Script, Step, answers, says},
};
use crate::support::Protocol;

const SECOND: Duration = Duration::from_secs(1);

/// How long a call took whose first answer was this.
async fn wait_after(first: Step) -> (Duration, u32) {
    let script = Script::serve([first, answers(200)]).await;
    let client = over_hyper(Protocol::Http1);
    let started = Instant::now();

    let response = answer(&client, get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    (started.elapsed(), attempts(&response))
}

#[tokio::test]
async fn the_wait_that_a_server_asks_for_is_kept_in_every_form_it_can_have() {
    // A date is measured against the response's own, so a server whose clock is wrong by decades asks for one second too.
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT";
    let firsts = [
        says(503, &["retry-after: 1"], "wait"),
        says(429, &["retry-after: 1"], "wait"),
        says(
            503,
            &[date, "retry-after: Sun, 06 Nov 1994 08:49:38 GMT"],
            "",
        ),
        says(
            503,
            &[date, "retry-after: Sunday, 06-Nov-94 08:49:38 GMT"],
            "",
        ),
        says(503, &[date, "retry-after: Sun Nov  6 08:49:38 1994"], ""),
    ];

    let waits = firsts.map(|first| async move {
        let (wait, attempts) = wait_after(Step::Answer(first.clone())).await;
        assert_eq!(attempts, 2, "{first}");
        assert!(wait >= SECOND, "{wait:?} after {first}");
        assert!(wait < 20 * SECOND, "{wait:?} after {first}");
    });
    join_all(waits).await;
}

#[tokio::test]
async fn a_hint_that_cannot_be_read_is_no_hint() {
    for unreadable in ["retry-after: soon", "retry-after: -1", "retry-after: "] {
        let (_, attempts) = wait_after(Step::Answer(says(503, &[unreadable], ""))).await;
        assert_eq!(attempts, 2, "{unreadable}");
    }
}

#[tokio::test]
async fn a_wait_beyond_the_cap_ends_the_call_at_once() {
    let failed = Step::Answer(says(503, &["retry-after: 120"], "closed"));
    let script = Script::serve([failed, answers(200)]).await;
    let started = Instant::now();

    let response = answer(&over_hyper(Protocol::Http1), get(&script.url())).await;

    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "120");
    assert_eq!(response.body(), "closed");
    let outcome = RetryOutcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.stopped_by(), StoppedBy::Hint);
    assert_eq!(script.requests(), 1);
}

#[tokio::test]
async fn an_operation_in_progress_is_asked_for_again_until_it_is_done() {
    let pending = || Step::Answer(says(409, &["retry-after: 0"], "in progress"));
    let script = Script::serve([pending(), pending(), answers(201)]).await;

    let request = marked(post(&script.url(), "amount=5"));
    let response = answer(&over_hyper(Protocol::Http1), request).await;

    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(attempts(&response), 3);
    let seen = script.seen();
    assert!(seen.iter().all(|seen| seen.body == b"amount=5"), "{seen:?}");
}

#[tokio::test]
async fn a_conflict_is_final_without_a_mark_or_without_a_time() {
    for (is_marked, line) in [(false, "retry-after: 0"), (true, "x-note: none")] {
        let conflict = Step::Answer(says(409, &[line], "conflict"));
        let script = Script::serve([conflict, answers(201)]).await;
        let request = post(&script.url(), "amount=5");
        let request = if is_marked { marked(request) } else { request };

        let response = answer(&over_hyper(Protocol::Http1), request).await;

        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.body(), "conflict");
        assert_eq!(script.requests(), 1);
    }
}

#[tokio::test]
async fn too_early_is_tried_again_once_whatever_the_request_does() {
    let script = Script::serve([answers(425), answers(201)]).await;
    let request = post(&script.url(), "amount=5");
    let response = answer(&over_hyper(Protocol::Http1), request).await;
    assert_eq!(response.status(), StatusCode::CREATED);

    let script = Script::serve([answers(425), answers(425), answers(201)]).await;
    let request = post(&script.url(), "amount=5");
    let response = answer(&over_hyper(Protocol::Http1), request).await;
    assert_eq!(response.status(), StatusCode::TOO_EARLY);
    assert_eq!(script.requests(), 2);
}
