//! What a client was told.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

/// An answer of the API, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `Idempotent-Replayed`; the layer's own refusals have none.
    pub(super) replayed: Option<bool>,
    pub(super) retry_after: Option<Duration>,
    /// Whether the layer promises to give it again: not where it says `Idempotent-Stored: false`.
    pub(super) promised: bool,
    pub(super) body: Bytes,
}

/// What an answer says of its charge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Charged {
    pub(super) id: String,
    pub(super) amount: i64,
    pub(super) provider_id: String,
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        Self {
            status,
            replayed: text("idempotent-replayed").and_then(|text| text.parse().ok()),
            retry_after: text(header::RETRY_AFTER.as_str())
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
            promised: text("idempotent-stored") != Some("false"),
            body,
        }
    }

    /// Whether it says that the charge was made.
    pub(super) fn is_charged(&self) -> bool {
        self.status == StatusCode::CREATED
    }

    /// Whether it says that nobody knows what became of the charge: the next request may ask the provider again.
    pub(super) fn is_unknown(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE && !self.is_refused()
    }

    /// Whether it says that the provider is left alone.
    pub(super) fn is_refused(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && self.code().as_deref() == Some("circuit-open")
    }

    /// Whether it is a refusal that the same request, sent again, may not meet.
    pub(super) fn may_pass(&self) -> bool {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => true,
            StatusCode::CONFLICT => self.code().as_deref() == Some("in-progress"),
            _ => false,
        }
    }

    /// The charge that it names.
    pub(super) fn charged(&self) -> Option<Charged> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The code of a problem.
    pub(super) fn code(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Problem {
            code: String,
        }

        serde_json::from_slice::<Problem>(&self.body)
            .ok()
            .map(|problem| problem.code)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if let Some(code) = self.code() {
            write!(f, " {code}")?;
        }
        if let Some(delay) = self.retry_after {
            write!(f, ", Retry-After: {}", delay.as_secs())?;
        }
        if let Some(replayed) = self.replayed {
            write!(f, ", Idempotent-Replayed: {replayed}")?;
        }
        if !self.promised {
            f.write_str(", Idempotent-Stored: false")?;
        }
        if let Some(charged) = self.charged() {
            write!(f, ", {}, {}", shortened(&charged.id), charged.provider_id)?;
        }
        Ok(())
    }
}

/// Enough of a long name to tell it from others: its first 11 characters.
pub(super) fn shortened(name: &str) -> String {
    match name.char_indices().nth(11) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;

    use super::*;

    /// An answer with these headers.
    pub(in super::super) fn answer(
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Answer::new(status, &headers, Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_charge_is_shown_with_its_marker_and_both_ids() {
        let body = r#"{"id":"ch_0123456789abcdef","amount":5,"provider_id":"pr_1","x":null}"#;
        let charged = answer(201, &[("idempotent-replayed", "true")], body);

        assert!(charged.is_charged());
        assert_eq!(
            charged.to_string(),
            "201, Idempotent-Replayed: true, ch_01234567…, pr_1"
        );
    }

    #[test]
    fn a_refusal_is_shown_with_its_code_and_when_to_come_back() {
        let body = r#"{"code":"in-progress"}"#;
        let refused = answer(409, &[("retry-after", "2")], body);
        let unstored = answer(422, &[("idempotent-stored", "false")], "");

        assert_eq!(refused.to_string(), "409 in-progress, Retry-After: 2");
        assert_eq!(unstored.to_string(), "422, Idempotent-Stored: false");
    }

    #[test]
    fn a_refusal_by_the_open_circuit_is_no_unknown_outcome() {
        let refused = answer(503, &[], r#"{"code":"circuit-open"}"#);
        let unknown = answer(503, &[], r#"{"code":"provider-unavailable"}"#);

        assert!(refused.is_refused() && !refused.is_unknown());
        assert!(unknown.is_unknown() && !unknown.is_refused());
        assert!(refused.may_pass() && unknown.may_pass());
    }

    #[test]
    fn only_a_pending_charge_and_an_outage_may_pass() {
        for (status, body, may_pass) in [
            (409, r#"{"code":"in-progress"}"#, true),
            (409, r#"{"code":"outcome-unknown"}"#, false),
            (503, "", true),
            (500, "", false),
            (422, r#"{"code":"key-reused"}"#, false),
        ] {
            let answer = answer(status, &[], body);
            assert_eq!(answer.may_pass(), may_pass, "{status} {body}");
        }
    }
}
