//! What the types promise, checked when this compiles.

use std::{cell::Cell, fmt::Debug};

use bytes::Bytes;
use http_body_util::{Full, combinators::UnsyncBoxBody};
use steadfast::{
    circuit_breaker::{
        BreakerConfig, BreakerRegistry, CircuitBreaker, CircuitBreakerLayer, Destination, Guarded,
        InvalidBreaker, OnResult, OverHttp, PerDestination, Permit, Rejected,
        ResponseBody as GuardedBody, ResponseFuture as GuardedFuture, Snapshot, Transition,
    },
    client_metrics::{ClientMetrics, ClientMetricsLayer, ResponseFuture as MeasuredFuture},
    http::body::{
        BytePool, Captured, CapturedBody, Collector, ReplayBody, ReplyBody, Reservation, Unfinished,
    },
    idempotency::{
        ConfigError, Idempotency, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer,
        MissingOperation, Operation, ResponseFuture, Undrained,
        scope::{BearerToken, FromExtension, NoPrincipal, Principal},
    },
    retry::{
        Budget, ConfigError as RetryConfigError, Custom, CustomFuture, Elapsed,
        IdempotencyKeyLayer, Policy, ResponseBody, ResponseFuture as RetryFuture, Retry,
        RetryConfig, RetryLayer, RetryOutcome, SameBody, SetIdempotencyKey, Wrapped,
    },
    store::Store,
};
use tower::{
    Service,
    util::{BoxCloneService, BoxCloneSyncService},
};

fn shared<T: Send + Sync + 'static>() {}
fn sent<T: Send + 'static>() {}
fn cloned<T: Clone>() {}
fn unpinned<T: Unpin>() {}
fn shown<T: Debug>() {}
fn defaulted<T: Default>() {}

type Whole = Full<Bytes>;
type Unshared = UnsyncBoxBody<Bytes, std::io::Error>;

/// Neither the store nor its error is asked for `Clone`, `Debug` or `Default`.
fn for_any_store<St: Store>() {
    shared::<IdempotencyLayer<St>>();
    cloned::<IdempotencyLayer<St>>();
    shown::<IdempotencyLayer<St>>();

    shared::<IdempotencyHandle<St>>();
    cloned::<IdempotencyHandle<St>>();
    shown::<IdempotencyHandle<St>>();

    shared::<Idempotency<axum::Router, St>>();
    cloned::<Idempotency<axum::Router, St>>();
    shown::<Idempotency<axum::Router, St>>();
}

#[test]
fn layer_service_and_handle_can_go_anywhere_and_be_cloned() {
    for_any_store::<steadfast::store::MemoryStore>();
    for_any_store::<steadfast::store::DynStore>();
    for_any_store::<steadfast::store_sqlite::SqliteStore>();
    for_any_store::<steadfast::store_postgres::PostgresStore>();

    // A service within that is not `Sync` leaves the service usable where `Sync` is not asked for.
    sent::<Idempotency<Cell<u8>, steadfast::store::MemoryStore>>();
}

/// Neither the view of errors nor a policy is asked for `Clone`, `Debug`, `Send` or `Sync` beyond its own trait.
fn for_any_mode<M: Clone + Debug + Send + Sync + 'static, V: 'static>() {
    shared::<RetryLayer<M, V>>();
    cloned::<RetryLayer<M, V>>();
    shown::<RetryLayer<M, V>>();

    shared::<Retry<axum::Router, M, V>>();
    cloned::<Retry<axum::Router, M, V>>();
    shown::<Retry<axum::Router, M, V>>();

    // A service within that is not `Sync` leaves the service usable where `Sync` is not asked for.
    sent::<Retry<Cell<u8>, M, V>>();
    cloned::<Retry<Cell<u8>, M, V>>();
}

/// A view that cannot leave its thread: there is never a value of it.
type Stuck = std::rc::Rc<u8>;

fn for_any_policy<P: Send + Sync + 'static>() {
    for_any_mode::<Custom<P>, Stuck>();
}

#[test]
fn layer_and_service_of_retries_can_go_anywhere_and_be_cloned() {
    struct Plain;

    for_any_mode::<Wrapped, Stuck>();
    for_any_mode::<SameBody, Stuck>();
    for_any_policy::<Plain>();
}

#[test]
fn layer_and_service_of_keys_can_go_anywhere_and_be_cloned() {
    shared::<IdempotencyKeyLayer>();
    cloned::<IdempotencyKeyLayer>();
    shown::<IdempotencyKeyLayer>();
    defaulted::<IdempotencyKeyLayer>();

    shared::<SetIdempotencyKey<axum::Router>>();
    cloned::<SetIdempotencyKey<axum::Router>>();
    shown::<SetIdempotencyKey<axum::Router>>();
    sent::<SetIdempotencyKey<Cell<u8>>>();
}

