//! retry R5.

use std::time::{Duration, SystemTime};

use http::{Request, Response};
use http_body_util::Full;
use steadfast_retry::{Backoff, RetryConfig, RetryLayer, StoppedBy};
use tokio::time::Instant;

use crate::support::{
    Answer, Script, Step, answer, call, get, grpc, marked, millis, retry_after, rpc, steady,
    stopped_by, trailers_only, with_field,
};

const PUSHBACK: &str = "grpc-retry-pushback-ms";
const DETAILS: &str = "grpc-status-details-bin";
/// A `google.rpc.Status` with the code 8 and a `google.rpc.RetryInfo` of 2 s.
const RETRY_INFO_2_S: &str =
    "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg==";
/// The same with 61 s.
const RETRY_INFO_61_S: &str =
    "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIPQ==";

/// What the layer does without a hint.
const OWN_DELAY: Duration = Duration::from_millis(50);

fn http() -> RetryLayer {
    RetryLayer::http().with_config(steady()).unwrap()
}

fn over_grpc() -> RetryLayer {
    grpc().with_config(steady()).unwrap()
}

/// How long the layer waits after this answer; or why it does not.
async fn wait_after(
    layer: &RetryLayer,
    answer: Answer,
    request: Request<Full<bytes::Bytes>>,
) -> Result<Duration, StoppedBy> {
    let healed = match answer.headers().get("grpc-status") {
        Some(_) => trailers_only(0),
        None => Response::default(),
    };
    let script = Script::new([Step::Answer(answer), Step::Answer(healed)]);
    let started = Instant::now();

    let response = call(layer, &script, request).await.unwrap();

    let stopped_by = stopped_by(&response).unwrap();
    if stopped_by == StoppedBy::Success {
        return Ok(script.waits()[0]);
    }
    assert_eq!(script.calls(), 1);
    assert_eq!(started.elapsed(), Duration::ZERO, "returned at once");
    Err(stopped_by)
}

fn seconds(seconds: u64) -> Result<Duration, StoppedBy> {
    Ok(Duration::from_secs(seconds))
}

fn unavailable() -> Answer {
    trailers_only(14)
}

