use std::{future::Future, time::Duration};

use steadfast_core::verdict::Verdict;
use steadfast_http::problem::Code;
use tokio::time::Instant;
use tower_service::Service;

use crate::{limit::Limit, outcome::RetryOutcome, shared::Shared};

/// One call, as far as its attempts depend on what requests and responses are.
pub(crate) trait Exchange: Send + Sized {
    type Service: Service<Self::Request, Future: Send, Response: Send, Error: Send> + Send;
    type Request: Send;
    /// What was taken back from an attempt, to be sent again.
    type Recalled: Send;
    /// What the caller gets.
    type Output: Send;

    fn shared(&self) -> &Shared;

    /// A service for further attempts, which nobody has polled.
    fn service(&self) -> Self::Service;

    fn is_idempotent(&self) -> bool;

    /// Whether the request can be sent again, byte for byte.
    fn is_replayable(&self) -> bool;

    /// Whether it cannot because there was no token in the budget when it was first sent.
    fn was_unaffordable(&self) -> bool;

    /// What the outcome of the attempt that `limit` bounded means.
    fn verdict(&self, result: &ResultOf<Self>, limit: Option<Limit>) -> Verdict;

    /// Whether the result is no more than the word of a layer beneath that the limit it was told of has passed.
    fn is_cut(result: &ResultOf<Self>, verdict: Verdict) -> bool;

    /// Takes the request back from the last attempt, which loses it; `None` if it cannot be sent again any more. `is_last`: it will
    /// not be recalled once more.
    fn recall(&mut self, is_last: bool) -> Option<Self::Recalled>;

    /// The request of an attempt after so many others.
    fn again(
        &self,
        recalled: Self::Recalled,
        previous: u32,
        limit: Option<Limit>,
        now: Instant,
    ) -> Self::Request;

    /// Lets go of a result that nobody will see, within `time`.
    fn free(result: ResultOf<Self>, time: Duration) -> impl Future<Output = ()> + Send;

    /// What the caller gets of the last result.
    fn finish(&self, result: ResultOf<Self>, outcome: RetryOutcome) -> Self::Output;

    /// What the caller gets where there is no result.
    fn refuse(&self, code: Code, outcome: RetryOutcome) -> Self::Output;

    /// What the caller gets of a result that the layer had no part in.
    fn pass(result: ResultOf<Self>) -> Self::Output;
}

pub(crate) type ResponseOf<X> =
    <<X as Exchange>::Service as Service<<X as Exchange>::Request>>::Response;
pub(crate) type ErrorOf<X> = <<X as Exchange>::Service as Service<<X as Exchange>::Request>>::Error;
pub(crate) type ResultOf<X> = Result<ResponseOf<X>, ErrorOf<X>>;
pub(crate) type AttemptOf<X> =
    <<X as Exchange>::Service as Service<<X as Exchange>::Request>>::Future;
