//! The server's word about when, or whether, to try again.
//!
//! What cannot be read is as if it were absent, except for gRPC's pushback, where it forbids: that field exists for nothing else.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use steadfast_core::verdict::Hint;

use crate::grpc;

/// The hint of an HTTP response: `Retry-After`, where it has a meaning.
///
/// It has one on 503 and every 3xx (RFC 9110, 10.2.3), 413 (15.5.14) and 429 (RFC 6585, 4), and on 409 for a destination that keeps
/// idempotency keys. The value is whole seconds or a date in any of HTTP's three forms; a date is measured against the response's
/// own `Date`, so that the two clocks need not agree, and against this machine's clock only without one. A date in the past is no
/// wait at all. Of several fields, the longest wait counts.
#[must_use]
pub fn of_http(status: StatusCode, headers: &HeaderMap) -> Option<Hint> {
    let has_meaning = status.is_redirection()
        || matches!(
            status,
            StatusCode::CONFLICT
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::TOO_MANY_REQUESTS
        );
    has_meaning
        .then(|| retry_after(headers))
        .flatten()
        .map(Hint::After)
}

/// The hint in the headers or trailers of a gRPC call.
///
/// The first of these counts: `grpc-retry-pushback-ms`, where a value that is repeated, negative or unreadable means not at all;
/// `Retry-After`, which a proxy may send; the `google.rpc.RetryInfo` in `grpc-status-details-bin`.
#[must_use]
pub fn of_grpc(headers: &HeaderMap) -> Option<Hint> {
    pushback(headers).or_else(|| {
        let delay = retry_after(headers).or_else(|| grpc::retry_info(headers))?;
        Some(Hint::After(delay))
    })
}

/// [gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback): an int32 of milliseconds.
fn pushback(headers: &HeaderMap) -> Option<Hint> {
    let mut values = headers.get_all(grpc::RETRY_PUSHBACK).iter();
    let value = values.next()?;
    let millis = digits(value.as_bytes()).and_then(|millis| i32::try_from(millis).ok());
    Some(match (millis, values.next()) {
        (Some(millis), None) => {
            Hint::After(Duration::from_millis(u64::from(millis.unsigned_abs())))
        }
        (None, _) | (_, Some(_)) => Hint::Stop,
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::RETRY_AFTER).iter();
    values
        .filter_map(|value| {
            let seconds = digits(value.as_bytes().trim_ascii());
            seconds
                .map(Duration::from_secs)
                .or_else(|| until(date(value)?, headers))
        })
        .max()
}

/// A number of any size: one that does not fit is the largest that does.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let append = |number: u64, digit: &u8| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    Some(text.iter().fold(0, append))
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim_ascii()).ok()
}

