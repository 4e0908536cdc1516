use std::{future::Future, pin::Pin};

use futures_util::future::join_all;
use http::Request;
use steadfast_idempotency::Idempotency;
use steadfast_store::Store;
use tower::{Service, ServiceExt};

use super::{Answer, Body, Inner, World, poll_once};

type Waiting = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Requests that were polled once, and wait: each has done all that it can do without another.
pub(crate) struct Crowd(Vec<Waiting>);

impl Crowd {
    /// So many of the same request, none of which is answered yet.
    pub(crate) async fn of(
        world: &World,
        count: usize,
        request: impl Fn() -> Request<Body>,
    ) -> Self {
        Self::calling(&world.service(), count, request).await
    }

    pub(crate) async fn calling<S: Store>(
        service: &Idempotency<Inner, S>,
        count: usize,
        request: impl Fn() -> Request<Body>,
    ) -> Self {
        let waiting = (0..count).map(|_| waiting(service.clone(), request()));
        let mut crowd = Self(waiting.collect());
        for one in &mut crowd.0 {
            let polled = poll_once(one.as_mut()).await;
            assert!(polled.is_pending(), "it does not wait: {polled:?}");
        }
        crowd
    }

    pub(crate) async fn answers(self) -> Vec<Answer> {
        join_all(self.0).await
    }

    /// The answer of the only one.
    pub(crate) async fn answer(self) -> Answer {
        let mut answers = self.answers().await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }
}

fn waiting<S: Store>(mut service: Idempotency<Inner, S>, request: Request<Body>) -> Waiting {
    Box::pin(async move {
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        Answer::read(response).await
    })
}
