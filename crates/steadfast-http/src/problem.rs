//! Refusals as problem details (RFC 9457), with the one list of codes.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use crate::LocalRejection;

/// The member of `response-not-retained` that tells the HTTP status of the answer that was not kept.
pub const ORIGINAL_STATUS: &str = "original-status";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident, $title:literal, retryable: $retryable:literal;)*) => {
        /// Why a layer refused. Each code is a fragment of the problem's `type` and the member `code`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as it stands on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// The status of a response with this code.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)*
                }
            }

            /// The summary for people, the same for every problem with this code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)*
                }
            }

            /// Whether the same request may be sent again later, unless the problem says otherwise.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self {
                    $(Self::$variant => $retryable,)*
                }
            }
        }
    };
}

codes! {
    /// One attempt took longer than it may.
    AttemptTimeout = "attempt-timeout", GATEWAY_TIMEOUT, "The attempt took too long", retryable: true;
    /// The request's body did not arrive in time.
    BodyTimeout = "body-timeout", REQUEST_TIMEOUT, "The request body did not arrive in time", retryable: true;
    /// The request's body is larger than the layer buffers.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "The request body is too large", retryable: false;
    /// The request's body failed before its end.
    BodyUnreadable = "body-unreadable", BAD_REQUEST, "The request body could not be read", retryable: true;
    /// The circuit to the destination is open.
    CircuitOpen = "circuit-open", SERVICE_UNAVAILABLE, "The circuit is open", retryable: true;
    /// The caller's deadline has passed.
    DeadlinePassed = "deadline-passed", GATEWAY_TIMEOUT, "The deadline has passed", retryable: false;
    /// Another request with this key is being executed.
    InProgress = "in-progress", CONFLICT, "A request with this key is in progress", retryable: true;
    /// The key belongs to a request that asked for something else.
    KeyReused = "key-reused", UNPROCESSABLE_ENTITY, "The key was used for another request", retryable: false;
    /// The key is neither a structured String nor a bare token.
    MalformedKey = "malformed-key", BAD_REQUEST, "The idempotency key is malformed", retryable: false;
    /// The route requires a key.
    MissingKey = "missing-key", BAD_REQUEST, "An idempotency key is required", retryable: false;
    /// An execution was lost and nobody knows what it did.
    OutcomeUnknown = "outcome-unknown", CONFLICT, "The outcome of the operation is unknown", retryable: false;
    /// The service holds as much as it may.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The service is overloaded", retryable: true;
    /// The operation has its answer, but the answer was too large, or endless, to be kept.
    ResponseNotRetained = "response-not-retained", CONFLICT, "The response was not retained", retryable: false;
    /// The store of operations cannot be used.
    StoreUnavailable = "store-unavailable", SERVICE_UNAVAILABLE, "The store is unavailable", retryable: true;
    /// The handler ended the transaction that it was lent.
    TransactionEnded = "transaction-ended", INTERNAL_SERVER_ERROR, "The handler ended the transaction", retryable: false;
    /// The request has no principal whose key it could be.
    UnauthorizedScope = "unauthorized-scope", UNAUTHORIZED, "The request has no principal", retryable: false;
}

/// Where the `type` of a problem points: a base, to which `#` and the code are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemBase(Arc<str>);

impl ProblemBase {
    /// The page of this project that explains each code.
    pub const DEFAULT: &'static str = "https://docs.rs/steadfast/latest/steadfast/problems/";

    /// A base of the service's own: an absolute URI, or a path on the service.
    pub fn new(base: impl Into<Arc<str>>) -> Self {
        Self(base.into())
    }
}

impl Default for ProblemBase {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

/// One refusal, before it becomes a response. It is also the typed cause in that response's extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    retryable: bool,
    retry_after: Option<Duration>,
    challenge: Option<HeaderValue>,
    members: Map<String, Value>,
}

