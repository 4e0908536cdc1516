use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Promise, scope},
    store::{MemoryStore, Store},
};

pub(crate) const PROMISES: [Promise; 2] = [Promise::AtMostOnce, Promise::AtLeastOnce];

pub(crate) fn layer<St: Store>(
    promise: Promise,
    store: St,
    config: IdempotencyConfig,
) -> IdempotencyLayer<St> {
    match promise {
        Promise::AtMostOnce => IdempotencyLayer::at_most_once(store, scope::shared()),
        Promise::AtLeastOnce => IdempotencyLayer::at_least_once(store, scope::shared()),
        other => panic!("no constructor is known for {other}"),
    }
    .unwrap()
    .with_config(config)
    .unwrap()
}

pub(crate) fn memory(promise: Promise) -> IdempotencyLayer<MemoryStore> {
    layer(
        promise,
        MemoryStore::default(),
        IdempotencyConfig::default(),
    )
}
