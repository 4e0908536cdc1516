use std::fmt;

use http::{HeaderMap, Response, StatusCode};
use steadfast_core::verdict::{Cause, Failure, Hint, SafetyClass, Verdict};

use super::verdict_of_rejection;
use crate::{LocalRejection, hint};

/// A status has three digits, the first of them not zero.
const STATUSES: usize = 900;

/// The meaning of HTTP statuses.
///
/// | status | verdict |
/// |---|---|
/// | 408, 500, 502, 503, 504 | transient |
/// | 429 | transient, throttled |
/// | 425 | not processed: the server was not willing to take the risk (RFC 8470, 5.2) |
/// | 409 with `Retry-After`, request marked idempotent | transient: another call with its key is being executed |
/// | any other from 500 on | permanent |
/// | any other | success: the destination said in good health that it will not |
///
/// The transient ones can be changed, one by one. 500 is often a bug that every attempt meets again;
/// `without_transient(StatusCode::INTERNAL_SERVER_ERROR)` makes it permanent. 421 asks for another connection, which a layer in
/// front of a client cannot choose: it is left to the caller.
#[derive(Clone)]
pub struct HttpRules {
    transient: [u64; STATUSES.div_ceil(64)],
}

impl HttpRules {
    /// Statuses that are transient unless said otherwise.
    pub const DEFAULT_TRANSIENT: [StatusCode; 7] = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];

    /// Takes this status as a fault that may pass.
    #[must_use]
    pub fn add_transient(mut self, status: StatusCode) -> Self {
        let (word, bit) = place(status);
        self.transient[word] |= bit;
        self
    }

    /// Takes this status as final: from 500 on, and for 429, as a permanent failure, else as the answer of a healthy destination.
    #[must_use]
    pub fn without_transient(mut self, status: StatusCode) -> Self {
        let (word, bit) = place(status);
        self.transient[word] &= !bit;
        self
    }

    /// The meaning of a response, told by its head.
    ///
    /// `marked_idempotent`: the request was marked ([`IdempotentRequest`](crate::IdempotentRequest)), not merely of an idempotent
    /// method. Only a destination that keeps keys answers 409 while it executes another call with the same key; elsewhere 409 is a
    /// conflict that stays.
    #[must_use]
    pub fn verdict<B>(&self, response: &Response<B>, marked_idempotent: bool) -> Verdict {
        match response.extensions().get::<LocalRejection>() {
            Some(&rejection) => verdict_of_rejection(rejection),
            None => {
                self.verdict_of_status(response.status(), response.headers(), marked_idempotent)
            }
        }
    }

    /// Whether the response is a success at first sight: most are, and need no further look. A `false` says nothing.
    #[must_use]
    #[inline]
    pub fn is_plain_success<B>(&self, response: &Response<B>) -> bool {
        let status = response.status();
        status.is_success()
            && !self.is_transient(status)
            && response.extensions().get::<LocalRejection>().is_none()
    }

    pub(super) fn verdict_of_status(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        marked_idempotent: bool,
    ) -> Verdict {
        let transient = self.is_transient(status);
        if !transient && (status.is_success() || status.is_informational()) {
            return Verdict::Success;
        }

        let hint = hint::of_http(status, headers);
        let waits = matches!(hint, Some(Hint::After(_)));
        let (class, cause) = match status {
            StatusCode::CONFLICT if marked_idempotent && waits => {
                (SafetyClass::Transient, Cause::InProgress)
            }
            StatusCode::TOO_EARLY if transient => (SafetyClass::NotProcessed, Cause::TooEarly),
            StatusCode::TOO_MANY_REQUESTS => (class(transient), Cause::Throttled),
            // RFC 9110, 15: a status that has no class is taken as a 5xx.
            _ if transient || status.as_u16() >= 500 => (class(transient), Cause::Fault),
            _ => return Verdict::Success,
        };
        Failure::new(class, cause).with_hint(hint).into()
    }

    #[inline]
    fn is_transient(&self, status: StatusCode) -> bool {
        let (word, bit) = place(status);
        self.transient[word] & bit != 0
    }
}

impl Default for HttpRules {
    fn default() -> Self {
        let none = Self {
            transient: [0; STATUSES.div_ceil(64)],
        };
        Self::DEFAULT_TRANSIENT
            .into_iter()
            .fold(none, Self::add_transient)
    }
}

impl fmt::Debug for HttpRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transient: Vec<_> = (100..=999)
            .filter_map(|number| StatusCode::from_u16(number).ok())
            .filter(|&status| self.is_transient(status))
            .collect();
        f.debug_struct("HttpRules")
            .field("transient", &transient)
            .finish()
    }
}

const fn class(transient: bool) -> SafetyClass {
    if transient {
        SafetyClass::Transient
    } else {
        SafetyClass::Permanent
    }
}