#[tokio::test(start_paused = true)]
async fn retry_after_in_seconds_is_waited_for() {
    for status in [429, 503] {
        for (value, expected) in [("1", 1), ("007", 7), (" 2 ", 2), ("29", 29)] {
            let answer = retry_after(status, value);

            assert_eq!(wait_after(&http(), answer, get()).await, seconds(expected));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_form_of_date_is_measured_against_the_responses_own_date() {
    let forms = [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ];
    for when in forms {
        for (date, wait) in [
            ("Sun, 06 Nov 1994 08:49:30 GMT", seconds(7)),
            ("Sunday, 06-Nov-94 08:49:35 GMT", seconds(2)),
            ("Sun Nov  6 08:49:10 1994", seconds(27)),
            // No wait is asked for: the layer's own remains.
            ("Sun, 06 Nov 1994 08:49:37 GMT", Ok(OWN_DELAY)),
            ("Sun, 06 Nov 1994 08:50:00 GMT", Ok(OWN_DELAY)),
            ("Sun, 06 Nov 1994 07:49:37 GMT", Err(StoppedBy::Hint)),
        ] {
            let answer = with_field(retry_after(503, when), "date", date);

            let found = wait_after(&http(), answer, get()).await;

            assert_eq!(found, wait, "{when}, sent {date}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_form_of_date_is_measured_against_the_clock_if_the_response_has_none() {
    for form in [imf_fixdate, rfc850_date, asctime_date] {
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule is about the wall clock"
        )]
        let when = SystemTime::now() + Duration::from_secs(20);
        let when = form(when);
        let answer = retry_after(503, &when);

        let wait = wait_after(&http(), answer, get()).await.unwrap();

        // Dates have whole seconds, and the clock goes on.
        let expected = Duration::from_secs(15)..=Duration::from_secs(20);
        assert!(expected.contains(&wait), "{wait:?} until {when}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_that_has_passed_asks_for_no_wait() {
    for when in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ] {
        let answer = retry_after(503, when);

        assert_eq!(wait_after(&http(), answer, get()).await, Ok(OWN_DELAY));
    }
}

fn imf_fixdate(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

fn rfc850_date(time: SystemTime) -> String {
    let [weekday, day, month, year, clock] = parts(time);
    let weekday = match &*weekday {
        "Sun" | "Mon" | "Fri" => format!("{weekday}day"),
        "Tue" => "Tuesday".to_owned(),
        "Wed" => "Wednesday".to_owned(),
        "Thu" => "Thursday".to_owned(),
        _ => "Saturday".to_owned(),
    };
    let year = &year[2..];
    format!("{weekday}, {day}-{month}-{year} {clock} GMT")
}

fn asctime_date(time: SystemTime) -> String {
    let [weekday, day, month, year, clock] = parts(time);
    let day: u8 = day.parse().unwrap();
    format!("{weekday} {month} {day:>2} {clock} {year}")
}

fn parts(time: SystemTime) -> [String; 5] {
    let date = imf_fixdate(time);
    let words: Vec<_> = date.split(' ').map(str::to_owned).collect();
    let [weekday, day, month, year, clock, _] = words.try_into().unwrap();
    let weekday = weekday.trim_end_matches(',').to_owned();
    [weekday, day, month, year, clock]
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_as_if_it_were_absent() {
    for value in [
        "",
        "soon",
        "-1",
        "1.5",
        "2s",
        "Sun, 06 Nov 1994 08:49:37 CET",
    ] {
        let answer = retry_after(503, value);

        assert_eq!(
            wait_after(&http(), answer, get()).await,
            Ok(OWN_DELAY),
            "{value:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_a_floor_to_which_chance_only_adds() {
    let hint = Duration::from_secs(2);
    for (sample, added) in [(0, 0), (u64::MAX / 2, 25), (u64::MAX, 50)] {
        let answer = retry_after(503, "2");
        let layer = RetryLayer::http().with_sampler(move || sample);

        let wait = wait_after(&layer, answer, get()).await.unwrap();

        let expected = hint + Duration::from_millis(added);
        let late = wait.checked_sub(expected).unwrap();
        assert!(late <= Duration::from_millis(1), "{wait:?} of {expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_with_the_same_hint_do_not_come_back_together() {
    let backoff = Backoff::exponential(Duration::from_secs(8), Duration::from_secs(8));
    let config = RetryConfig::default().with_backoff(backoff);
    let layer = RetryLayer::http().with_config(config).unwrap();
    let mut waits = Vec::new();
    for _ in 0..100 {
        waits.push(
            wait_after(&layer, retry_after(503, "3"), get())
                .await
                .unwrap(),
        );
    }

    waits.sort_unstable();

    assert!(waits[0] >= Duration::from_secs(3));
    assert!(waits[99] <= Duration::from_secs(11));
    // Of 100 even draws, that none falls into a given half has the chance 2^-100.
    assert!(waits[0] < Duration::from_secs(7));
    assert!(waits[99] > Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_is_shorter_than_the_backoff_does_not_hurry_it() {
    let config = steady().with_backoff(
        Backoff::constant(Duration::from_secs(5)).with_jitter(steadfast_retry::Jitter::None),
    );
    let layer = RetryLayer::http().with_config(config).unwrap();

    assert_eq!(
        wait_after(&layer, retry_after(503, "1"), get()).await,
        seconds(5)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_its_cap_ends_the_call_at_once() {
    let patient = steady().with_deadline(Duration::from_secs(600));
    let layer = RetryLayer::http().with_config(patient.clone()).unwrap();
    let grpc = grpc().with_config(patient.clone()).unwrap();
    for (value, expected) in [
        ("60", seconds(60)),
        ("61", Err(StoppedBy::Hint)),
        ("99999999999999999999999", Err(StoppedBy::Hint)),
    ] {
        assert_eq!(
            wait_after(&layer, retry_after(503, value), get()).await,
            expected
        );
        let unavailable = with_field(unavailable(), "retry-after", value);
        assert_eq!(
            wait_after(&grpc, unavailable, marked(rpc())).await,
            expected
        );
    }
    for (name, value) in [(PUSHBACK, "60001"), (DETAILS, RETRY_INFO_61_S)] {
        let unavailable = with_field(unavailable(), name, value);
        let found = wait_after(&grpc, unavailable, marked(rpc())).await;
        assert_eq!(found, Err(StoppedBy::Hint), "{name}");
    }

    let short = patient.with_hint_cap(Duration::from_secs(3));
    let layer = RetryLayer::http().with_config(short).unwrap();
    for (value, expected) in [("3", seconds(3)), ("4", Err(StoppedBy::Hint))] {
        assert_eq!(
            wait_after(&layer, retry_after(503, value), get()).await,
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_deadline_ends_the_call_at_once() {
    let config = steady().with_deadline(Duration::from_secs(5));
    let layer = RetryLayer::http().with_config(config).unwrap();
    for (value, expected) in [("4", seconds(4)), ("5", Err(StoppedBy::Deadline))] {
        assert_eq!(
            wait_after(&layer, retry_after(503, value), get()).await,
            expected
        );
    }
    // Without a limit the layer has the patience of 30 s.
    for (value, expected) in [("29", seconds(29)), ("30", Err(StoppedBy::Deadline))] {
        assert_eq!(
            wait_after(&http(), retry_after(503, value), get()).await,
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_ignored_where_it_has_no_meaning() {
    for status in [408, 500, 502, 504] {
        for value in ["20", "61"] {
            let answer = retry_after(status, value);

            let wait = wait_after(&http(), answer, get()).await;

            assert_eq!(wait, Ok(OWN_DELAY), "{status} {value}");
        }
    }
    let too_early = retry_after(425, "20");
    assert_eq!(
        wait_after(&http(), too_early, get()).await,
        Ok(Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_heeded_on_a_status_that_has_a_meaning_for_it_and_was_put_in() {
    let too_large = http::StatusCode::PAYLOAD_TOO_LARGE;
    let layer = RetryLayer::http()
        .with_config(steady().add_transient_status(too_large))
        .unwrap();

    let answer = retry_after(413, "4");
    assert_eq!(wait_after(&layer, answer, get()).await, seconds(4));
}

#[tokio::test(start_paused = true)]
async fn the_longest_of_several_waits_counts() {
    for (one, other) in [("2", "5"), ("5", "2"), ("soon", "5")] {
        let answer = with_field(retry_after(503, one), "retry-after", other);

        assert_eq!(wait_after(&http(), answer, get()).await, seconds(5));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_in_progress_is_asked_for_when_its_server_says() {
    let in_progress = retry_after(409, "3");

    assert_eq!(
        wait_after(&http(), in_progress, marked(get())).await,
        seconds(3)
    );
}

#[tokio::test(start_paused = true)]
async fn pushback_is_waited_for_and_not_less() {
    for (value, wait) in [("2000", 2000), ("1", 50), ("0", 50), ("00100", 100)] {
        let answer = with_field(unavailable(), PUSHBACK, value);

        let found = wait_after(&over_grpc(), answer, marked(rpc())).await;

        assert_eq!(found, Ok(Duration::from_millis(wait)), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn pushback_that_is_negative_or_unreadable_or_repeated_means_stop() {
    for value in ["-1", "-2000", "", "soon", "1.5", " 7 s", "+5", "2147483648"] {
        let answer = with_field(unavailable(), PUSHBACK, value);

        let found = wait_after(&over_grpc(), answer, marked(rpc())).await;

        assert_eq!(found, Err(StoppedBy::Hint), "{value:?}");
    }

    let twice = with_field(with_field(unavailable(), PUSHBACK, "100"), PUSHBACK, "100");
    let found = wait_after(&over_grpc(), twice, marked(rpc())).await;
    assert_eq!(found, Err(StoppedBy::Hint));
}

#[tokio::test(start_paused = true)]
async fn retry_info_is_waited_for() {
    for (details, expected) in [
        (RETRY_INFO_2_S, seconds(2)),
        // gRPC leaves the padding out.
        (RETRY_INFO_2_S.trim_end_matches('='), seconds(2)),
        ("not base64!", Ok(OWN_DELAY)),
        ("bm90IGEgbWVzc2FnZQ", Ok(OWN_DELAY)),
    ] {
        let answer = with_field(unavailable(), DETAILS, details);

        let found = wait_after(&over_grpc(), answer, marked(rpc())).await;

        assert_eq!(found, expected, "{details}");
    }
}

#[tokio::test(start_paused = true)]
async fn pushback_comes_before_retry_after_and_that_before_retry_info() {
    let info = with_field(unavailable(), DETAILS, RETRY_INFO_2_S);
    let header = with_field(info.clone(), "retry-after", "1");
    let pushback = with_field(header.clone(), PUSHBACK, "500");
    let stop = with_field(header.clone(), PUSHBACK, "-1");
    let unreadable = with_field(info.clone(), "retry-after", "soon");
    for (answer, expected) in [
        (info, seconds(2)),
        (unreadable, seconds(2)),
        (header, seconds(1)),
        (pushback, Ok(Duration::from_millis(500))),
        (stop, Err(StoppedBy::Hint)),
    ] {
        assert_eq!(
            wait_after(&over_grpc(), answer, marked(rpc())).await,
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pushback_means_nothing_to_http() {
    let answer = with_field(answer(503), PUSHBACK, "-1");

    assert_eq!(wait_after(&http(), answer, get()).await, Ok(OWN_DELAY));
}

#[tokio::test(start_paused = true)]
async fn a_hint_counts_for_the_attempt_that_follows_it_alone() {
    let script = Script::new([
        Step::Answer(retry_after(503, "3")),
        Step::Answer(answer(503)),
        Step::Answer(answer(200)),
    ]);

    call(&http(), &script, get()).await.unwrap();

    assert_eq!(script.waits(), millis([3000, 100]));
}
