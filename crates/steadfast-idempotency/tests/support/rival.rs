use std::time::Duration;

use steadfast_core::idempotency::{
    Claim, Claimant, Fingerprint, KeyDigest, OwnerId, Promise, Terms, Transition,
};
use steadfast_idempotency::{IdempotencyLayer, scope};
use steadfast_store::{Begin, MemoryStore, Standing, Store, StoredResponse};
use tower::{Layer, ServiceExt};

use super::{Answer, Handler, World, body, charge};

const HOUR: Duration = Duration::from_secs(3_600);

/// Another process that holds the claim of an operation.
pub(crate) struct Rival {
    store: MemoryStore,
    claim: Claim,
}

impl Rival {
    /// Takes the operation of the handler's latest call away from its owner.
    pub(crate) async fn usurp(world: &World) -> Self {
        let store = world.store.get_ref().clone();
        let key = *world.handler.operation().key();
        let owner = store.show(&key).await.unwrap().expect("a record").owner;
        let fingerprint = fingerprint_of(&store, &key).await;
        let released = store.release(&Claimant { key, owner }).await.unwrap();
        assert_eq!(released, Transition::Applied);
        let begun = store.begin(&key, &terms(fingerprint)).await.unwrap();
        let Begin::Claimed(claim) = begun else {
            panic!("the rival got {begun:?}");
        };
        Self { store, claim }
    }

    /// Removes the record of the handler's latest call.
    pub(crate) async fn erase(world: &World) {
        Self::usurp(world).await.release().await;
    }

    /// Completes it with the answer 201 `rival`.
    pub(crate) async fn complete(&self) {
        self.complete_with(&rivals_answer(&self.store).await).await;
    }

    pub(crate) async fn complete_with(&self, response: &StoredResponse) {
        let completed = self.store.complete(&self.claim, response).await.unwrap();
        assert_eq!(completed, Transition::Applied);
    }

    async fn release(&self) {
        let released = self.store.release(self.claim.claimant()).await.unwrap();
        assert_eq!(released, Transition::Applied);
    }
}

fn terms(fingerprint: Fingerprint) -> Terms {
    Terms {
        owner: OwnerId::from_bytes([0xee; 16]),
        fingerprint,
        promise: Promise::AtMostOnce,
        lease: HOUR,
        retention: HOUR * 2,
    }
}

async fn fingerprint_of(store: &MemoryStore, key: &KeyDigest) -> Fingerprint {
    let other = terms(Fingerprint::new(250, [0; 32]));
    let begun = store.begin(key, &other).await.unwrap();
    let Begin::Conflict { fingerprint } = begun else {
        panic!("a fingerprint that nobody has met {begun:?}");
    };
    fingerprint
}

async fn rivals_answer(store: &MemoryStore) -> StoredResponse {
    let handler = Handler::answering(|| {
        let mut response = http::Response::new(body("rival"));
        *response.status_mut() = http::StatusCode::CREATED;
        response
    });
    let layer = IdempotencyLayer::at_most_once(store.clone(), scope::shared()).unwrap();
    let response = layer
        .layer(handler.service())
        .oneshot(charge("the-rivals-own"))
        .await
        .unwrap();
    Answer::read(response).await;

    let key = *handler.operation().key();
    let standing = store.look_up(&[key]).await.unwrap().remove(0);
    let Standing::Completed { response, .. } = standing else {
        panic!("the rival's answer is {standing:?}");
    };
    response
}
