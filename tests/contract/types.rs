//! What the types promise, checked when this compiles.

use std::{cell::Cell, fmt::Debug};

use bytes::Bytes;
use http_body_util::{Full, combinators::UnsyncBoxBody};
use steadfast::{
    http::body::{BytePool, Captured, CapturedBody, Collector, ReplyBody, Reservation, Unfinished},
    idempotency::{
        ConfigError, Idempotency, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer,
        MissingOperation, Operation, ResponseFuture, Undrained,
        scope::{BearerToken, FromExtension, NoPrincipal, Principal},
    },
    store::Store,
};
use tower::Service;

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

#[test]
fn the_future_can_move_between_threads() {
    sent::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
    shown::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
    sent::<ResponseFuture<std::future::Ready<()>, Unshared, std::convert::Infallible>>();
    unpinned::<ResponseFuture<std::future::Ready<()>, Whole, std::io::Error>>();
}

#[test]
fn values_of_the_user_are_shared_and_cloned() {
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
}
