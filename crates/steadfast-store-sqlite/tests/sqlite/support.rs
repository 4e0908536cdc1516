use std::{path::PathBuf, time::Duration};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use steadfast_core::idempotency::{Claim, Fingerprint, KeyDigest, OwnerId, Promise, Terms};
use steadfast_store::{Begin, Store, StoredResponse};
use steadfast_store_sqlite::SqliteStore;
use tempfile::TempDir;

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A file of its own for one test.
pub(crate) struct File {
    folder: TempDir,
}

impl File {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("records.db")
    }

    pub(crate) async fn store(&self) -> SqliteStore {
        let store = SqliteStore::open(self.path()).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// A connection that is not the store's, with no busy timeout.
    pub(crate) async fn connection(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new()
            .filename(self.path())
            .busy_timeout(Duration::ZERO);
        SqliteConnection::connect_with(&options).await.unwrap()
    }
}

pub(crate) fn key(number: u32) -> KeyDigest {
    let mut bytes = [0xcd; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    KeyDigest::from_bytes(bytes)
}

pub(crate) fn owner(number: u32) -> OwnerId {
    let mut bytes = [0xef; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    OwnerId::from_bytes(bytes)
}

pub(crate) fn terms(owner_number: u32, promise: Promise) -> Terms {
    Terms {
        owner: owner(owner_number),
        fingerprint: Fingerprint::new(1, [1; 32]),
        promise,
        lease: HOUR,
        retention: DAY,
    }
}

pub(crate) fn response(text: &str) -> StoredResponse {
    StoredResponse::new(7, text.to_owned())
}

pub(crate) async fn claimed(store: &SqliteStore, key: &KeyDigest, terms: &Terms) -> Claim {
    let begin = store.begin(key, terms).await.unwrap();
    let Begin::Claimed(claim) = begin else {
        panic!("not claimed: {begin:?}");
    };
    claim
}
