//! Calls over HTTP and gRPC.

use std::{
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body;
use steadfast_core::verdict::{Cause, SafetyClass, Verdict};
use steadfast_http::{
    BoxError, Deadline, IdempotentRequest, LocalRejection,
    body::{Replay, ReplayBody},
    classify::{ErrorView, ResponseHead, verdict_of_error},
    grpc,
    problem::{Code, Problem},
};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::{
    ResponseBody,
    exchange::Exchange,
    key::has_key,
    limit::Limit,
    mode::BodyMode,
    outcome::RetryOutcome,
    policy::Attempted,
    shared::{Core, Shared},
    signal::ELAPSED,
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

/// All of a request but its body.
#[derive(Clone)]
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            extensions: request.extensions().clone(),
        }
    }

    fn with<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

/// The request of a further attempt, but for what is stamped on it.
pub(crate) struct Recalled<B> {
    head: Head,
    body: ReplayBody<B>,
}

/// What is known of the operation.
#[derive(Clone, Copy)]
struct Idempotence {
    by_method: bool,
    marked: bool,
}

impl Idempotence {
    fn of(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
        shared: &Shared,
    ) -> Self {
        let marked = extensions.get::<IdempotentRequest>().is_some()
            || shared.settings.trusts_key_header && has_key(headers);
        let by_method = if shared.is_grpc() {
            let methods = &shared.config().idempotent_grpc_methods;
            !methods.is_empty() && methods.contains(uri.path())
        } else {
            is_idempotent(method)
        };
        Self { by_method, marked }
    }

    const fn holds(self) -> bool {
        self.by_method || self.marked
    }
}

/// RFC 9110 section 9.2.2; and the method QUERY, of draft-ietf-httpbis-safe-method-w-body.
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "QUERY"
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

/// Tells what is beneath until when the attempt may take: layers by the extension, a gRPC server by `grpc-timeout`.
pub(crate) fn stamp<B>(request: &mut Request<B>, limit: Limit, shared: &Shared, now: Instant) {
    let deadline = limit.deadline();
    request.extensions_mut().insert(deadline);
    if shared.is_grpc() {
        let timeout = grpc::timeout_value(deadline.remaining(now));
        request.headers_mut().insert(grpc::TIMEOUT, timeout);
    }
}

/// Until when the caller waits: by the extension of its request, and by `grpc-timeout`.
pub(crate) fn deadline_of<B>(
    request: &Request<B>,
    shared: &Shared,
    now: Instant,
) -> Option<Deadline> {
    let header = || -> Option<Deadline> {
        let timeout = grpc::timeout(request.headers())?;
        now.checked_add(timeout).map(Deadline::at)
    };
    let configured = shared.config().deadline_from(now);
    let extension = request.extensions().get().copied();
    let header = if shared.is_grpc() { header() } else { None };
    [configured, extension, header].into_iter().flatten().min()
}

/// Whether [`deadline_of`] may find something in the request.
pub(crate) fn names_a_deadline<B>(request: &Request<B>, shared: &Shared) -> bool {
    request.extensions().get::<Deadline>().is_some()
        || shared.is_grpc() && request.headers().contains_key(grpc::TIMEOUT)
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

/// Reads a short body to its end, so that its connection can be used again. A long one, or one that does not come, is dropped.
async fn drain<RB: Body>(body: RB, time: Duration) {
    if body.size_hint().lower() > MAX_DRAINED {
        return;
    }
    let drained = async {
        let mut body = pin!(body);
        let mut read = 0;
        while read <= MAX_DRAINED {
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    let data = frame.into_data();
                    let bytes = data.map_or(0, |data| bytes::Buf::remaining(&data) as u64);
                    read += bytes.max(LEAST_FRAME);
                }
                Some(Err(_)) | None => return,
            }
        }
    };
    if time.is_zero() {
        // Even the shortest timer lasts until its next tick.
        let mut drained = pin!(drained);
        return poll_fn(|cx| {
            let _ = drained.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
    // Out of time, it is dropped: that is all that there is to do.
    let _ = timeout(time.min(DRAIN_TIME), drained).await;
}

/// About what the answer to a failed call holds, and what a connection's buffers hold anyway.
const MAX_DRAINED: u64 = 16 << 10;

/// What a frame counts for at least: a body may consist of empty ones, and be there all at once.
const LEAST_FRAME: u64 = 64;

/// What is on its way arrives within it.
const DRAIN_TIME: Duration = Duration::from_millis(20);

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
