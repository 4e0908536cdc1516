//! What wraps a store keeps the contract too.

use std::sync::Arc;

use steadfast::store::{DynStore, MemoryStore, Store};
use steadfast_testkit::{conformance::Bench, faults::FaultyStore};

macro_rules! adapter {
    ($module:ident, $store:ty, $wrap:expr) => {
        mod $module {
            use super::*;

            struct Adapter($store);

            impl Bench for Adapter {
                type Store = $store;

                async fn set_up() -> Self {
                    let wrap: fn(MemoryStore) -> $store = $wrap;
                    Self(wrap(MemoryStore::default()))
                }

                fn store(&self) -> $store {
                    self.0.clone()
                }
            }

            #[test]
            fn clones_share_their_id() {
                steadfast_testkit::conformance::run(async |bench: &Adapter| {
                    assert_eq!(bench.store().id(), bench.store().id());
                });
            }

            steadfast_testkit::conformance!(Adapter);
        }
    };
}

adapter!(arc_store, Arc<MemoryStore>, Arc::new);
adapter!(dyn_store, DynStore, |store| DynStore::new(store));
adapter!(faulty_store, FaultyStore<MemoryStore>, FaultyStore::new);
