//! Body types of others that hold one of ours.
#![cfg(any(feature = "axum", feature = "reqwest", feature = "tonic"))]

use std::error::Error;

use bytes::Bytes;
use http_body::Body;
#[cfg(feature = "reqwest")]
use http_body_util::{Empty, combinators::UnsyncBoxBody};
use steadfast_http::{
    BoxError,
    body::{BytePool, FromBody, Replay, ReplayBody},
};

use super::support::{Item, Original, Step, next, read};

const LIMIT: usize = 64 * 1024;

#[cfg(feature = "axum")]
#[test]
fn axum_s_body_holds_an_attempt() {
    holds_every_attempt::<axum_core::body::Body>();
    passes_its_error_on::<axum_core::body::Body>();
}

#[cfg(feature = "tonic")]
#[test]
fn tonic_s_body_holds_an_attempt() {
    holds_every_attempt::<tonic::body::Body>();
    passes_its_error_on::<tonic::body::Body>();
}

#[cfg(feature = "reqwest")]
#[test]
fn reqwest_s_body_holds_an_attempt() {
    holds_every_attempt::<reqwest::Body>();
    passes_its_error_on::<reqwest::Body>();
}

#[cfg(feature = "reqwest")]
#[test]
fn reqwest_s_body_holds_one_that_is_not_sync() {
    let body = UnsyncBoxBody::new(Original::of([Item::data("one")]));

    let mut body = reqwest::Body::from_body(ReplayBody::untouched(body));

    assert_eq!(body.size_hint().exact(), Some(3));
    assert_eq!(read(&mut body), [Item::data("one")]);
}

#[cfg(feature = "reqwest")]
#[test]
fn reqwest_s_own_body_stays_one_that_it_can_send_again() {
    let body = reqwest::Body::from_body(reqwest::Body::from("known"));
    assert_eq!(body.as_bytes(), Some(&b"known"[..]));

    let body = reqwest::Body::from_body(Empty::new());
    assert_eq!(body.as_bytes(), Some(&b""[..]));
}

fn holds_every_attempt<F>()
where
    F: FromBody + Body<Data = Bytes> + Unpin,
    F::Error: Into<BoxError>,
{
    let items = [Item::data("four"), Item::data("five!"), Item::trailers("1")];
    let original = Original::of(items.clone());
    let (mut replay, mut body) = Replay::new(original, LIMIT, &BytePool::new(LIMIT));

    for _ in 0..2 {
        let mut held = F::from_body(body);
        assert_eq!(held.size_hint().exact(), Some(9));
        assert!(!held.is_end_stream());
        assert_eq!(read(&mut held), items);
        assert_eq!(held.size_hint().exact(), Some(0));
        assert!(held.is_end_stream());
        body = replay.again().unwrap();
    }

    assert!(F::from_body(ReplayBody::<Original>::default()).is_end_stream());
}

fn passes_its_error_on<F>()
where
    F: FromBody + Body<Data = Bytes> + Unpin,
    F::Error: Into<BoxError>,
{
    let original = Original::new([Step::Fail("cut")]);
    let mut held = F::from_body(ReplayBody::untouched(original));

    let Some(Err(error)) = next(&mut held) else {
        panic!("it did not fail");
    };

    let error = error.into();
    let mut cause = Some(&*error as &dyn Error);
    while let Some(error) = cause
        && error.to_string() != "cut"
    {
        cause = error.source();
    }
    assert!(cause.is_some());
}
