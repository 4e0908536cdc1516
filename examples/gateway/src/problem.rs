//! The gateway's own refusals, as problem details (RFC 9457), or to gRPC calls as statuses: in the form in which the layers refuse.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use steadfast::http::grpc;

use crate::Body;

/// One refusal. It says nothing of what is behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    /// Whether the same request may be sent again.
    retryable: bool,
}

impl Problem {
    /// A refusal that the same request meets again. `detail` tells people what is wrong.
    pub(crate) const fn new(status: StatusCode, code: &'static str, detail: &'static str) -> Self {
        Self {
            status,
            code,
            detail,
            retryable: false,
        }
    }

    pub(crate) const fn bad_request(code: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) const fn body_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the request body is larger than the gateway passes on",
        )
    }

    pub(crate) const fn with_retryable(self, retryable: bool) -> Self {
        Self { retryable, ..self }
    }

    /// The response to a gRPC call: Trailers-Only, with the detail as message. Clients that retry by themselves are told where not to.
    pub(crate) fn into_grpc_response(self) -> Response<Body> {
        let mut response = Response::new(whole(Bytes::new()));
        response.headers_mut().extend([
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            ),
            (grpc::STATUS, self.grpc_code().as_u32().into()),
            (grpc::MESSAGE, HeaderValue::from_static(self.detail)),
        ]);
        if !self.retryable {
            let never = HeaderValue::from_static("-1");
            response.headers_mut().insert(grpc::RETRY_PUSHBACK, never);
        }
        response
    }

    /// UNAVAILABLE only where the same call may be sent again by itself.
    fn grpc_code(&self) -> grpc::Code {
        match self.status {
            _ if self.retryable => grpc::Code::Unavailable,
            StatusCode::BAD_REQUEST => grpc::Code::InvalidArgument,
            StatusCode::PAYLOAD_TOO_LARGE => grpc::Code::ResourceExhausted,
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => grpc::Code::Unimplemented,
            _ => grpc::Code::Unknown,
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        // `type` is left out: it is then about:blank, and the title the status' own (RFC 9457 section 4.2.1).
        let problem = json!({
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
        });
        let mut response = Response::new(whole(problem.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().extend([
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            ),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]);
        response
    }
}

/// A body that is there already.
pub(crate) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
