use std::fmt;

use http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A gRPC status code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code of this number. One that gRPC does not define is [`Unknown`](Self::Unknown), as its documents ask.
            #[must_use]
            pub const fn from_u32(number: u32) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }

            /// The name that gRPC's documents use, such as `UNAVAILABLE`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    /// Success.
    Ok = 0, "OK";
    /// The call was cancelled, typically by its caller.
    Cancelled = 1, "CANCELLED";
    /// Nobody knows.
    Unknown = 2, "UNKNOWN";
    /// The request can never be right.
    InvalidArgument = 3, "INVALID_ARGUMENT";
    /// The deadline passed first; the call may have succeeded.
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED";
    /// What was asked for is not there.
    NotFound = 5, "NOT_FOUND";
    /// What should be made is there.
    AlreadyExists = 6, "ALREADY_EXISTS";
    /// The caller may not do this.
    PermissionDenied = 7, "PERMISSION_DENIED";
    /// A quota, or space, is used up.
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED";
    /// The system is not in the state that this needs.
    FailedPrecondition = 9, "FAILED_PRECONDITION";
    /// A conflict with another call; try again at a higher level.
    Aborted = 10, "ABORTED";
    /// Past the valid range.
    OutOfRange = 11, "OUT_OF_RANGE";
    /// The server does not have this method.
    Unimplemented = 12, "UNIMPLEMENTED";
    /// An invariant is broken.
    Internal = 13, "INTERNAL";
    /// The service cannot be used now; try this call again.
    Unavailable = 14, "UNAVAILABLE";
    /// Data is lost for good.
    DataLoss = 15, "DATA_LOSS";
    /// The caller did not say who it is.
    Unauthenticated = 16, "UNAUTHENTICATED";
}

impl Code {
    /// The number of the code on the wire.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self as u32
    }

    /// What a response without `grpc-status` means: a proxy answered, or nobody who speaks gRPC
    /// ([mapping](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md)).
    #[must_use]
    pub const fn of_http_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_code_and_a_strange_one_is_unknown() {
        assert_eq!(Code::ALL.len(), 17);
        for (number, &code) in (0..).zip(Code::ALL) {
            assert_eq!(Code::from_u32(number), code);
            assert_eq!(code.as_u32(), number);
        }
        assert_eq!(Code::from_u32(17), Code::Unknown);
    }

    #[test]
    fn a_response_without_a_status_is_never_success() {
        for status in 100..=999 {
            let status = StatusCode::from_u16(status).unwrap();
            assert_ne!(Code::of_http_status(status), Code::Ok, "{status}");
        }
        assert_eq!(
            Code::of_http_status(StatusCode::BAD_GATEWAY),
            Code::Unavailable
        );
    }
}
