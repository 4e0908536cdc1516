//! idempotency I17: what a store must keep for a layer to take it, and what a layer is.

use std::{fmt::Debug, time::Duration};

use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms};
use steadfast_idempotency::{
    ConfigError, Idempotency, IdempotencyConfig, IdempotencyHandle, IdempotencyLayer, Operation,
    Promise, ResponseFuture, scope,
};
use steadfast_store::{
    Begin, Capabilities, DynStore, Incident, MemoryStore, Reaped, RecordSummary, Resolution,
    Sharing, Standing, Store, StoreError, StoreId, StoredResponse, Transition,
};
use tower::{Layer, ServiceExt};

use crate::support::{Answer, Body, BoxError, Handler, Inner, St, World, charge};

/// A memory store that says something else of itself.
struct Claiming(MemoryStore, Capabilities);

impl Claiming {
    fn new(durable: bool, fenced: bool) -> Self {
        let capabilities = Capabilities::new(durable, Sharing::Network, fenced);
        Self(MemoryStore::default(), capabilities)
    }
}

impl Store for Claiming {
    fn capabilities(&self) -> Capabilities {
        self.1
    }

    fn id(&self) -> StoreId {
        self.0.id()
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        self.0.begin(key, terms).await
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        self.0.renew(claim, lease).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        self.0.complete(claim, response).await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        self.0.abandon(claim, successor).await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        self.0.release(claimant).await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        self.0.look_up(keys).await
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        self.0.show(key).await
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        self.0.list_indeterminate(limit).await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        self.0.resolve(incident, resolution).await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        self.0.reap(limit, indeterminate_retention).await
    }
}

#[test]
fn a_promise_that_the_store_cannot_keep_is_refused() {
    let unfenced = || Claiming::new(true, false);

    assert_eq!(
        IdempotencyLayer::at_most_once(unfenced(), scope::shared()).unwrap_err(),
        ConfigError::Promise {
            promise: Promise::AtMostOnce
        }
    );
    assert_eq!(
        IdempotencyLayer::at_least_once(unfenced(), scope::shared()).unwrap_err(),
        ConfigError::Promise {
            promise: Promise::AtLeastOnce
        }
    );
}

#[test]
fn a_store_that_forgets_is_refused_where_durability_is_required() {
    let durable = |store| {
        IdempotencyLayer::at_most_once(store, scope::shared())
            .unwrap()
            .requiring_durable()
    };

    assert!(durable(Claiming::new(true, true)).is_ok());
    assert_eq!(
        durable(Claiming::new(false, true)).unwrap_err(),
        ConfigError::NotDurable
    );
    let memory = IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared()).unwrap();
    assert_eq!(
        memory.requiring_durable().unwrap_err(),
        ConfigError::NotDurable
    );
}

#[test]
fn numbers_that_cannot_work_are_refused_by_the_layer() {
    let layer = || IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared()).unwrap();
    let default = IdempotencyConfig::default;

    let lease = Duration::from_millis(99);
    assert_eq!(
        layer()
            .with_config(default().with_lease(lease))
            .unwrap_err(),
        ConfigError::Lease { lease }
    );
    let retention = IdempotencyConfig::DEFAULT_MAX_EXECUTION + IdempotencyConfig::DEFAULT_LEASE;
    assert_eq!(
        layer()
            .with_config(default().with_retention(retention))
            .unwrap_err(),
        ConfigError::Retention {
            retention,
            at_least: retention
        }
    );
    let more = retention + Duration::from_nanos(1);
    assert!(layer().with_config(default().with_retention(more)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations_are_refused_or_work() {
    let default = IdempotencyConfig::default;
    for config in [
        default().with_wait(Duration::MAX),
        default().with_completion_wait(Duration::MAX),
        default().with_body_timeout(Duration::MAX),
        default().with_capture_timeout(Duration::MAX),
        default().with_retry_after(Duration::MAX),
    ] {
        let handler = Handler::counting();
        let layer =
            IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared()).unwrap();
        if let Ok(layer) = layer.with_config(config) {
            for _ in 0..2 {
                let response = layer.layer(handler.service()).oneshot(charge("k")).await;
                assert_eq!(response.unwrap().status(), 201);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_behind_a_dyn_adapter_keeps_the_promise() {
    let handler = Handler::counting();
    let store = DynStore::new(MemoryStore::default());
    let layer = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();

    for marker in ["false", "true"] {
        let response = layer.layer(handler.service()).oneshot(charge("k")).await;
        let answer = Answer::read(response.unwrap()).await;
        assert_eq!(answer.header("idempotent-replayed"), Some(marker));
        assert_eq!(answer.text(), "charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_may_give_refusals_a_form_of_its_own() {
    let world = World::at_most_once(Handler::counting()).with(|layer| {
        layer.with_refusal(|response| {
            let cause = response
                .extensions()
                .get::<steadfast_http::problem::Problem>();
            let code = cause.expect("its cause").code().as_str();
            response.map(|_| code.into())
        })
    });
    let keyless = http::Request::post("/charges")
        .body(crate::support::body("5"))
        .unwrap();

    let answer = world.send(keyless).await;

    assert_eq!(answer.status, 400);
    assert_eq!(answer.text(), "missing-key");
}

#[test]
fn types_can_go_where_tower_takes_them() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn somewhere<T: Send + 'static>() {}
    fn cloned<T: Clone + Debug + Send + Sync + 'static>() {}

    cloned::<IdempotencyLayer<St>>();
    cloned::<IdempotencyHandle<St>>();
    cloned::<IdempotencyConfig>();
    cloned::<Operation>();
    everywhere::<ConfigError>();
    everywhere::<Idempotency<fn(), St>>();
    somewhere::<Idempotency<Inner, St>>();
    somewhere::<ResponseFuture<<Inner as tower::Service<Request>>::Future, Body, BoxError>>();
}

type Request = http::Request<steadfast_http::body::CapturedBody<Body>>;
