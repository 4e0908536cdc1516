use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, Request, Response};
use prost::Message;

use super::{Answer, Body, body, with_trailers};

pub(crate) const CREATE: &str = "/pay.v1.Charges/Create";

/// A unary call with this key.
pub(crate) fn call(key: &str) -> http::request::Builder {
    keyless_call().header("idempotency-key", key)
}

pub(crate) fn keyless_call() -> http::request::Builder {
    Request::post(CREATE)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-accept-encoding", "gzip, identity")
}

/// The same call each time it is asked for.
pub(crate) fn create(key: &str) -> Request<Body> {
    call(key).body(body(message("amount: 5"))).unwrap()
}

/// A message of these bytes, uncompressed, in its frame.
pub(crate) fn message(bytes: &str) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(bytes.as_bytes());
    frame
}

pub(crate) fn trailers(status: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers
}

/// An answer with one message, whose status is in its trailers.
pub(crate) fn answered(text: &str, trailers: HeaderMap) -> Response<Body> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(with_trailers(message(text), trailers))
        .unwrap()
}

/// An answer without message, whose status is in its headers.
pub(crate) fn trailers_only(status: &str) -> Response<Body> {
    Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", status)
        .body(body(""))
        .unwrap()
}

/// What the layer says by itself: a refusal in the form of gRPC.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) reason: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) pushback: Option<String>,
}

impl Refused {
    /// Reads it, and asserts what every one of them has.
    #[track_caller]
    pub(crate) fn read(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert!(answer.body.is_empty(), "{answer:?}");
        assert_eq!(answer.trailers, None);
        for marker in ["idempotent-replayed", "idempotent-stored"] {
            assert_eq!(answer.header(marker), None, "a refusal carries no marker");
        }
        let cause = answer.cause.as_ref().expect("the cause in the extensions");

        let code = answer.header("grpc-status").unwrap().parse().unwrap();
        let details = answer.header("grpc-status-details-bin").unwrap();
        let status = Status::decode(&*STANDARD_NO_PAD.decode(details).unwrap()).unwrap();
        assert_eq!(u32::try_from(status.code), Ok(code));
        let info = ErrorInfo::decode(&*status.details[0].value).unwrap();
        assert_eq!(info.domain, "steadfast");
        assert_eq!(
            info.reason,
            cause.code().as_str().to_uppercase().replace('-', "_")
        );
        let retries = status.details.iter().skip(1);
        let retries: Vec<_> = retries.map(|detail| detail.type_url.as_str()).collect();
        let pushback = answer.header("grpc-retry-pushback-ms").map(str::to_owned);
        let told = pushback.as_deref().is_some_and(|pushback| pushback != "-1");
        let retry_info: &[_] = match told {
            true => &["type.googleapis.com/google.rpc.RetryInfo"],
            false => &[],
        };
        assert_eq!(retries, retry_info);
        let message = answer.header("grpc-message").unwrap().to_owned();
        assert_eq!(message, status.message.replace('%', "%25"));
        assert!(!message.is_empty());
        Self {
            code,
            message,
            reason: info.reason,
            metadata: info.metadata,
            pushback,
        }
    }
}

impl Answer {
    /// Asserts that the layer refused a gRPC call in this way.
    #[track_caller]
    pub(crate) fn assert_grpc_refused(&self, code: u32, reason: &str, pushback: Option<&str>) {
        let refused = Refused::read(self);
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (code, reason),
            "{self:?}"
        );
        assert_eq!(refused.pushback.as_deref(), pushback, "{refused:?}");
        let retryable = pushback != Some("-1");
        assert_eq!(refused.metadata["retryable"], retryable.to_string());
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}
