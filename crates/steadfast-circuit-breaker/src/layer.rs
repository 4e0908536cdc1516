use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;
use http::{Response, request};
use steadfast_core::verdict::Verdict;
use steadfast_http::{
    classify::{Boxed, GrpcRules, HttpRules, ResponseHead},
    problem::ProblemBase,
};
use tower_layer::Layer;

use crate::{CircuitBreaker, Guarded, OnResult, OverHttp, When, http_mode::Protocol};

/// Stops calling what fails, probes it, and comes back. See the [crate docs](crate).
///
/// All state lives in the breakers that it is given: whatever it is applied to, and however often, shares them.
#[derive(Clone)]
#[must_use]
pub struct CircuitBreakerLayer<M = OverHttp, B = CircuitBreaker> {
    mode: M,
    breakers: B,
}

impl<B> CircuitBreakerLayer<OverHttp, B> {
    /// For HTTP, clients and servers alike. A request that does not pass is answered with 503 and `Retry-After`; one whose content
    /// type is gRPC's, with UNAVAILABLE. The outcome of a call is that of its response's head.
    pub const fn http(breakers: B) -> Self {
        Self {
            mode: OverHttp::new(Protocol::Http),
            breakers,
        }
    }

    /// For gRPC, clients and servers alike. A request that does not pass is answered with UNAVAILABLE and pushback. The outcome of a
    /// call is in its trailers.
    pub const fn grpc(breakers: B) -> Self {
        Self {
            mode: OverHttp::new(Protocol::Grpc),
            breakers,
        }
    }
}

impl<C, B> CircuitBreakerLayer<OnResult<C>, B> {
    /// For services that are not HTTP: `classify` says what their results mean. The service's error becomes a
    /// [`BoxError`](steadfast_http::BoxError), since a call that does not pass fails with [`Rejected`](crate::Rejected).
    pub fn new(breakers: B, classify: C) -> Self {
        Self {
            mode: OnResult::new(classify),
            breakers,
        }
    }
}

impl<V, B> CircuitBreakerLayer<OverHttp<V>, B> {
    /// When it is clear what a call says of its destination, if its head was good.
    pub fn with_outcome_at(self, when: When) -> Self {
        self.with_mode(|mode| mode.with_when(when))
    }

    /// What HTTP statuses mean.
    pub fn with_http_rules(self, rules: HttpRules) -> Self {
        self.with_mode(|mode| mode.with(|settings| settings.http_rules = rules))
    }

    /// What gRPC codes mean.
    pub fn with_grpc_rules(self, rules: GrpcRules) -> Self {
        self.with_mode(|mode| mode.with(|settings| settings.grpc_rules = rules))
    }

    /// Where the `type` of a problem points.
    pub fn with_problem_base(self, base: ProblemBase) -> Self {
        self.with_mode(|mode| mode.with(|settings| settings.problem_base = base))
    }

    /// Has the last word on what a call says of its destination: it is given the head of the response, or the error, and what the
    /// tables say. It is not asked where trailers or the end of a body decide.
    pub fn with_classifier(
        self,
        classifier: impl Fn(Result<ResponseHead<'_>, &(dyn Error + 'static)>, Verdict) -> Verdict
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let classifier = Arc::new(classifier);
        self.with_mode(|mode| mode.with(|settings| settings.classifier = Some(classifier)))
    }

    /// Answers requests that do not pass: with what is in a cache, for instance, or with less. It is given the head of the request,
    /// and the layer's own answer, whose extensions hold [`Rejected`](crate::Rejected). Metrics still count the rejection, and the
    /// layer's markers are put into the extensions of what it returns.
    pub fn with_fallback(
        self,
        fallback: impl Fn(&request::Parts, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        let fallback = Arc::new(fallback);
        self.with_mode(|mode| mode.with(|settings| settings.fallback = Some(fallback)))
    }

    /// For inner services whose error is a [`BoxError`](steadfast_http::BoxError), such as tower's `Buffer`.
    pub fn with_boxed_errors(self) -> CircuitBreakerLayer<OverHttp<Boxed>, B> {
        self.with_error_view()
    }

    /// Looks into the errors of the inner service by an [`ErrorView`](steadfast_http::classify::ErrorView) of your own: for types
    /// that hold an error and are none.
    pub fn with_error_view<N>(self) -> CircuitBreakerLayer<OverHttp<N>, B> {
        self.with_mode(OverHttp::with_view)
    }
}

impl<M, B> CircuitBreakerLayer<M, B> {
    fn with_mode<N>(self, change: impl FnOnce(M) -> N) -> CircuitBreakerLayer<N, B> {
        CircuitBreakerLayer {
            mode: change(self.mode),
            breakers: self.breakers,
        }
    }
}

impl<S, M: Clone, B: Clone> Layer<S> for CircuitBreakerLayer<M, B> {
    type Service = Guarded<S, M, B>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded::new(inner, self.mode.clone(), self.breakers.clone())
    }
}

impl<M, B: fmt::Debug> fmt::Debug for CircuitBreakerLayer<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}
