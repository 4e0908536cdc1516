//! The messages in `grpc-status-details-bin` that programs read.

use std::{collections::BTreeMap, time::Duration};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;
use prost::Message;

use super::STATUS_DETAILS;

pub(super) const ERROR_INFO: &str = "google.rpc.ErrorInfo";
pub(super) const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// gRPC writes no padding and has to take it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How long a client should wait before it tries the call again, by the `google.rpc.RetryInfo` in the details; `None` without one,
/// or with one that cannot be read or is negative. Of several, the longest.
pub(crate) fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let details = BASE64.decode(headers.get(STATUS_DETAILS)?).ok()?;
    let details = Status::decode(&*details).ok()?.details;
    let delays = details
        .iter()
        .filter_map(|detail| detail.unpack::<RetryInfo>(RETRY_INFO)?.delay());
    delays.max()
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

impl Any {
    pub(super) fn pack(name: &str, message: &impl Message) -> Self {
        Self {
            type_url: format!("type.googleapis.com/{name}"),
            value: message.encode_to_vec(),
        }
    }

    /// Whatever precedes the last slash is a matter of taste (`google/protobuf/any.proto`).
    fn unpack<M: Message + Default>(&self, name: &str) -> Option<M> {
        let (_, full_name) = self.type_url.rsplit_once('/')?;
        (full_name == name).then(|| M::decode(&*self.value).ok())?
    }
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(string, tag = "2")]
    pub(super) domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<RetryDelay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryDelay {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl RetryInfo {
    pub(super) fn after(delay: Duration) -> Self {
        Self {
            retry_delay: Some(RetryDelay {
                seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(delay.subsec_nanos()).expect("below a billion"),
            }),
        }
    }

    fn delay(self) -> Option<Duration> {
        let RetryDelay { seconds, nanos } = self.retry_delay?;
        let seconds = u64::try_from(seconds).ok()?;
        let nanos = u32::try_from(nanos).ok()?;
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    use super::*;

    fn headers(details: &str) -> HeaderMap {
        HeaderMap::from_iter([(STATUS_DETAILS, details.parse().unwrap())])
    }

    fn status(details: Vec<Any>) -> Vec<u8> {
        let status = Status {
            code: 14,
            message: String::new(),
            details,
        };
        status.encode_to_vec()
    }

    fn of_delay(seconds: i64, nanos: i32) -> Option<Duration> {
        let info = RetryInfo {
            retry_delay: Some(RetryDelay { seconds, nanos }),
        };
        let bytes = status(vec![Any::pack(RETRY_INFO, &info)]);
        retry_info(&headers(&STANDARD_NO_PAD.encode(bytes)))
    }

    #[test]
    fn a_delay_is_read_with_and_without_padding() {
        let delay = Duration::new(3, 5);
        let bytes = status(vec![
            Any::pack(ERROR_INFO, &ErrorInfo::default()),
            Any::pack(RETRY_INFO, &RetryInfo::after(delay)),
        ]);
        let padded = STANDARD.encode(&bytes);
        assert!(padded.ends_with('='), "{padded}");

        assert_eq!(retry_info(&headers(&padded)), Some(delay));
        let bare = STANDARD_NO_PAD.encode(&bytes);
        assert_eq!(retry_info(&headers(&bare)), Some(delay));
    }

    #[test]
    fn a_delay_that_is_negative_or_no_duration_is_absent() {
        assert_eq!(of_delay(0, 0), Some(Duration::ZERO));
        assert_eq!(
            of_delay(i64::MAX, 999_999_999),
            Some(Duration::new(i64::MAX.unsigned_abs(), 999_999_999))
        );
        assert_eq!(of_delay(-1, 0), None);
        assert_eq!(of_delay(0, -1), None);
        assert_eq!(of_delay(1, -1), None);
        assert_eq!(of_delay(1, 1_000_000_000), None);
        assert_eq!(of_delay(i64::MIN, i32::MIN), None);
    }

    #[test]
    fn details_that_cannot_be_read_are_absent() {
        let wrong_type = Any {
            type_url: RETRY_INFO.to_owned(),
            value: Vec::new(),
        };
        let broken = Any {
            type_url: format!("type.googleapis.com/{RETRY_INFO}"),
            value: vec![0xff],
        };
        let without_delay = Any::pack(RETRY_INFO, &RetryInfo { retry_delay: None });
        for detail in [wrong_type, broken, without_delay] {
            let bytes = status(vec![detail.clone()]);
            let headers = headers(&STANDARD.encode(bytes));
            assert_eq!(retry_info(&headers), None, "{detail:?}");
        }
        for garbage in ["", "%%%", "AAAA", "A"] {
            assert_eq!(retry_info(&headers(garbage)), None, "{garbage}");
        }
        assert_eq!(retry_info(&HeaderMap::new()), None);
    }
}
