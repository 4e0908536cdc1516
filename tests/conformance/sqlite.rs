use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use steadfast::store::Store;
use steadfast::store_sqlite::SqliteStore;
use steadfast_testkit::conformance::Bench;
use tempfile::TempDir;

/// Three stores on one file, each with a pool of its own, as three processes of one host have.
struct Sqlite {
    folder: TempDir,
    handles: Vec<SqliteStore>,
    dealt: AtomicUsize,
}

impl Sqlite {
    fn file(&self) -> PathBuf {
        self.folder.path().join("records.db")
    }

    async fn open(&self) -> SqliteStore {
        let store = SqliteStore::open(self.file()).await.unwrap();
        store.migrate().await.unwrap();
        store
    }
}

impl Bench for Sqlite {
    type Store = SqliteStore;

    async fn set_up() -> Self {
        let mut bench = Self {
            folder: TempDir::new().unwrap(),
            handles: Vec::new(),
            dealt: AtomicUsize::new(0),
        };
        for _ in 0..3 {
            let store = bench.open().await;
            bench.handles.push(store);
        }
        bench
    }

    fn store(&self) -> SqliteStore {
        let dealt = self.dealt.fetch_add(1, Ordering::Relaxed);
        self.handles[dealt % self.handles.len()].clone()
    }

    async fn reopen(&self) -> Option<SqliteStore> {
        for handle in &self.handles {
            handle.close().await;
        }
        Some(self.open().await)
    }
}

#[test]
fn clones_share_their_id() {
    steadfast_testkit::conformance::run(async |bench: &Sqlite| {
        let store = &bench.handles[0];
        assert_eq!(store.clone().id(), store.id());
    });
}

steadfast_testkit::conformance!(Sqlite);
