use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use steadfast_http::body::{CapturedBody, ReplyBody};
use steadfast_idempotency::{
    Idempotency, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer, Promise, scope,
};
use steadfast_store::{MemoryStore, RecordSummary, Stage, Store};
use steadfast_testkit::faults::{Faults, FaultyStore, Method};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::{Layer, Service, ServiceExt};

use super::{Answer, Body, BoxError, Handler, Inner};

pub(crate) type St = FaultyStore<MemoryStore>;

/// A layer, its store and its handler.
pub(crate) struct World {
    pub(crate) layer: IdempotencyLayer<St>,
    pub(crate) store: St,
    pub(crate) faults: Faults,
    pub(crate) handle: IdempotencyHandle<St>,
    pub(crate) handler: Handler,
    pub(crate) promise: Promise,
    config: IdempotencyConfig,
}

impl World {
    pub(crate) fn at_most_once(handler: Handler) -> Self {
        Self::build(handler, Promise::AtMostOnce, |store| {
            IdempotencyLayer::at_most_once(store, scope::shared()).unwrap()
        })
    }

    pub(crate) fn at_least_once(handler: Handler) -> Self {
        Self::build(handler, Promise::AtLeastOnce, |store| {
            IdempotencyLayer::at_least_once(store, scope::shared()).unwrap()
        })
    }

    /// One world of each promise, with a handler of its own.
    pub(crate) fn both(handler: impl Fn() -> Handler) -> [Self; 2] {
        [
            Self::at_most_once(handler()),
            Self::at_least_once(handler()),
        ]
    }

    pub(crate) fn build(
        handler: Handler,
        promise: Promise,
        layer: impl FnOnce(St) -> IdempotencyLayer<St>,
    ) -> Self {
        Self::over(MemoryStore::default(), handler, promise, layer)
    }

    fn over(
        store: MemoryStore,
        handler: Handler,
        promise: Promise,
        layer: impl FnOnce(St) -> IdempotencyLayer<St>,
    ) -> Self {
        let store = FaultyStore::new(store);
        let layer = layer(store.clone());
        Self {
            faults: store.faults(),
            handle: layer.handle(),
            layer,
            store,
            handler,
            promise,
            config: IdempotencyConfig::default(),
        }
    }

    pub(crate) fn with_config(self, config: IdempotencyConfig) -> Self {
        let world = self.with(|layer| layer.with_config(config.clone()).unwrap());
        Self { config, ..world }
    }

    /// Another process of the service: a layer of its own, without hooks, over the same records and before the same handler. The
    /// faults and the counts of its store are its own.
    pub(crate) fn elsewhere(&self) -> Self {
        let records = self.store.get_ref().clone();
        let handler = self.handler.clone();
        let elsewhere = Self::over(records, handler, self.promise, |store| {
            match self.is_at_most_once() {
                true => IdempotencyLayer::at_most_once(store, scope::shared()).unwrap(),
                false => IdempotencyLayer::at_least_once(store, scope::shared()).unwrap(),
            }
        });
        elsewhere.with_config(self.config.clone())
    }

    pub(crate) fn with(
        self,
        change: impl FnOnce(IdempotencyLayer<St>) -> IdempotencyLayer<St>,
    ) -> Self {
        let layer = change(self.layer);
        Self {
            handle: layer.handle(),
            layer,
            ..self
        }
    }

    pub(crate) fn service(&self) -> Idempotency<Inner, St> {
        self.layer.layer(self.handler.service())
    }

    /// The layer's service, as the inner service of another layer.
    pub(crate) fn as_inner(&self) -> Inner {
        self.service()
            .map_request(|request: Request<CapturedBody<Body>>| request.map(BodyExt::boxed_unsync))
            .map_response(|response: Response<ReplyBody<Body>>| response.map(BodyExt::boxed_unsync))
            .boxed_clone()
    }

    pub(crate) async fn try_send(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        let mut service = self.service();
        let response = service.ready().await?.call(request).await?;
        Ok(Answer::read(response).await)
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// Sends it from a task of its own.
    pub(crate) fn start(&self, request: Request<Body>) -> JoinHandle<Answer> {
        let mut service = self.service();
        tokio::spawn(async move {
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            Answer::read(response).await
        })
    }

    /// Waits until the store was called so often.
    pub(crate) async fn called(&self, method: Method, count: u64) {
        soon(self.faults.called(method, count)).await;
    }

    pub(crate) fn is_at_most_once(&self) -> bool {
        self.promise == Promise::AtMostOnce
    }

    /// How many calls of the store could have changed something.
    pub(crate) fn writes(&self) -> u64 {
        [
            Method::Abandon,
            Method::Begin,
            Method::Complete,
            Method::Release,
            Method::Renew,
            Method::Resolve,
        ]
        .map(|method| self.faults.calls(method))
        .iter()
        .sum()
    }

    /// The only indeterminate record.
    pub(crate) async fn incident(&self) -> Option<RecordSummary> {
        let mut incidents = self.store.get_ref().list_indeterminate(10).await.unwrap();
        assert!(incidents.len() <= 1, "{incidents:?}");
        incidents.pop()
    }

    pub(crate) async fn assert_indeterminate(&self) {
        let incident = self.incident().await.expect("an indeterminate record");
        assert_eq!(incident.stage, Stage::Indeterminate);
    }

    /// Asserts that nothing is left behind: no task, no slot, no handler.
    pub(crate) async fn assert_idle(&self) {
        let drained = self.handle.drain(Duration::from_secs(120)).await;
        assert_eq!(drained, Ok(()));
        assert_eq!(self.handle.running(), 0);
        assert_eq!(self.handler.running(), 0);
    }
}

/// Waits until it holds, in virtual time and within two minutes of it.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Fails where it does not come within two minutes of virtual time.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(120), event)
        .await
        .expect("it never came")
}
