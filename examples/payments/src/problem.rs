//! Refusals as problem details (RFC 9457), in the form that the idempotency layer uses too.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// The shortest delay that `Retry-After` can say: whether a dependency is back costs one call to find out.
const RETRY_AFTER_SECONDS: u64 = 1;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    retryable: bool,
}

impl Problem {
    /// A refusal that the same request meets again. `detail` tells people what to do.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retryable: false,
        }
    }

    /// A field of the request is missing or wrong.
    #[must_use]
    pub fn invalid_field(field: &'static str, rule: &str) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-field",
            format!("`{field}` {rule}"),
        )
    }

    /// Something that the API depends on failed; the same request may succeed later.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: &'static str) -> Self {
        Self {
            retryable: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        }
    }

    /// What it says to people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status of its response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // `type` is left out: it is then about:blank, and the title the status' own (RFC 9457 section 4.2.1).
        let body = json!({
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
        });
        let mut response = (self.status, body.to_string()).into_response();

        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.retryable {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        response
    }
}
