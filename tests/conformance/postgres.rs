use std::sync::atomic::{AtomicUsize, Ordering};

use steadfast::store::Store;
use steadfast::store_postgres::PostgresStore;
use steadfast_testkit::{conformance::Bench, postgres::Database};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A server takes a hundred connections by default, and a bench thirty: three pools of ten.
static BENCHES: Semaphore = Semaphore::const_new(3);

/// Three stores on one fresh database, each with a pool of its own, as three processes have.
struct Postgres {
    handles: Vec<PostgresStore>,
    dealt: AtomicUsize,
    // Dropped after the handles, which are connected to it.
    database: Database,
    // Dropped last: the connections are closed by then.
    _turn: SemaphorePermit<'static>,
}

impl Postgres {
    async fn connect(&self) -> PostgresStore {
        PostgresStore::connect(self.database.url()).await.unwrap()
    }
}

impl Bench for Postgres {
    type Store = PostgresStore;

    async fn set_up() -> Self {
        let turn = BENCHES.acquire().await.unwrap();
        let database = steadfast_testkit::postgres::database().await.unwrap();
        let mut bench = Self {
            handles: Vec::new(),
            dealt: AtomicUsize::new(0),
            database,
            _turn: turn,
        };
        for _ in 0..3 {
            let store = bench.connect().await;
            store.migrate().await.unwrap();
            bench.handles.push(store);
        }
        bench
    }

    fn store(&self) -> PostgresStore {
        let dealt = self.dealt.fetch_add(1, Ordering::Relaxed);
        self.handles[dealt % self.handles.len()].clone()
    }

    async fn reopen(&self) -> Option<PostgresStore> {
        Some(self.connect().await)
    }
}

#[test]
fn clones_share_their_id() {
    steadfast_testkit::conformance::run(async |bench: &Postgres| {
        let store = &bench.handles[0];
        assert_eq!(store.clone().id(), store.id());
    });
}

steadfast_testkit::conformance!(Postgres);
