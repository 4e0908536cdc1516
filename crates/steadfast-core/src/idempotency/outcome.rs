/// What the end of an execution means for its record.
///
/// A handler that was started is presumed to have had effects. Only its own word, or a status that by its meaning comes before
/// any execution, releases the key (idempotency I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing happened: the record goes, and the next request with the key runs anew.
    Release,
    /// This is the answer: it is kept and replayed.
    Store,
    /// Nobody knows what happened: the owner abandons its claim. What follows is the promise's choice: the next request takes
    /// over at once ([`AtLeastOnce`](super::Promise::AtLeastOnce)), or nobody runs it until it is resolved
    /// ([`AtMostOnce`](super::Promise::AtMostOnce)).
    Unknown,
}

impl Outcome {
    /// What an HTTP status means, unless the handler says otherwise.
    #[must_use]
    pub const fn of_http_status(status: u16) -> Self {
        match status {
            401 | 407 | 411 | 413 | 415 | 417 | 421 | 425 | 426 | 428 | 431 => Self::Release,
            408 | 429 => Self::Unknown,
            101 | 200..=499 => Self::Store,
            _ => Self::Unknown,
        }
    }

    /// What a gRPC status code means, unless the handler says otherwise.
    ///
    /// An unknown code is treated as `UNKNOWN`, as the gRPC status documents ask of clients.
    #[must_use]
    pub const fn of_grpc_code(code: u32) -> Self {
        match code {
            // OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE
            0 | 3 | 5 | 6 | 7 | 9 | 11 => Self::Store,
            // UNIMPLEMENTED, UNAUTHENTICATED
            12 | 16 => Self::Release,
            _ => Self::Unknown,
        }
    }

    /// The word for logs and span fields.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Store => "store",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_a_redirect_and_a_refusal_of_the_business_are_answers() {
        for status in [
            101, 200, 201, 204, 303, 400, 402, 403, 404, 409, 410, 412, 422, 451,
        ] {
            assert_eq!(Outcome::of_http_status(status), Outcome::Store, "{status}");
        }
    }

    #[test]
    fn a_status_that_comes_before_execution_releases() {
        for status in [401, 407, 411, 413, 415, 417, 421, 425, 426, 428, 431] {
            assert_eq!(
                Outcome::of_http_status(status),
                Outcome::Release,
                "{status}"
            );
        }
    }

    #[test]
    fn a_timeout_a_throttle_and_every_server_error_are_unknown() {
        for status in [408, 429, 500, 501, 502, 503, 504, 507, 511, 599, 999] {
            assert_eq!(
                Outcome::of_http_status(status),
                Outcome::Unknown,
                "{status}"
            );
        }
    }

    #[test]
    fn grpc_codes_follow_the_same_line() {
        for code in [0, 3, 5, 6, 7, 9, 11] {
            assert_eq!(Outcome::of_grpc_code(code), Outcome::Store, "{code}");
        }
        for code in [12, 16] {
            assert_eq!(Outcome::of_grpc_code(code), Outcome::Release, "{code}");
        }
        for code in [1, 2, 4, 8, 10, 13, 14, 15, 17, u32::MAX] {
            assert_eq!(Outcome::of_grpc_code(code), Outcome::Unknown, "{code}");
        }
    }
}
