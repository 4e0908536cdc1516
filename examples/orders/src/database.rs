//! Opens the one database that holds the orders and the idempotency records.

use std::{error::Error, path::Path, time::Duration};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use steadfast::{
    store::{DynStore, MemoryStore},
    store_postgres::PostgresStore,
    store_sqlite::SqliteStore,
};
use tokio::time::timeout;

use crate::{
    config::StoreUrl,
    failure::Failure,
    table::{Orders, Pool},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// A connection that does not close by itself is not worth waiting for.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// An open database with its schema in place.
#[derive(Debug)]
pub struct Database {
    /// The idempotency records.
    pub store: DynStore,
    /// The orders.
    pub orders: Orders,
    open: Open,
}

#[derive(Debug)]
enum Open {
    Memory,
    Postgres(PostgresStore),
    Sqlite(SqliteStore, SqlitePool),
}

impl Database {
    /// Opens the database, makes it if it is a file that is missing, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// It cannot be reached, or its schema cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Part of the schema may be made; opening again completes it.
    pub async fn open(url: &StoreUrl) -> Result<Self, Failure> {
        match url {
            StoreUrl::Memory => Ok(Self {
                store: DynStore::new(MemoryStore::default()),
                orders: Orders::in_memory(),
                open: Open::Memory,
            }),
            StoreUrl::Postgres(url) => Self::postgres(url)
                .await
                .map_err(|error| Failure::because("failed to open the Postgres database", error)),
            StoreUrl::Sqlite(path) => Self::sqlite(path).await.map_err(|error| {
                Failure::because(format!("failed to open {}", path.display()), error)
            }),
        }
    }

    async fn postgres(url: &str) -> Result<Self, BoxError> {
        let store = PostgresStore::connect(url).await?;
        store.migrate().await?;
        Ok(Self {
            store: DynStore::new(store.clone()),
            orders: Orders::open(Pool::Postgres(store.pool().clone())).await?,
            open: Open::Postgres(store),
        })
    }

    async fn sqlite(path: &Path) -> Result<Self, BoxError> {
        let store = SqliteStore::open(path).await?;
        store.migrate().await?;
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(4))
            .connect_with(sqlite_options(path))
            .await?;
        Ok(Self {
            store: DynStore::new(store.clone()),
            orders: Orders::open(Pool::Sqlite(pool.clone())).await?,
            open: Open::Sqlite(store, pool),
        })
    }

    /// Closes the connections.
    ///
    /// # Cancel safety
    ///
    /// Connections that are still open are cut when the process ends, which loses nothing.
    pub async fn close(self) {
        let closing = async {
            match self.open {
                Open::Memory => {}
                Open::Postgres(store) => store.pool().close().await,
                Open::Sqlite(store, pool) => {
                    pool.close().await;
                    store.close().await;
                }
            }
        };
        if timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::warn!("the database's connections did not close within {CLOSE_LIMIT:?}");
        }
    }
}

fn sqlite_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // An order that was answered must survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(4))
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Connection};

    use super::*;

    #[tokio::test]
    async fn a_commit_waits_for_the_disk() {
        let options = sqlite_options(Path::new(":memory:"));
        let mut connection = options.connect().await.unwrap();

        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&mut connection)
            .await
            .unwrap();

        // FULL
        assert_eq!(synchronous, 2);
        connection.close().await.unwrap();
    }
}
