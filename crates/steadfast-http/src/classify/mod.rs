//! What an outcome means: HTTP statuses, gRPC codes and errors of transports as [verdicts](steadfast_core::verdict).
//!
//! Retry and circuit breaker read the same verdict. It tells the truth about one attempt; whether the attempt is repeated also
//! depends on the request, the budget and the time that is left.

mod grpc;
mod head;
mod http;
mod transport;
mod view;

use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};

pub(crate) use self::transport::sources;
pub use self::{
    grpc::GrpcRules,
    head::ResponseHead,
    http::HttpRules,
    transport::verdict_of_error,
    view::{Boxed, ErrorView, Typed},
};
use crate::{LocalRejection, problem::Code};

/// The meaning of a response that one of our layers made up.
fn verdict_of_rejection(rejection: LocalRejection) -> Verdict {
    // Which layer holds the timer does not change that the destination was too slow.
    if rejection.code() == Code::AttemptTimeout {
        Failure::new(SafetyClass::Transient, Cause::Elapsed).into()
    } else {
        Verdict::Ignored
    }
}
