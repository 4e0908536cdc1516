//! Refusals as gRPC statuses: the code, the detail as message, and an `ErrorInfo` for programs.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message as _;
use serde_json::Value;

use super::{
    Code, MESSAGE, RETRY_PUSHBACK, STATUS, STATUS_DETAILS,
    details::{Any, ERROR_INFO, ErrorInfo, RETRY_INFO, RetryInfo, Status},
};
use crate::{
    LocalRejection,
    problem::{self, Problem},
};

const DOMAIN: &str = "steadfast";

/// What a gRPC message may not hold as it is: everything but %x20-24 and %x26-7E.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

impl problem::Code {
    /// The gRPC status of a refusal with this code, where nothing else is said.
    const fn grpc_code(self) -> Code {
        match self {
            Self::AttemptTimeout | Self::DeadlinePassed => Code::DeadlineExceeded,
            Self::BodyTimeout
            | Self::BodyUnreadable
            | Self::CircuitOpen
            | Self::InProgress
            | Self::Overloaded
            | Self::StoreUnavailable => Code::Unavailable,
            Self::BodyTooLarge => Code::ResourceExhausted,
            Self::KeyReused | Self::OutcomeUnknown | Self::ResponseNotRetained => {
                Code::FailedPrecondition
            }
            Self::MalformedKey | Self::MissingKey => Code::InvalidArgument,
            Self::TransactionEnded => Code::Internal,
            Self::UnauthorizedScope => Code::Unauthenticated,
        }
    }

    /// The code in the spelling that `google.rpc.ErrorInfo` asks of a reason.
    fn reason(self) -> String {
        self.as_str().to_ascii_uppercase().replace('-', "_")
    }
}

impl Problem {
    /// The gRPC status of this refusal: UNAVAILABLE only where the same call may be sent again by itself, and never ABORTED, which
    /// asks callers to repeat the whole operation.
    #[must_use]
    pub const fn grpc_code(&self) -> Code {
        match (self.code(), self.retryable()) {
            (problem::Code::OutcomeUnknown, true) => Code::Unavailable,
            (code, retryable) => match (code.grpc_code(), retryable) {
                (Code::Unavailable, false) => Code::FailedPrecondition,
                (grpc_code, _) => grpc_code,
            },
        }
    }

    /// The response to a gRPC call: Trailers-Only, with the detail as message, and in `grpc-status-details-bin` an `ErrorInfo`
    /// (the code in capitals as reason, domain `steadfast`, `retryable` and the members as metadata) and, if the call may be sent
    /// again, a `RetryInfo`. `grpc-retry-pushback-ms` says the same to clients that retry by themselves: when, or -1 for not at
    /// all. The problem and a [`LocalRejection`] are in its extensions.
    #[must_use]
    pub fn into_grpc_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(STATUS, self.grpc_code().as_u32().into());
        let message = utf8_percent_encode(self.detail(), ENCODED).to_string();
        insert_text(headers, MESSAGE, message);
        let details = STANDARD_NO_PAD.encode(self.status_details().encode_to_vec());
        insert_text(headers, STATUS_DETAILS, details);
        match (self.retryable(), self.retry_after()) {
            (false, _) => insert_text(headers, RETRY_PUSHBACK, "-1".to_owned()),
            (true, Some(delay)) => {
                insert_text(headers, RETRY_PUSHBACK, pushback(delay).to_string());
            }
            (true, None) => {}
        }

        let extensions = response.extensions_mut();
        extensions.insert(LocalRejection::new(self.code()));
        extensions.insert(self);
        response
    }

    fn status_details(&self) -> Status {
        let member = |(name, value): (&String, &Value)| {
            let text = value.as_str().map(str::to_owned);
            (name.clone(), text.unwrap_or_else(|| value.to_string()))
        };
        // The status of an HTTP response means nothing to a gRPC client.
        let members = self.members().iter();
        let members = members.filter(|(name, _)| *name != problem::ORIGINAL_STATUS);
        let mut metadata: BTreeMap<_, _> = members.map(member).collect();
        metadata.insert("retryable".to_owned(), self.retryable().to_string());
        let info = ErrorInfo {
            reason: self.code().reason(),
            domain: DOMAIN.to_owned(),
            metadata,
        };

        let mut details = vec![Any::pack(ERROR_INFO, &info)];
        if let (true, Some(delay)) = (self.retryable(), self.retry_after()) {
            details.push(Any::pack(RETRY_INFO, &RetryInfo::after(delay)));
        }
        Status {
            code: i32::try_from(self.grpc_code().as_u32()).expect("a code is below 17"),
            message: self.detail().to_owned(),
            details,
        }
    }
}