impl Problem {
    /// A refusal for this reason. `detail` is for people: what happened to this request and what to do.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: code.status(),
            detail: detail.into(),
            retryable: code.retryable(),
            retry_after: None,
            challenge: None,
            members: Map::new(),
        }
    }

    /// Replaces the status that goes with the code.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Says whether the same request may be sent again, where that is not what the code says.
    #[must_use]
    pub fn with_retryable(self, retryable: bool) -> Self {
        Self { retryable, ..self }
    }

    /// Adds `Retry-After`, in whole seconds, rounded up and at least one (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }

    /// Adds `WWW-Authenticate`: how the client should authenticate (RFC 9110 section 11.6.1).
    #[must_use]
    pub fn with_challenge(self, challenge: HeaderValue) -> Self {
        Self {
            challenge: Some(challenge),
            ..self
        }
    }

    /// Adds a member to the body. It does not replace one of the standard members.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Why the layer refused.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// What happened to this request and what to do.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether the same request may be sent again later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        self.retryable
    }

    /// How long a client should wait before it sends the request again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The members that were added.
    pub(crate) const fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The response, with the problem and a [`LocalRejection`] in its extensions.
    #[must_use]
    pub fn into_response(self, base: &ProblemBase) -> Response<Bytes> {
        let mut response = Response::new(self.body(base));
        *response.status_mut() = self.status;

        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(delay).into());
        }

        if let Some(challenge) = &self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        }

        response
            .extensions_mut()
            .insert(LocalRejection::new(self.code));
        response.extensions_mut().insert(self);
        response
    }

    fn body(&self, base: &ProblemBase) -> Bytes {
        // Most fit, so that it need not grow.
        let mut text = Vec::with_capacity(384);
        serde_json::to_writer(
            &mut text,
            &Document {
                problem: self,
                base,
            },
        )
        .expect("keys are strings, and a vector takes all that is written to it");
        text.into()
    }
}

/// The body of a problem's response.
struct Document<'a> {
    problem: &'a Problem,
    base: &'a ProblemBase,
}

impl Document<'_> {
    const TYPE: &'static str = "type";
    const TITLE: &'static str = "title";
    const STATUS: &'static str = "status";
    const DETAIL: &'static str = "detail";
    const CODE: &'static str = "code";
    const RETRYABLE: &'static str = "retryable";

    /// What no added member replaces.
    const STANDARD: [&'static str; 6] = [
        Self::TYPE,
        Self::TITLE,
        Self::STATUS,
        Self::DETAIL,
        Self::CODE,
        Self::RETRYABLE,
    ];
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { problem, base } = self;
        let code = problem.code;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(Self::TYPE, &format_args!("{}#{}", base.0, code.as_str()))?;
        map.serialize_entry(Self::TITLE, code.title())?;
        map.serialize_entry(Self::STATUS, &problem.status.as_u16())?;
        map.serialize_entry(Self::DETAIL, &problem.detail)?;
        map.serialize_entry(Self::CODE, code.as_str())?;
        map.serialize_entry(Self::RETRYABLE, &problem.retryable)?;
        for (name, value) in &problem.members {
            if !Self::STANDARD.contains(&name.as_str()) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

fn whole_seconds(delay: Duration) -> u64 {
    let up = u64::from(delay.subsec_nanos() > 0);
    delay.as_secs().saturating_add(up).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: Problem) -> Value {
        let response = problem.into_response(&ProblemBase::default());
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn the_body_has_the_standard_members_and_ours() {
        let problem = Problem::new(Code::KeyReused, "use a new key")
            .with_member("original-status", 201)
            .with_member("status", 999);

        assert_eq!(
            body(problem),
            serde_json::json!({
                "type": "https://docs.rs/steadfast/latest/steadfast/problems/#key-reused",
                "title": "The key was used for another request",
                "status": 422,
                "detail": "use a new key",
                "code": "key-reused",
                "retryable": false,
                "original-status": 201,
            })
        );
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let seconds = |delay| {
            let response = Problem::new(Code::InProgress, "")
                .with_retry_after(delay)
                .into_response(&ProblemBase::default());
            response.headers()[header::RETRY_AFTER]
                .to_str()
                .unwrap()
                .to_owned()
        };

        assert_eq!(seconds(Duration::ZERO), "1");
        assert_eq!(seconds(Duration::from_millis(1500)), "2");
        assert_eq!(seconds(Duration::from_secs(2)), "2");
    }

    #[test]
    fn the_response_carries_its_typed_cause() {
        let problem = Problem::new(Code::Overloaded, "").with_retryable(false);

        let response = problem.clone().into_response(&ProblemBase::default());

        assert_eq!(response.extensions().get::<Problem>(), Some(&problem));
        assert_eq!(
            response
                .extensions()
                .get::<LocalRejection>()
                .map(|rejection| rejection.code()),
            Some(Code::Overloaded)
        );
    }

    #[test]
    fn the_base_is_the_services_own_if_it_wants() {
        let response =
            Problem::new(Code::MissingKey, "").into_response(&ProblemBase::new("/problems"));

        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["type"], "/problems#missing-key");
    }

    #[test]
    fn no_two_codes_share_a_name() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), Code::ALL.len());
    }
}