#[test]
fn the_future_of_retries_can_move_between_threads() {
    type Boxed<B> = BoxCloneService<http::Request<B>, http::Response<Unshared>, crate::laws::Oops>;
    type Over<B> = RetryFuture<Boxed<ReplayBody<B>>, Wrapped, Stuck, B, Unshared>;

    sent::<Over<Whole>>();
    sent::<Over<Unshared>>();
    shown::<Over<Unshared>>();
    sent::<RetryFuture<Boxed<axum::body::Body>, SameBody, Stuck, axum::body::Body, Unshared>>();
    sent::<RetryFuture<Boxed<tonic::body::Body>, SameBody, Stuck, tonic::body::Body, Unshared>>();
}

/// The service is asked for no more than its own box is, and neither are requests and responses.
fn for_any_exchange<P, Req, Res>()
where
    P: Policy<Req, Res, crate::laws::Oops>,
    Req: Send + 'static,
    Res: Send + 'static,
{
    sent::<CustomFuture<BoxCloneService<Req, Res, crate::laws::Oops>, P, Req>>();
    shown::<CustomFuture<BoxCloneService<Req, Res, crate::laws::Oops>, P, Req>>();
    shared::<Retry<BoxCloneSyncService<Req, Res, crate::laws::Oops>, Custom<P>>>();
}

#[test]
fn the_future_of_retries_by_a_policy_can_move_between_threads() {
    struct Never;
    impl Policy<Cell<u8>, Cell<u8>, crate::laws::Oops> for Never {
        fn copy(&self, _: &Cell<u8>) -> Option<Cell<u8>> {
            None
        }

        fn verdict(
            &self,
            _: Result<&Cell<u8>, &crate::laws::Oops>,
        ) -> steadfast::core::verdict::Verdict {
            steadfast::core::verdict::Verdict::Success
        }
    }

    for_any_exchange::<Never, Cell<u8>, Cell<u8>>();
}

#[test]
fn the_future_can_move_between_threads() {
    sent::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
    shown::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
    sent::<ResponseFuture<std::future::Ready<()>, Unshared, std::convert::Infallible>>();
    unpinned::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
}

/// Neither the view of errors nor a function of results is asked for `Clone` or `Debug`.
fn for_any_breakers<M, B>()
where
    M: Clone + Send + Sync + 'static,
    B: Clone + Debug + Send + Sync + 'static,
{
    shared::<CircuitBreakerLayer<M, B>>();
    cloned::<CircuitBreakerLayer<M, B>>();
    shown::<CircuitBreakerLayer<M, B>>();

    shared::<Guarded<axum::Router, M, B>>();
    cloned::<Guarded<axum::Router, M, B>>();
    shown::<Guarded<axum::Router, M, B>>();

    // A service within that is not `Sync` leaves the service usable where `Sync` is not asked for.
    sent::<Guarded<Cell<u8>, M, B>>();
    cloned::<Guarded<Cell<u8>, M, B>>();
}

#[test]
fn layer_and_service_of_breakers_can_go_anywhere_and_be_cloned() {
    /// A function that can neither be copied nor shown.
    struct Plain;

    for_any_breakers::<OverHttp, CircuitBreaker>();
    for_any_breakers::<OverHttp<Stuck>, CircuitBreaker>();
    for_any_breakers::<OverHttp, BreakerRegistry>();
    for_any_breakers::<OverHttp, BreakerRegistry<fn(&Cell<u8>) -> String, String>>();
    for_any_breakers::<OnResult<Plain>, CircuitBreaker>();
}

#[test]
fn the_future_of_breakers_can_move_between_threads() {
    type Boxed<B> = BoxCloneService<http::Request<B>, http::Response<Unshared>, crate::laws::Oops>;
    type Over<B> = GuardedFuture<Boxed<B>, OverHttp, http::Request<B>>;

    sent::<Over<Whole>>();
    sent::<Over<Unshared>>();
    shown::<Over<Unshared>>();

    type Classify = fn(&Result<Cell<u8>, crate::laws::Oops>) -> steadfast::circuit_breaker::Verdict;
    type Plain = BoxCloneService<Cell<u8>, Cell<u8>, crate::laws::Oops>;
    sent::<GuardedFuture<Plain, OnResult<Classify>, Cell<u8>>>();
    shown::<GuardedFuture<Plain, OnResult<Classify>, Cell<u8>>>();
}

#[test]
fn layer_service_and_future_of_client_metrics_can_go_anywhere() {
    /// A future that cannot be shown.
    struct Plain;

    shared::<ClientMetricsLayer>();
    cloned::<ClientMetricsLayer>();
    shown::<ClientMetricsLayer>();
    defaulted::<ClientMetricsLayer>();

    shared::<ClientMetrics<axum::Router>>();
    cloned::<ClientMetrics<axum::Router>>();
    shown::<ClientMetrics<axum::Router>>();
    // A service within that is not `Sync` leaves the service usable where `Sync` is not asked for.
    sent::<ClientMetrics<Cell<u8>>>();
    cloned::<ClientMetrics<Cell<u8>>>();

    shared::<MeasuredFuture<Plain>>();
    shown::<MeasuredFuture<Plain>>();
    unpinned::<MeasuredFuture<Plain>>();
    sent::<MeasuredFuture<Cell<u8>>>();
}