fn insert_text(headers: &mut HeaderMap, name: http::HeaderName, text: String) {
    let value = HeaderValue::try_from(text).expect("the text is visible ASCII by its encoding");
    headers.insert(name, value);
}

/// Whole milliseconds, rounded up; gRPC reads an i32.
fn pushback(delay: Duration) -> i32 {
    let up = u128::from(!delay.subsec_nanos().is_multiple_of(1_000_000));
    i32::try_from(delay.as_millis() + up).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
        response.headers()[name].to_str().unwrap()
    }

    fn details(response: &Response<Bytes>) -> Status {
        let bytes = STANDARD_NO_PAD
            .decode(text(response, "grpc-status-details-bin"))
            .unwrap();
        Status::decode(&*bytes).unwrap()
    }

    #[test]
    fn a_refusal_is_trailers_only_with_its_reason_for_programs() {
        let response = Problem::new(problem::Code::InProgress, "the operation is pending")
            .with_retry_after(Duration::from_micros(1_500_001))
            .with_member("location", "/charges/1")
            .into_grpc_response();

        assert_eq!(response.status(), 200);
        assert!(response.body().is_empty());
        assert_eq!(text(&response, "content-type"), "application/grpc");
        assert_eq!(text(&response, "grpc-status"), "14");
        assert_eq!(text(&response, "grpc-message"), "the operation is pending");
        assert_eq!(text(&response, "grpc-retry-pushback-ms"), "1501");
        let status = details(&response);
        assert_eq!(status.code, 14);
        assert_eq!(status.message, "the operation is pending");
        let [info, retry] = &status.details[..] else {
            panic!("{status:?}");
        };
        assert_eq!(info.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
        let info = ErrorInfo::decode(&*info.value).unwrap();
        assert_eq!(info.reason, "IN_PROGRESS");
        assert_eq!(info.domain, "steadfast");
        assert_eq!(info.metadata["retryable"], "true");
        assert_eq!(info.metadata["location"], "/charges/1");
        assert_eq!(retry.type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let retry = RetryInfo::decode(&*retry.value).unwrap();
        let delay = retry.retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_001_000));
    }

    #[test]
    fn what_may_not_be_sent_again_says_so_to_clients_that_retry() {
        let response = Problem::new(problem::Code::OutcomeUnknown, "").into_grpc_response();

        assert_eq!(text(&response, "grpc-status"), "9");
        assert_eq!(text(&response, "grpc-retry-pushback-ms"), "-1");
        assert_eq!(details(&response).details.len(), 1);
    }

    #[test]
    fn an_unknown_outcome_that_may_be_repeated_is_unavailable() {
        let problem = Problem::new(problem::Code::OutcomeUnknown, "").with_retryable(true);

        assert_eq!(problem.grpc_code(), Code::Unavailable);
    }

    #[test]
    fn what_may_not_be_sent_again_is_never_unavailable_or_aborted() {
        for &code in problem::Code::ALL {
            let refused = Problem::new(code, "").with_retryable(false);

            assert_ne!(refused.grpc_code(), Code::Unavailable, "{code:?}");
            assert_ne!(refused.grpc_code(), Code::Aborted, "{code:?}");
        }
    }

    #[test]
    fn the_status_of_an_http_response_is_not_told() {
        let response = Problem::new(problem::Code::ResponseNotRetained, "")
            .with_member(problem::ORIGINAL_STATUS, 200)
            .with_member("location", "/charges/1")
            .into_grpc_response();

        let info = details(&response).details.remove(0);
        let info = ErrorInfo::decode(&*info.value).unwrap();
        assert_eq!(info.metadata.len(), 2, "{info:?}");
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let response =
            Problem::new(problem::Code::MalformedKey, "50 % of \u{fc}\r\n").into_grpc_response();

        assert_eq!(text(&response, "grpc-message"), "50 %25 of %C3%BC%0D%0A");
        assert_eq!(details(&response).message, "50 % of \u{fc}\r\n");
    }

    #[test]
    fn a_reason_is_spelled_as_error_info_asks() {
        for code in problem::Code::ALL {
            let reason = code.reason();
            let bytes = reason.as_bytes();
            assert!(bytes.len() <= 63);
            assert!(bytes[0].is_ascii_uppercase(), "{reason}");
            assert!(
                bytes
                    .iter()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_'),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_pushback_is_rounded_up_and_fits() {
        assert_eq!(pushback(Duration::ZERO), 0);
        assert_eq!(pushback(Duration::from_nanos(1)), 1);
        assert_eq!(pushback(Duration::from_secs(1)), 1_000);
        assert_eq!(pushback(Duration::MAX), i32::MAX);
    }
}
