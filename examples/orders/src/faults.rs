//! What goes wrong on purpose, to see retries at work.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use steadfast::http::grpc::PREVIOUS_RPC_ATTEMPTS;
use tonic::Status;
use tower::{Layer, Service};

/// Fails the first attempts of each call, as the client counts them: retries say in `grpc-previous-rpc-attempts` how many came before.
/// A client that does not retry is always at its first.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultLayer {
    /// Of each call, so many attempts are refused before anything was done.
    pub fail_first: u32,
    /// Of each call, so many attempts are done, and their answers lost.
    pub lose_first: u32,
}

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty {
            inner,
            faults: *self,
        }
    }
}

/// See [`FaultLayer`].
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    inner: S,
    faults: FaultLayer,
}

impl<S, B, RB> Service<Request<B>> for Faulty<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Future: Send + 'static,
    RB: Default,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<RB>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let earlier = earlier_attempts(&request);
        if earlier < self.faults.fail_first {
            let refused = Status::unavailable("refused on purpose, nothing was done");
            return Box::pin(async move { Ok(refused.into_http()) });
        }
        let is_lost = earlier < self.faults.lose_first;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if is_lost {
                return Ok(Status::unavailable("the answer was lost on purpose").into_http());
            }
            Ok(answer)
        })
    }
}

fn earlier_attempts<B>(request: &Request<B>) -> u32 {
    let value = request.headers().get(PREVIOUS_RPC_ATTEMPTS);
    value
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}
