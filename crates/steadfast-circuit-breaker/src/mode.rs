use steadfast_http::Deadline;

use crate::{Rejected, admission::Pass};

/// What requests, responses and errors are: [`OverHttp`](crate::OverHttp), or [`OnResult`](crate::OnResult) for anything else.
///
/// Nobody else implements it.
pub trait Mode<Req, Res, E>: sealed::Sealed + Clone {
    /// What the layer answers with.
    type Response;
    /// What the layer fails with.
    type Error;

    /// Until when the caller of this request waits.
    #[doc(hidden)]
    fn deadline(&self, request: &Req) -> Option<Deadline>;

    /// The answer to a request that did not pass.
    #[doc(hidden)]
    fn reject(&self, request: Req, rejected: Rejected) -> Result<Self::Response, Self::Error>;

    /// The answer to a request that passed.
    #[doc(hidden)]
    fn finish(
        &self,
        pass: &mut Option<Pass>,
        result: Result<Res, E>,
    ) -> Result<Self::Response, Self::Error>;

    /// An error of the inner service, in the layer's type.
    #[doc(hidden)]
    fn fail(error: E) -> Self::Error;
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "nobody else implements it")]
    pub trait Sealed {}
}
