//! Calls over HTTP and gRPC.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use steadfast_core::verdict::{Cause, SafetyClass, Verdict};
use steadfast_http::{
    BoxError, LocalRejection,
    body::{Replay, ReplayBody},
    classify::{ErrorView, ResponseHead, verdict_of_error},
    grpc,
    problem::{Code, Problem},
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    ResponseBody,
    drain::drain,
    exchange::Exchange,
    head::{Head, Idempotence},
    limit::Limit,
    mode::BodyMode,
    outcome::RetryOutcome,
    policy::Attempted,
    shared::{Core, Shared},
    signal::ELAPSED,
    stamp::stamp,
};

/// One call of an HTTP service.
pub(crate) struct HttpExchange<S, M, V, B> {
    core: Arc<Core<S>>,
    request: Sent<B>,
    mode: PhantomData<fn() -> (M, V)>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every call keeps its request, and a box would cost each of them"
)]
enum Sent<B> {
    Kept(Kept<B>),
    Once {
        idempotence: Idempotence,
        /// Nothing was kept, since the budget had no token.
        unaffordable: bool,
    },
}

/// What further attempts are made of.
struct Kept<B> {
    head: Head,
    replay: Replay<B>,
}

/// The request of a further attempt, but for what is stamped on it.
pub(crate) struct Recalled<B> {
    head: Head,
    body: ReplayBody<B>,
}

impl<S, M, V, B> HttpExchange<S, M, V, B> {
    /// A call whose request can be sent again.
    pub(crate) fn keeping<T>(core: Arc<Core<S>>, request: &Request<T>, replay: Replay<B>) -> Self {
        let head = Head::of(request);
        Self {
            core,
            request: Sent::Kept(Kept { head, replay }),
            mode: PhantomData,
        }
    }

    /// A call whose request is sent once, and that request.
    pub(crate) fn once(
        core: Arc<Core<S>>,
        request: Request<B>,
        unaffordable: bool,
    ) -> (Self, Request<M::Body>)
    where
        M: BodyMode<B>,
    {
        let idempotence = Idempotence::of(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
            &core.shared,
        );
        let exchange = Self {
            core,
            request: Sent::Once {
                idempotence,
                unaffordable,
            },
            mode: PhantomData,
        };
        (exchange, request.map(M::once))
    }

    fn idempotence(&self) -> Idempotence {
        match &self.request {
            Sent::Kept(Kept { head, .. }) => Idempotence::of(
                &head.method,
                &head.uri,
                &head.headers,
                &head.extensions,
                &self.core.shared,
            ),
            Sent::Once { idempotence, .. } => *idempotence,
        }
    }
}

impl<S, M, V, B> HttpExchange<S, M, V, B> {
    #[cold]
    fn judge<RB>(&self, result: &Result<Response<RB>, S::Error>, limit: Option<Limit>) -> Verdict
    where
        M: BodyMode<B>,
        V: ErrorView<S::Error>,
        S: Service<Request<M::Body>>,
    {
        let shared = &self.core.shared;
        let config = shared.config();
        let verdict = match result {
            // A head without a code commits the call, as gRPC does; what comes later is for the caller.
            Ok(response) if shared.is_grpc() => config
                .grpc_rules
                .verdict_of_head(response)
                .unwrap_or(Verdict::Success),
            Ok(response) => config
                .http_rules
                .verdict(response, self.idempotence().marked),
            Err(error) => verdict_of_error(V::view(error)),
        };
        let verdict = match limit {
            Some(limit) if shared.is_grpc() => told_of_limit(verdict, result.as_ref().ok(), limit),
            Some(_) | None => verdict,
        };
        let Some(classifier) = &shared.settings.classifier else {
            return verdict;
        };
        let outcome = match result {
            Ok(response) => Ok(ResponseHead::of(response)),
            Err(error) => Err(V::view(error)),
        };
        classifier(Attempted {
            outcome,
            verdict,
            idempotent: self.idempotence().holds(),
        })
    }
}

