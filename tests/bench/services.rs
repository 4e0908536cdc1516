//! The services that layers are put around.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers any request at once: what is measured around it is the layer.
#[derive(Clone, Copy)]
pub(crate) struct Instantly {
    pub(crate) answer: fn() -> Answer,
}

impl<B> Service<Request<B>> for Instantly {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok((self.answer)()))
    }
}

/// Reads the body of a request to its end, as whoever sends it does, and answers at once.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) answer: fn() -> Answer,
}

impl<B> Service<Request<B>> for Reading
where
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut body = request.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        while !body.is_end_stream() {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
                panic!("the body is not there as a whole");
            };
            drop(black_box(frame));
        }
        ready(Ok((self.answer)()))
    }
}
