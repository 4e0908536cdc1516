//! Refusals as problem details (RFC 9457), in the form that the idempotency layer uses too.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use steadfast::http::problem::{self, Code, ProblemBase};

/// The shortest delay that `Retry-After` can say: whether a dependency is back costs one call to find out.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    reason: Reason,
    detail: Cow<'static, str>,
    /// When the same request may succeed, where it may.
    retry_after: Option<Duration>,
}

/// What happened, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// What the layers refuse for, too: it has its type and its title from their list, whoever refuses.
    Listed(Code),
    /// The API's own.
    Own(&'static str),
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
            reason: Reason::Own(code),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The key belongs to another request.
    #[must_use]
    pub fn key_reused(detail: &'static str) -> Self {
        Self {
            status: Code::KeyReused.status(),
            reason: Reason::Listed(Code::KeyReused),
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

    /// The same for a reason that the layers have too.
    #[must_use]
    pub fn unavailable_for(code: Code, detail: &'static str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: Reason::Listed(code),
            detail: detail.into(),
            retry_after: Some(SHORTEST_DELAY),
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
        match self.reason {
            Reason::Listed(code) => self.into_listed_response(code),
            Reason::Own(code) => self.into_own_response(code),
        }
    }
}

impl Problem {
    fn into_listed_response(self, code: Code) -> Response {
        let mut problem = problem::Problem::new(code, self.detail)
            .with_status(self.status)
            .with_retryable(self.retry_after.is_some());
        if let Some(delay) = self.retry_after {
            problem = problem.with_retry_after(delay);
        }
        let mut response = problem.into_response(&ProblemBase::default());
        // They tell the layers around that one of them refused, and this was the API.
        response.extensions_mut().clear();
        response.map(Body::from)
    }

    fn into_own_response(self, code: &'static str) -> Response {
        // `type` is left out: it is then about:blank, and the title the status' own (RFC 9457 section 4.2.1).
        let body = json!({
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": code,
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
        for problem in [
            Problem::unavailable("code", "detail"),
            Problem::unavailable_for(Code::CircuitOpen, "detail"),
        ] {
            assert_eq!(told(problem.clone()).as_deref(), Some("1"));
            told_in_seconds(&problem);
        }
    }

    fn told_in_seconds(problem: &Problem) {
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
    fn a_reason_that_the_layers_have_too_is_told_as_they_tell_it() {
        for (problem, code) in [
            (Problem::key_reused("detail"), Code::KeyReused),
            (
                Problem::unavailable_for(Code::CircuitOpen, "detail"),
                Code::CircuitOpen,
            ),
        ] {
            let of_a_layer = problem::Problem::new(code, "detail");
            let delay = problem.retry_after;
            let of_a_layer = match delay {
                Some(delay) => of_a_layer.with_retry_after(delay),
                None => of_a_layer,
            };
            let expected = of_a_layer.into_response(&ProblemBase::default());

            let response = problem.into_response();

            assert_eq!(response.status(), expected.status());
            assert_eq!(response.headers(), expected.headers());
            assert!(response.extensions().is_empty());
            assert_eq!(body(response), expected.into_body());
        }
    }

    fn body(response: Response) -> bytes::Bytes {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX);
        { runtime }.build().unwrap().block_on(body).unwrap()
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
