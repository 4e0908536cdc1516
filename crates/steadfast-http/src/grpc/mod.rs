//! What layers need to know of gRPC over HTTP/2: the status of a call in its headers or trailers, its timeout, and refusals as
//! statuses.
//!
//! Sources: [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md),
//! [status codes](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md).

mod code;
mod details;
mod refusal;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub use self::code::Code;
pub(crate) use self::details::retry_info;

/// `grpc-status`: the code of a call, in its trailers, or in its headers if the response has neither message nor trailers
/// (*Trailers-Only*).
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `grpc-message`: what happened, for people, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// `grpc-status-details-bin`: a `google.rpc.Status` in base64.
pub const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// `grpc-timeout`: how long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `grpc-accept-encoding`: the compressions that the caller can read.
pub const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// `grpc-retry-pushback-ms`: how long a client should wait before it tries the call again; -1: not at all
/// ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback)).
pub const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// `grpc-previous-rpc-attempts`: how many attempts of this call were made before this one
/// ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#exposed-retry-metadata)).
pub const PREVIOUS_RPC_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

const GRPC: &[u8] = b"application/grpc";

/// Whether the content type is gRPC's: `application/grpc`, alone or followed by `+` or `;`. `application/grpc-web` is another
/// protocol, which keeps its status in the body.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    after_grpc(headers).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether the content type is gRPC-Web's, whose status is in the body.
#[must_use]
pub fn is_grpc_web(headers: &HeaderMap) -> bool {
    after_grpc(headers).is_some_and(|rest| {
        rest.get(..4)
            .is_some_and(|web| web.eq_ignore_ascii_case(b"-web"))
    })
}

fn after_grpc(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let (kind, rest) = value.split_at_checked(GRPC.len())?;
    kind.eq_ignore_ascii_case(GRPC).then_some(rest)
}

/// The code in these headers or trailers, if they have one. One that cannot be read is [`Code::Unknown`].
#[must_use]
pub fn status(headers: &HeaderMap) -> Option<Code> {
    let code = match headers.get(STATUS)?.as_bytes() {
        digits if !digits.iter().all(u8::is_ascii_digit) => None,
        [ones] => Some(ones - b'0'),
        [b'1', ones] => Some(10 + ones - b'0'),
        _ => None,
    };
    Some(code.map_or(Code::Unknown, |number| Code::from_u32(number.into())))
}

/// How long the caller waits, by `grpc-timeout`; `None` without one, or with one that cannot be read.
#[must_use]
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT)?.as_bytes();
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3_600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The largest number that `grpc-timeout` has room for.
const MAX_TIMEOUT: u128 = 99_999_999;

/// The `grpc-timeout` that says this: in the finest unit whose number has at most eight digits, rounded down, so that it never
/// promises the server more time than there is. It holds up to 99999999 hours; more is as much as that.
#[must_use]
pub fn timeout_value(timeout: Duration) -> HeaderValue {
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60 * 1_000_000_000, 'M'),
        (3_600 * 1_000_000_000, 'H'),
    ];
    let nanos = timeout.as_nanos();
    let fits = |(size, _): &(u128, char)| nanos / size <= MAX_TIMEOUT;
    let (size, unit) = UNITS.into_iter().find(fits).unwrap_or(UNITS[5]);
    let number = (nanos / size).min(MAX_TIMEOUT);
    HeaderValue::try_from(format!("{number}{unit}")).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn grpc_is_told_by_its_content_type_and_grpc_web_is_not_grpc() {
        for (content_type, grpc, web) in [
            ("application/grpc", true, false),
            ("Application/GRPC+proto", true, false),
            ("application/grpc; charset=utf-8", true, false),
            ("application/grpc-web", false, true),
            ("application/grpc-web-text+proto", false, true),
            ("application/grpcx", false, false),
            ("application/json", false, false),
            ("", false, false),
        ] {
            let headers = headers(header::CONTENT_TYPE, content_type);
            assert_eq!(is_grpc(&headers), grpc, "{content_type}");
            assert_eq!(is_grpc_web(&headers), web, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_status_that_cannot_be_read_is_unknown_and_never_success() {
        for (value, code) in [
            ("0", Code::Ok),
            ("14", Code::Unavailable),
            ("16", Code::Unauthenticated),
            ("17", Code::Unknown),
            ("00", Code::Unknown),
            ("+0", Code::Unknown),
            ("4294967296", Code::Unknown),
            ("-1", Code::Unknown),
            ("", Code::Unknown),
            ("ok", Code::Unknown),
        ] {
            assert_eq!(status(&headers(STATUS, value)), Some(code), "{value}");
        }
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (value, timeout) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0m", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("5", None),
            ("5s", None),
            ("-5m", None),
            ("+5m", None),
        ] {
            assert_eq!(super::timeout(&headers(TIMEOUT, value)), timeout, "{value}");
        }
    }
    #[test]
    fn a_timeout_is_written_in_the_finest_unit_that_fits() {
        for (timeout, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_micros(100_000_000), "100000m"),
            (Duration::from_millis(100_000_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(60 * 100_000_000), "1666666H"),
            (Duration::from_secs(3_600 * 99_999_999), "99999999H"),
            (Duration::from_secs(3_600 * 100_000_000), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout_value(timeout), value, "{timeout:?}");
        }
    }

    #[test]
    fn a_timeout_that_was_written_is_read_as_no_more_and_hardly_less() {
        // Around every power of two of nanoseconds there are all units and both sides of their borders.
        for exponent in 0..94 {
            for offset in -3_i128..=3 {
                let nanos = ((1_i128 << exponent) + offset).unsigned_abs();
                let timeout = Duration::new(
                    u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX),
                    u32::try_from(nanos % 1_000_000_000).unwrap(),
                );
                let written = HeaderMap::from_iter([(TIMEOUT, timeout_value(timeout))]);
                let read = super::timeout(&written).unwrap();

                assert!(read <= timeout, "{timeout:?}: {written:?}");
                if timeout <= Duration::from_secs(3_600 * 99_999_999) {
                    // The step between units that costs most is the one of a thousand.
                    assert!((timeout - read) * 100_000 <= timeout, "{timeout:?}");
                }
            }
        }
    }
}
