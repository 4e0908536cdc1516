use std::fmt;

use http::{HeaderMap, Response, StatusCode};
use steadfast_core::verdict::{Cause, Failure, Hint, SafetyClass, Verdict};

use super::verdict_of_rejection;
use crate::{
    LocalRejection,
    grpc::{self, Code},
    hint,
};

/// The meaning of gRPC codes.
///
/// | code | verdict |
/// |---|---|
/// | UNAVAILABLE | transient |
/// | RESOURCE_EXHAUSTED | throttled; transient if the server says when to try again, else permanent |
/// | DEADLINE_EXCEEDED | permanent, elapsed: the caller's time is up |
/// | INTERNAL, UNKNOWN, DATA_LOSS | permanent |
/// | CANCELLED | ignored |
/// | any other | success: the destination said in good health that it will not |
///
/// Without a readable `grpc-status` a call is UNKNOWN, never a success.
#[derive(Clone)]
pub struct GrpcRules {
    transient: Codes,
    transient_with_hint: Codes,
}

impl GrpcRules {
    /// Takes this code as a fault that may pass. OK stays a success.
    #[must_use]
    pub const fn add_transient(mut self, code: Code) -> Self {
        self.transient = self.transient.with(code);
        self
    }

    /// Takes this code as final, whatever the server says about when to try again.
    #[must_use]
    pub const fn without_transient(mut self, code: Code) -> Self {
        self.transient = self.transient.without(code);
        self.transient_with_hint = self.transient_with_hint.without(code);
        self
    }

    /// The meaning of a response, told by its head; `None` where the code comes in the trailers.
    ///
    /// The head has it if the response is *Trailers-Only*, or if somebody answered who does not speak gRPC, such as a proxy.
    #[must_use]
    pub fn verdict_of_head<B>(&self, response: &Response<B>) -> Option<Verdict> {
        if let Some(&rejection) = response.extensions().get::<LocalRejection>() {
            return Some(verdict_of_rejection(rejection));
        }
        let headers = response.headers();
        if let Some(code) = grpc::status(headers) {
            return Some(self.verdict(code, headers));
        }
        let status = response.status();
        if status == StatusCode::OK && grpc::is_grpc(headers) {
            return None;
        }
        let verdict = self.verdict(Code::of_http_status(status), headers);
        if let Verdict::Failure(failure) = verdict
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            let throttled = Failure::new(failure.class(), Cause::Throttled);
            return Some(throttled.with_hint(failure.hint()).into());
        }
        Some(verdict)
    }

    /// The meaning of a call's trailers, or of a body that ended without any.
    #[must_use]
    pub fn verdict_of_trailers(&self, trailers: Option<&HeaderMap>) -> Verdict {
        let code = trailers.and_then(grpc::status).unwrap_or(Code::Unknown);
        match trailers {
            Some(trailers) => self.verdict(code, trailers),
            None => self.verdict(code, &HeaderMap::new()),
        }
    }

    fn verdict(&self, code: Code, headers: &HeaderMap) -> Verdict {
        if code == Code::Ok {
            return Verdict::Success;
        }
        let hint = hint::of_grpc(headers);
        let waits = matches!(hint, Some(Hint::After(_)));
        let transient = self.transient.has(code) || waits && self.transient_with_hint.has(code);
        let cause = match code {
            Code::DeadlineExceeded => Cause::Elapsed,
            Code::ResourceExhausted => Cause::Throttled,
            Code::DataLoss | Code::Internal | Code::Unavailable | Code::Unknown => Cause::Fault,
            _ if transient => Cause::Fault,
            Code::Cancelled => return Verdict::Ignored,
            Code::Ok
            | Code::Aborted
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => return Verdict::Success,
        };
        let class = if transient {
            SafetyClass::Transient
        } else {
            SafetyClass::Permanent
        };
        Failure::new(class, cause).with_hint(hint).into()
    }
}