impl<S, M, V, B, RB> Exchange for HttpExchange<S, M, V, B>
where
    M: BodyMode<B>,
    V: ErrorView<S::Error>,
    S: Service<Request<M::Body>, Response = Response<RB>> + Clone + Send,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
    RB: Body + Send,
{
    type Service = S;
    type Request = Request<M::Body>;
    type Recalled = Recalled<B>;
    type Output = Result<Response<ResponseBody<RB>>, S::Error>;

    fn shared(&self) -> &Shared {
        &self.core.shared
    }

    fn service(&self) -> S {
        self.core.spare()
    }

    fn is_idempotent(&self) -> bool {
        self.idempotence().holds()
    }

    fn is_replayable(&self) -> bool {
        match &self.request {
            Sent::Kept(kept) => kept.replay.is_replayable(),
            Sent::Once { .. } => false,
        }
    }

    fn was_unaffordable(&self) -> bool {
        match &self.request {
            Sent::Kept(_) => false,
            Sent::Once { unaffordable, .. } => *unaffordable,
        }
    }

    #[inline]
    fn verdict(&self, result: &Result<Response<RB>, S::Error>, limit: Option<Limit>) -> Verdict {
        match result {
            Ok(response) if self.core.shared.is_plain_success(response) => Verdict::Success,
            Ok(_) | Err(_) => self.judge(result, limit),
        }
    }

    fn is_cut(result: &Result<Response<RB>, S::Error>, verdict: Verdict) -> bool {
        match (result, verdict) {
            (Ok(response), _) => {
                let rejection: Option<&LocalRejection> = response.extensions().get();
                rejection.is_some_and(|rejection| rejection.code() == Code::DeadlinePassed)
            }
            (Err(_), Verdict::Failure(failure)) => {
                failure.cause() == Cause::Elapsed && failure.class() == SafetyClass::Transient
            }
            (Err(_), Verdict::Success | Verdict::Ignored | _) => false,
        }
    }

    fn recall(&mut self, _: bool) -> Option<Recalled<B>> {
        let Sent::Kept(kept) = &mut self.request else {
            return None;
        };
        let body = kept.replay.again()?;
        Some(Recalled {
            head: kept.head.clone(),
            body,
        })
    }

    fn again(
        &self,
        recalled: Recalled<B>,
        previous: u32,
        limit: Option<Limit>,
        now: Instant,
    ) -> Request<M::Body> {
        let Recalled { head, body } = recalled;
        let mut request = head.with(M::attempt(body));
        let shared = &self.core.shared;
        let header = if shared.is_grpc() {
            Some(&grpc::PREVIOUS_RPC_ATTEMPTS)
        } else {
            shared.config().attempt_header.as_ref()
        };
        if let Some(header) = header {
            request.headers_mut().insert(header, previous.into());
        }
        if let Some(limit) = limit {
            stamp(&mut request, limit, shared, now);
        }
        request
    }

    async fn free(result: Result<Response<RB>, S::Error>, time: Duration) {
        if let Ok(response) = result {
            drain(response.into_body(), time).await;
        }
    }

    #[inline]
    fn finish(
        &self,
        result: Result<Response<RB>, S::Error>,
        outcome: RetryOutcome,
    ) -> Self::Output {
        let idle = self.shared().config().body_idle_timeout;
        match result {
            Ok(mut response) => {
                if !outcome.goes_without_saying() {
                    response.extensions_mut().insert(outcome);
                }
                Ok(response.map(|body| ResponseBody::passed(body, idle)))
            }
            Err(error) => Err(error),
        }
    }

    fn refuse(&self, code: Code, outcome: RetryOutcome) -> Self::Output {
        let refusal = refusal(&self.core.shared, code, outcome, self.is_idempotent());
        Ok(refusal.map(ResponseBody::own))
    }

    fn pass(result: Result<Response<RB>, S::Error>) -> Self::Output {
        Ok(result?.map(|body| ResponseBody::passed(body, None)))
    }
}

/// A gRPC server was told when the attempt ends, and may say so itself a moment before: with DEADLINE_EXCEEDED, or as tonic does with
/// CANCELLED. That is the end of the attempt, and not of the call.
fn told_of_limit<RB>(verdict: Verdict, response: Option<&Response<RB>>, limit: Limit) -> Verdict {
    let Some(response) = response else {
        return verdict;
    };
    let told = match grpc::status(response.headers()) {
        Some(grpc::Code::DeadlineExceeded | grpc::Code::Cancelled) => {
            response.extensions().get::<LocalRejection>().is_none()
        }
        Some(_) | None => false,
    };
    if told && limit.is_of_attempt() && limit.is_imminent(Instant::now()) {
        let hint = match verdict {
            Verdict::Failure(failure) => failure.hint(),
            Verdict::Success | Verdict::Ignored | _ => None,
        };
        ELAPSED.with_hint(hint).into()
    } else {
        verdict
    }
}

/// What the caller gets where there is no result.
pub(crate) fn refusal(
    shared: &Shared,
    code: Code,
    outcome: RetryOutcome,
    retryable: bool,
) -> Response<Bytes> {
    let attempts = outcome.attempts();
    let detail = match (code, attempts) {
        (Code::AttemptTimeout, _) => {
            format!(
                "the destination did not answer in the time of one attempt; attempts: {attempts}"
            )
        }
        (_, 0) => "the deadline had passed before the request could be sent".to_owned(),
        (_, attempts) => format!(
            "there was no answer before the deadline, or no way to make another attempt in time; attempts: {attempts}"
        ),
    };
    let problem = Problem::new(code, detail);
    let problem = if code == Code::AttemptTimeout {
        problem.with_retryable(retryable)
    } else {
        problem
    };
    let mut response = if shared.is_grpc() {
        problem.into_grpc_response()
    } else {
        problem.into_response(&shared.config().problem_base)
    };
    response.extensions_mut().insert(outcome);
    let Some(refusal) = &shared.settings.refusal else {
        return response;
    };
    response = refusal(response);
    // Also on a response of the hook's own making: layers around this one must not take it for the destination's.
    response.extensions_mut().insert(LocalRejection::new(code));
    response.extensions_mut().insert(outcome);
    response
}
