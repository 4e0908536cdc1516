//! Refusals as problem details (RFC 9457), in the form that the idempotency layer uses too.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// The shortest delay that `Retry-After` can say: whether a dependency is back costs one call to find out.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    /// When the same request may succeed, where it may.
    retry_after: Option<Duration>,
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
            retry_after: None,
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
            retry_after: Some(SHORTEST_DELAY),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        }
    }

    /// The same request may succeed after this time. It is told in whole seconds: rounded up, and one at least.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay.max(SHORTEST_DELAY)),
            ..self
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
            "retryable": self.retry_after.is_some(),
        });
        let mut response = (self.status, body.to_string()).into_response();

        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds(delay).into());
        }
        response
    }
}

/// Rounded up: who comes a moment too early is refused again.
const fn seconds(delay: Duration) -> u64 {
    let begun = if delay.subsec_nanos() > 0 { 1 } else { 0 };
    delay.as_secs().saturating_add(begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_told_in_whole_seconds_and_never_too_short() {
        let problem = Problem::unavailable("code", "detail");
        assert_eq!(told(problem.clone()).as_deref(), Some("1"));
        for (delay, seconds) in [
            (Duration::ZERO, "1"),
            (Duration::from_millis(2), "1"),
            (Duration::from_secs(2), "2"),
            (Duration::from_millis(2001), "3"),
            (Duration::MAX, "18446744073709551615"),
        ] {
            let told = told(problem.clone().with_retry_after(delay));
            assert_eq!(told.as_deref(), Some(seconds), "{delay:?}");
        }
    }

    #[test]
    fn who_cannot_succeed_is_told_no_delay() {
        assert_eq!(told(Problem::invalid_field("amount", "is missing")), None);
    }

    fn told(problem: Problem) -> Option<String> {
        let response = problem.into_response();
        let delay = response.headers().get(header::RETRY_AFTER)?;
        Some(delay.to_str().unwrap().to_owned())
    }
}