#[test]
fn values_of_the_user_are_shared_and_cloned() {
    shared::<CircuitBreaker>();
    cloned::<CircuitBreaker>();
    shown::<CircuitBreaker>();
    shared::<BreakerRegistry>();
    cloned::<BreakerRegistry>();
    shown::<BreakerRegistry>();
    shared::<BreakerConfig>();
    cloned::<BreakerConfig>();
    shown::<BreakerConfig>();
    defaulted::<BreakerConfig>();
    shared::<InvalidBreaker>();
    cloned::<InvalidBreaker>();
    shared::<Permit>();
    shown::<Permit>();
    shared::<Rejected>();
    cloned::<Rejected>();
    shared::<Snapshot>();
    cloned::<Snapshot>();
    shared::<Transition>();
    cloned::<Transition>();
    shared::<Destination>();
    cloned::<Destination>();
    shared::<PerDestination>();
    shared::<IdempotencyConfig>();
    cloned::<IdempotencyConfig>();
    shown::<IdempotencyConfig>();
    defaulted::<IdempotencyConfig>();
    shared::<ConfigError>();
    shared::<Operation>();
    cloned::<Operation>();
    shared::<MissingOperation>();
    shared::<Undrained>();
    shared::<Principal>();
    shared::<NoPrincipal>();
    shared::<BearerToken>();
    shared::<RetryConfig>();
    cloned::<RetryConfig>();
    shown::<RetryConfig>();
    defaulted::<RetryConfig>();
    shared::<RetryConfigError>();
    shared::<RetryOutcome>();
    cloned::<RetryOutcome>();
    shared::<Elapsed>();
    shared::<Budget>();
    shared::<FromExtension<Cell<u8>, str, fn(&Cell<u8>) -> &str>>();
}

#[test]
fn bodies_are_what_the_body_within_is() {
    shared::<CapturedBody<Whole>>();
    shared::<ReplyBody<Whole>>();
    shared::<Unfinished<Whole>>();
    sent::<CapturedBody<Unshared>>();
    sent::<ReplyBody<Unshared>>();
    sent::<Collector<Unshared>>();
    unpinned::<CapturedBody<Whole>>();
    unpinned::<ReplyBody<Whole>>();
    shown::<CapturedBody<Unshared>>();
    shown::<ReplyBody<Unshared>>();
    defaulted::<CapturedBody<Unshared>>();
    defaulted::<ReplyBody<Unshared>>();
    shared::<ResponseBody<Whole>>();
    sent::<ResponseBody<Unshared>>();
    unpinned::<ResponseBody<Whole>>();
    shown::<ResponseBody<Unshared>>();
    defaulted::<ResponseBody<Unshared>>();
    shared::<GuardedBody<Whole>>();
    sent::<GuardedBody<Unshared>>();
    unpinned::<GuardedBody<Whole>>();
    shown::<GuardedBody<Unshared>>();
    defaulted::<GuardedBody<Unshared>>();
    sent::<ReplayBody<Unshared>>();
    shown::<ReplayBody<Unshared>>();
    shared::<Captured>();
    shared::<BytePool>();
    shared::<Reservation>();
}

/// The error type of a service is the one of the service within.
fn keeps_the_error<S, B, E>()
where
    S: Service<http::Request<B>, Error = E>,
{
}

#[test]
fn an_error_type_is_never_changed() {
    type Around<S> = Idempotency<S, steadfast::store::MemoryStore>;

    keeps_the_error::<Around<axum::Router>, axum::body::Body, std::convert::Infallible>();
    keeps_the_error::<Around<axum::routing::Route>, axum::body::Body, std::convert::Infallible>();
    keeps_the_error::<
        Around<axum::routing::MethodRouter>,
        axum::body::Body,
        std::convert::Infallible,
    >();
    keeps_the_error::<Around<crate::laws::Probe>, Unshared, crate::laws::Oops>();

    type Retried<S, M = Wrapped> = SetIdempotencyKey<Retry<S, M>>;

    keeps_the_error::<Retried<axum::Router>, axum::body::Body, std::convert::Infallible>();
    keeps_the_error::<Retried<axum::Router, SameBody>, axum::body::Body, std::convert::Infallible>(
    );
    keeps_the_error::<Retried<tonic::transport::Channel, SameBody>, tonic::body::Body, _>();
    keeps_the_error::<Retried<crate::laws::Probe>, Unshared, crate::laws::Oops>();

    keeps_the_error::<ClientMetrics<axum::Router>, axum::body::Body, std::convert::Infallible>();
    keeps_the_error::<ClientMetrics<tonic::transport::Channel>, tonic::body::Body, _>();
    keeps_the_error::<ClientMetrics<crate::laws::Probe>, Unshared, crate::laws::Oops>();

    keeps_the_error::<Guarded<axum::Router>, axum::body::Body, std::convert::Infallible>();
    keeps_the_error::<Guarded<tonic::transport::Channel>, tonic::body::Body, _>();
    keeps_the_error::<Guarded<crate::laws::Probe>, Unshared, crate::laws::Oops>();
    keeps_the_error::<Retried<Guarded<axum::Router>>, axum::body::Body, std::convert::Infallible>();
}