#[inline]
fn place(status: StatusCode) -> (usize, u64) {
    let index = usize::from(status.as_u16()) - 100;
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::problem;

    const RETRY_AFTER: Option<Hint> = Some(Hint::After(Duration::from_secs(7)));

    fn response(status: u16) -> Response<()> {
        Response::builder().status(status).body(()).unwrap()
    }

    fn hinted(status: u16) -> Response<()> {
        let mut response = response(status);
        let headers = response.headers_mut();
        headers.insert("retry-after", "7".parse().unwrap());
        response
    }

    fn failure(class: SafetyClass, cause: Cause) -> Verdict {
        Failure::new(class, cause).into()
    }

    #[test]
    fn each_status_has_its_meaning() {
        use SafetyClass::{NotProcessed, Permanent, Transient};

        let rules = HttpRules::default();
        for number in 100..=999 {
            let expected = match number {
                408 | 500 | 502 | 503 | 504 => failure(Transient, Cause::Fault),
                425 => failure(NotProcessed, Cause::TooEarly),
                429 => failure(Transient, Cause::Throttled),
                500.. => failure(Permanent, Cause::Fault),
                _ => Verdict::Success,
            };
            for marked in [false, true] {
                let verdict = rules.verdict(&response(number), marked);
                assert_eq!(verdict, expected, "{number}, marked: {marked}");
            }
        }
    }

    #[test]
    fn an_entry_can_be_added_and_taken_out() {
        let rules = HttpRules::default()
            .add_transient(StatusCode::LOCKED)
            .add_transient(StatusCode::from_u16(999).unwrap())
            .without_transient(StatusCode::INTERNAL_SERVER_ERROR)
            .without_transient(StatusCode::TOO_MANY_REQUESTS)
            .without_transient(StatusCode::TOO_EARLY)
            .without_transient(StatusCode::GONE);

        let verdict = |status| rules.verdict(&response(status), false);
        let transient = failure(SafetyClass::Transient, Cause::Fault);
        assert_eq!(verdict(423), transient);
        assert_eq!(verdict(999), transient);
        assert_eq!(
            verdict(500),
            failure(SafetyClass::Permanent, Cause::Fault),
            "it stays a failure of the destination"
        );
        assert_eq!(
            verdict(429),
            failure(SafetyClass::Permanent, Cause::Throttled)
        );
        assert_eq!(verdict(425), Verdict::Success);
        assert_eq!(verdict(410), Verdict::Success);
        assert_eq!(verdict(503), transient, "the others stand");
        assert_eq!(
            format!("{rules:?}"),
            "HttpRules { transient: [408, 423, 502, 503, 504, 999] }"
        );
    }

    #[test]
    fn a_conflict_is_an_operation_in_progress_only_with_a_key_and_a_hint() {
        let rules = HttpRules::default();
        let in_progress = Failure::new(SafetyClass::Transient, Cause::InProgress);

        assert_eq!(
            rules.verdict(&hinted(409), true),
            in_progress.with_hint(RETRY_AFTER).into()
        );
        assert_eq!(rules.verdict(&hinted(409), false), Verdict::Success);
        assert_eq!(rules.verdict(&response(409), true), Verdict::Success);

        let mut unreadable = response(409);
        let headers = unreadable.headers_mut();
        headers.insert("retry-after", "soon".parse().unwrap());
        assert_eq!(rules.verdict(&unreadable, true), Verdict::Success);
    }

    #[test]
    fn a_conflict_that_was_made_transient_keeps_its_hint() {
        let rules = HttpRules::default().add_transient(StatusCode::CONFLICT);

        let fault = Failure::new(SafetyClass::Transient, Cause::Fault);
        assert_eq!(
            rules.verdict(&hinted(409), false),
            fault.with_hint(RETRY_AFTER).into()
        );
        assert_eq!(rules.verdict(&response(409), true), fault.into());
    }

    #[test]
    fn a_hint_counts_only_where_it_has_a_meaning() {
        let rules = HttpRules::default();

        for (status, cause, hint) in [
            (503, Cause::Fault, RETRY_AFTER),
            (429, Cause::Throttled, RETRY_AFTER),
            (500, Cause::Fault, None),
            (502, Cause::Fault, None),
            (504, Cause::Fault, None),
        ] {
            let expected = Failure::new(SafetyClass::Transient, cause).with_hint(hint);
            assert_eq!(
                rules.verdict(&hinted(status), false),
                expected.into(),
                "{status}"
            );
        }
    }

    #[test]
    fn a_local_rejection_is_ignored_unless_the_attempt_was_too_slow() {
        for &code in problem::Code::ALL {
            let mut response = response(503);
            response.extensions_mut().insert(LocalRejection::new(code));

            let expected = if code == problem::Code::AttemptTimeout {
                failure(SafetyClass::Transient, Cause::Elapsed)
            } else {
                Verdict::Ignored
            };
            assert_eq!(HttpRules::default().verdict(&response, true), expected);
        }
    }
}
