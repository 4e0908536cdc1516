use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use http::Response;
use steadfast_core::{budget::Budget, verdict::Verdict};
use steadfast_http::classify::{Boxed, Typed};
use tower_layer::Layer;

use crate::{
    ConfigError, Retry, RetryConfig,
    mode::{Custom, SameBody, Wrapped, sealed::OverHttp},
    policy::Attempted,
    shared::{Protocol, Settings, Shared},
};

/// Makes another attempt where it is safe, useful and affordable. See the [crate docs](crate).
///
/// All state lives in this value: whatever it is applied to, and however often, shares one budget and one pool of bytes. A setter
/// returns a layer with a pool of its own: apply it and clone it after the last one.
#[must_use]
pub struct RetryLayer<M = Wrapped, V = Typed> {
    shared: Arc<Shared>,
    mode: M,
    view: PhantomData<fn() -> V>,
}

impl RetryLayer {
    /// For HTTP: any client or service that takes a body of any type. See [`with_same_body`](Self::with_same_body) for the others.
    pub fn http() -> Self {
        Self::of(Protocol::Http, Wrapped)
    }
}

impl RetryLayer<SameBody> {
    /// For gRPC: tonic's `Channel`, and whatever else takes the body type of its caller.
    pub fn grpc() -> Self {
        Self::of(Protocol::Grpc, SameBody)
    }
}

impl<P> RetryLayer<Custom<P>> {
    /// For services that are not HTTP: `policy` knows their requests and outcomes. The service's error becomes a
    /// [`BoxError`](steadfast_http::BoxError), since the layer may have to fail by itself, with [`Elapsed`](crate::Elapsed). What a
    /// [`RetryConfig`] says of bodies, headers, statuses and codes means nothing here.
    pub fn new(policy: P) -> Self {
        Self::of(Protocol::Http, Custom(Arc::new(policy)))
    }
}

impl<M> RetryLayer<M> {
    fn of(protocol: Protocol, mode: M) -> Self {
        Self {
            shared: Arc::new(Shared::new(Settings::new(protocol))),
            mode,
            view: PhantomData,
        }
    }
}

impl<M, V> RetryLayer<M, V> {
    /// Takes the numbers and checks them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first value, or pair, that cannot work.
    pub fn with_config(self, config: RetryConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(self.with(|settings| settings.config = config))
    }

    /// Takes retries from this budget, which may be shared with other layers: an `Arc` of it is one budget. Default: a budget of the
    /// layer's own, a fifth of its requests and 10 a second beside.
    pub fn with_budget(self, budget: impl Into<Arc<Budget>>) -> Self {
        let budget = budget.into();
        self.with(|settings| settings.budget = Some(budget))
    }

    /// Retries without a budget. When the destination is down, it gets as many times the load as there are attempts.
    pub fn without_budget(self) -> Self {
        self.with(|settings| settings.budget = None)
    }

    /// The name of this layer in logs and metrics, such as that of its destination. Default `default`.
    pub fn with_name(self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        self.with(|settings| settings.name = name)
    }

    /// Draws the chance of delays from `sampler`: numbers spread evenly over all of `u64`. Default: a generator of each thread, seeded
    /// by the system.
    pub fn with_sampler(self, sampler: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.sampler = Some(Arc::new(sampler)))
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self {
            shared: Arc::new(Shared::new(settings)),
            ..self
        }
    }
}

impl<V> RetryLayer<Wrapped, V> {
    /// Gives the inner service the body type of its caller: for services that take only their own, which must be one that can hold
    /// any other ([`FromBody`](steadfast_http::body::FromBody)).
    pub fn with_same_body(self) -> RetryLayer<SameBody, V> {
        self.in_mode(SameBody)
    }
}

impl<V> RetryLayer<SameBody, V> {
    /// Gives the inner service [`ReplayBody`](steadfast_http::body::ReplayBody): for services that take any body, which spares a box
    /// for each attempt.
    pub fn with_wrapped_body(self) -> RetryLayer<Wrapped, V> {
        self.in_mode(Wrapped)
    }
}

impl<M: OverHttp, V> RetryLayer<M, V> {
    /// Has the last word on what an outcome means. It is asked after each attempt that ended with a response or an error, not after
    /// one that a time limit cut, and finds what the tables say in [`Attempted::verdict`].
    pub fn with_classifier(
        self,
        classifier: impl Fn(Attempted<'_>) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.classifier = Some(Arc::new(classifier)))
    }

    /// Takes every request with an `Idempotency-Key` for idempotent. For destinations that honour the header, all of them: a server
    /// that merely accepts it would do the operation twice.
    pub fn trusting_key_header(self) -> Self {
        self.with(|settings| settings.trusts_key_header = true)
    }

    /// Replaces the layer's own responses. The typed [`Problem`](steadfast_http::problem::Problem) is in the extensions of the
    /// response it is given; [`LocalRejection`](steadfast_http::LocalRejection) and [`RetryOutcome`](crate::RetryOutcome) are put into
    /// those of the one it returns.
    pub fn with_refusal(
        self,
        refusal: impl Fn(Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.refusal = Some(Arc::new(refusal)))
    }

    /// For inner services whose error is a [`BoxError`](steadfast_http::BoxError), such as tower's `Buffer`. What
    /// tower's own errors mean, the tables do not know: a [classifier](Self::with_classifier) says it.
    pub fn with_boxed_errors(self) -> RetryLayer<M, Boxed> {
        self.with_error_view()
    }

    /// Looks into the errors of the inner service by an [`ErrorView`](steadfast_http::classify::ErrorView) of your own: for types
    /// that hold an error and are none.
    pub fn with_error_view<N>(self) -> RetryLayer<M, N> {
        RetryLayer {
            shared: self.shared,
            mode: self.mode,
            view: PhantomData,
        }
    }
}

impl<M, V> RetryLayer<M, V> {
    fn in_mode<N>(self, mode: N) -> RetryLayer<N, V> {
        RetryLayer {
            shared: self.shared,
            mode,
            view: PhantomData,
        }
    }
}

impl<S: Clone, M: Clone, V> Layer<S> for RetryLayer<M, V> {
    type Service = Retry<S, M, V>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(inner, Arc::clone(&self.shared), self.mode.clone())
    }
}

// By hand: a derived one would ask for `V: Clone`.
impl<M: Clone, V> Clone for RetryLayer<M, V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            mode: self.mode.clone(),
            view: PhantomData,
        }
    }
}

impl<M, V> fmt::Debug for RetryLayer<M, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