impl Default for GrpcRules {
    fn default() -> Self {
        Self {
            transient: Codes::NONE.with(Code::Unavailable),
            transient_with_hint: Codes::NONE.with(Code::ResourceExhausted),
        }
    }
}

impl fmt::Debug for GrpcRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcRules")
            .field("transient", &self.transient)
            .field("transient_with_hint", &self.transient_with_hint)
            .finish()
    }
}

/// A set of codes, one bit each.
#[derive(Clone, Copy)]
struct Codes(u32);

impl Codes {
    const NONE: Self = Self(0);

    const fn with(self, code: Code) -> Self {
        Self(self.0 | 1 << code.as_u32())
    }

    const fn without(self, code: Code) -> Self {
        Self(self.0 & !(1 << code.as_u32()))
    }

    const fn has(self, code: Code) -> bool {
        self.0 & 1 << code.as_u32() != 0
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes = Code::ALL.iter().filter(|&&code| self.has(code));
        f.debug_set().entries(codes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::problem;

    fn head(headers: &[(&'static str, &str)]) -> Response<()> {
        let mut response = Response::new(());
        for (name, value) in headers {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    }

    fn failure(class: SafetyClass, cause: Cause) -> Verdict {
        Failure::new(class, cause).into()
    }

    #[test]
    fn each_code_has_its_meaning_in_head_and_trailers_alike() {
        use SafetyClass::{Permanent, Transient};

        let rules = GrpcRules::default();
        for &code in Code::ALL {
            let expected = match code {
                Code::Unavailable => failure(Transient, Cause::Fault),
                Code::ResourceExhausted => failure(Permanent, Cause::Throttled),
                Code::DeadlineExceeded => failure(Permanent, Cause::Elapsed),
                Code::Internal | Code::Unknown | Code::DataLoss => failure(Permanent, Cause::Fault),
                Code::Cancelled => Verdict::Ignored,
                Code::Ok
                | Code::Aborted
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::NotFound
                | Code::OutOfRange
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented => Verdict::Success,
            };
            let number = code.as_u32().to_string();
            let response = head(&[("grpc-status", &number)]);
            assert_eq!(rules.verdict_of_head(&response), Some(expected), "{code}");
            assert_eq!(
                rules.verdict_of_trailers(Some(response.headers())),
                expected,
                "{code}"
            );
        }
    }

    #[test]
    fn each_code_can_be_made_transient_and_final_except_ok() {
        for &code in Code::ALL {
            let number = code.as_u32().to_string();
            let response = head(&[("grpc-status", &number), ("grpc-retry-pushback-ms", "5")]);
            let verdict = |rules: GrpcRules| rules.verdict_of_head(&response).unwrap();

            let with = verdict(GrpcRules::default().add_transient(code));
            let without = verdict(GrpcRules::default().without_transient(code));
            if code == Code::Ok {
                assert_eq!((with, without), (Verdict::Success, Verdict::Success));
                continue;
            }
            let Verdict::Failure(with) = with else {
                panic!("{code}: {with:?}");
            };
            assert_eq!(with.class(), SafetyClass::Transient, "{code}");
            assert_eq!(with.hint(), Some(Hint::After(Duration::from_millis(5))));
            if let Verdict::Failure(without) = without {
                assert_eq!(without.class(), SafetyClass::Permanent, "{code}");
            }
        }
    }

    #[test]
    fn what_is_exhausted_is_transient_only_if_the_server_says_when() {
        let verdict = |rules: GrpcRules, pushback: &[(&'static str, &str)]| {
            let mut headers = vec![("grpc-status", "8")];
            headers.extend_from_slice(pushback);
            match rules.verdict_of_head(&head(&headers)) {
                Some(Verdict::Failure(failure)) => {
                    assert_eq!(failure.cause(), Cause::Throttled);
                    (failure.class(), failure.hint())
                }
                other => panic!("{other:?}"),
            }
        };
        let after = Some(Hint::After(Duration::from_millis(250)));

        let rules = GrpcRules::default;
        assert_eq!(
            verdict(rules(), &[("grpc-retry-pushback-ms", "250")]),
            (SafetyClass::Transient, after)
        );
        assert_eq!(
            verdict(rules(), &[("grpc-retry-pushback-ms", "-1")]),
            (SafetyClass::Permanent, Some(Hint::Stop))
        );
        assert_eq!(
            verdict(rules().add_transient(Code::ResourceExhausted), &[]),
            (SafetyClass::Transient, None)
        );
        assert_eq!(
            verdict(
                rules().without_transient(Code::ResourceExhausted),
                &[("grpc-retry-pushback-ms", "250")]
            ),
            (SafetyClass::Permanent, after)
        );
    }

    #[test]
    fn a_pushback_that_says_stop_is_a_hint() {
        let verdict = GrpcRules::default().verdict_of_head(&head(&[
            ("grpc-status", "14"),
            ("grpc-retry-pushback-ms", "-1"),
        ]));

        let stop = Failure::new(SafetyClass::Transient, Cause::Fault).with_hint(Some(Hint::Stop));
        assert_eq!(verdict, Some(stop.into()));
    }

    #[test]
    fn the_code_comes_later_only_in_a_good_grpc_response() {
        let rules = GrpcRules::default();
        let grpc = [("content-type", "application/grpc+proto")];
        assert_eq!(rules.verdict_of_head(&head(&grpc)), None);

        let permanent = failure(SafetyClass::Permanent, Cause::Fault);
        let html = head(&[("content-type", "text/html")]);
        assert_eq!(rules.verdict_of_head(&html), Some(permanent));

        for (status, verdict) in [
            (429, failure(SafetyClass::Transient, Cause::Throttled)),
            (503, failure(SafetyClass::Transient, Cause::Fault)),
            (500, permanent),
            (404, Verdict::Success),
        ] {
            let mut proxy = head(&grpc);
            *proxy.status_mut() = StatusCode::from_u16(status).unwrap();
            assert_eq!(rules.verdict_of_head(&proxy), Some(verdict), "{status}");
        }
    }

    #[test]
    fn a_proxy_can_say_when() {
        let mut proxy = head(&[("retry-after", "3")]);
        *proxy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;

        let hint = Some(Hint::After(Duration::from_secs(3)));
        let expected = Failure::new(SafetyClass::Transient, Cause::Fault).with_hint(hint);
        assert_eq!(
            GrpcRules::default().verdict_of_head(&proxy),
            Some(expected.into())
        );
    }

    #[test]
    fn a_call_without_a_code_is_no_success() {
        let permanent = failure(SafetyClass::Permanent, Cause::Fault);
        let rules = GrpcRules::default();

        assert_eq!(rules.verdict_of_trailers(None), permanent);
        let empty = HeaderMap::new();
        assert_eq!(rules.verdict_of_trailers(Some(&empty)), permanent);
        let unreadable = head(&[("grpc-status", "fine")]);
        assert_eq!(rules.verdict_of_head(&unreadable), Some(permanent));
    }

    #[test]
    fn a_local_rejection_is_ignored_unless_the_attempt_was_too_slow() {
        let verdict = |code| {
            let response = problem::Problem::new(code, "").into_grpc_response();
            GrpcRules::default().verdict_of_head(&response)
        };

        assert_eq!(verdict(problem::Code::CircuitOpen), Some(Verdict::Ignored));
        assert_eq!(
            verdict(problem::Code::AttemptTimeout),
            Some(failure(SafetyClass::Transient, Cause::Elapsed))
        );
    }

    #[test]
    fn the_rules_show_their_sets() {
        assert_eq!(
            format!("{:?}", GrpcRules::default()),
            "GrpcRules { transient: {Unavailable}, transient_with_hint: {ResourceExhausted} }"
        );
    }
}
