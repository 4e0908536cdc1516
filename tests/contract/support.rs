use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use http_body_util::BodyExt;
use steadfast::idempotency::{IdempotencyConfig, IdempotencyLayer, Promise, scope};
use steadfast::store::Store;

pub(crate) const PROMISES: [Promise; 2] = [Promise::AtMostOnce, Promise::AtLeastOnce];

pub(crate) fn layer<St: Store>(promise: Promise, store: St) -> IdempotencyLayer<St> {
    match promise {
        Promise::AtMostOnce => IdempotencyLayer::at_most_once(store, scope::shared()),
        Promise::AtLeastOnce => IdempotencyLayer::at_least_once(store, scope::shared()),
        other => panic!("no constructor is known for {other}"),
    }
    .unwrap()
}

/// A duplicate of a running operation gets its 409 at once.
pub(crate) fn without_waiting() -> IdempotencyConfig {
    IdempotencyConfig::default().with_wait(Duration::ZERO)
}

/// Polls a future so many times, each time it wakes, and drops it then; its output, if it is done before.
pub(crate) async fn poll_at_most<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(crate) fn marker(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("idempotent-replayed")
        .map(|value| value.to_str().unwrap())
}

pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Counts something that happens on other tasks.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