fn until(moment: SystemTime, headers: &HeaderMap) -> Option<Duration> {
    let now = headers.get(header::DATE).and_then(date);
    let now = now.unwrap_or_else(wall_clock);
    Some(moment.duration_since(now).unwrap_or(Duration::ZERO))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a date without the sender's own time can only be measured against the wall clock"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    fn unavailable(pairs: &[(&'static str, &str)]) -> Option<Hint> {
        of_http(StatusCode::SERVICE_UNAVAILABLE, &headers(pairs))
    }

    const fn seconds(seconds: u64) -> Option<Hint> {
        Some(Hint::After(Duration::from_secs(seconds)))
    }

    #[test]
    fn seconds_are_digits_and_nothing_else() {
        for (value, hint) in [
            ("0", seconds(0)),
            ("120", seconds(120)),
            ("\t 120 ", seconds(120)),
            ("007", seconds(7)),
            ("18446744073709551616", seconds(u64::MAX)),
            ("99999999999999999999999999999999", seconds(u64::MAX)),
            ("", None),
            (" ", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1s", None),
            ("1 2", None),
            ("0x10", None),
            ("\u{661}", None),
            ("soon", None),
        ] {
            assert_eq!(unavailable(&[("retry-after", value)]), hint, "{value:?}");
        }
        assert_eq!(unavailable(&[]), None);
    }

    #[test]
    fn a_date_is_read_in_all_three_forms_and_measured_against_the_responses_own() {
        for form in [
            "Sun, 06 Nov 1994 08:50:37 GMT",
            "Sunday, 06-Nov-94 08:50:37 GMT",
            "Sun Nov  6 08:50:37 1994",
            "  Sun, 06 Nov 1994 08:50:37 GMT ",
        ] {
            let hint = unavailable(&[("retry-after", form), ("date", DATE)]);
            assert_eq!(hint, seconds(60), "{form}");
        }
        let garbage = [
            ("retry-after", "Someday, 06 Nov 1994 08:50:37 GMT"),
            ("date", DATE),
        ];
        assert_eq!(unavailable(&garbage), None);
    }

    #[test]
    fn a_date_in_the_past_is_no_wait() {
        let earlier = "Sun, 06 Nov 1994 08:49:36 GMT";
        assert_eq!(
            unavailable(&[("retry-after", earlier), ("date", DATE)]),
            seconds(0)
        );
        assert_eq!(unavailable(&[("retry-after", earlier)]), seconds(0));
    }

    #[test]
    fn without_a_readable_date_the_wall_clock_counts() {
        let moment = wall_clock() + Duration::from_secs(3_600);
        let moment = httpdate::fmt_http_date(moment);

        for pairs in [
            &[("retry-after", &*moment)][..],
            &[("retry-after", &*moment), ("date", "today")][..],
        ] {
            let Some(Hint::After(delay)) = unavailable(pairs) else {
                panic!("no hint");
            };
            assert!(delay <= Duration::from_secs(3_600), "{delay:?}");
            assert!(delay > Duration::from_secs(3_000), "{delay:?}");
        }
    }

    #[test]
    fn of_several_fields_the_longest_readable_counts() {
        let hint = unavailable(&[
            ("retry-after", "3"),
            ("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT"),
            ("retry-after", "never"),
            ("retry-after", "5"),
            ("date", DATE),
        ]);

        assert_eq!(hint, seconds(20));
    }

    #[test]
    fn a_status_without_a_meaning_for_it_has_no_hint() {
        let headers = headers(&[("retry-after", "5")]);
        for number in 100..=999 {
            let status = StatusCode::from_u16(number).unwrap();
            let expected = matches!(number, 300..=399 | 409 | 413 | 429 | 503);
            assert_eq!(of_http(status, &headers).is_some(), expected, "{number}");
        }
    }

    #[test]
    fn a_pushback_that_is_not_one_number_forbids() {
        for (value, hint) in [
            ("0", Hint::After(Duration::ZERO)),
            ("1500", Hint::After(Duration::from_millis(1_500))),
            (
                "2147483647",
                Hint::After(Duration::from_millis(2_147_483_647)),
            ),
            ("2147483648", Hint::Stop),
            ("18446744073709551616", Hint::Stop),
            ("-1", Hint::Stop),
            ("-0", Hint::Stop),
            ("+5", Hint::Stop),
            ("1.5", Hint::Stop),
            ("", Hint::Stop),
            ("soon", Hint::Stop),
        ] {
            let headers = headers(&[("grpc-retry-pushback-ms", value)]);
            assert_eq!(of_grpc(&headers), Some(hint), "{value:?}");
        }
        let repeated = [
            ("grpc-retry-pushback-ms", "5"),
            ("grpc-retry-pushback-ms", "5"),
        ];
        assert_eq!(of_grpc(&headers(&repeated)), Some(Hint::Stop));
    }

    #[test]
    fn pushback_comes_before_retry_after_and_that_before_retry_info() {
        // RetryInfo { retry_delay: 4 s } in a google.rpc.Status.
        let details = "GjAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SBAoCCAQ";
        let mut pairs = vec![("grpc-status-details-bin", details)];
        assert_eq!(of_grpc(&headers(&pairs)), seconds(4));

        pairs.push(("retry-after", "3"));
        assert_eq!(of_grpc(&headers(&pairs)), seconds(3));

        pairs.push(("grpc-retry-pushback-ms", "2000"));
        assert_eq!(of_grpc(&headers(&pairs)), seconds(2));

        assert_eq!(of_grpc(&HeaderMap::new()), None);
    }
}
