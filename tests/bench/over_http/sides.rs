//! What is compared: a server without a route, the bare route, and the layers of a server over each store.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::Router;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};
use steadfast::{
    circuit_breaker::{CircuitBreaker, CircuitBreakerLayer},
    idempotency::{IdempotencyLayer, scope},
    store::{MemoryStore, MemoryStoreConfig, Store},
    store_postgres::{PostgresStore, TableName},
    store_sqlite::SqliteStore,
};
use steadfast_testkit::postgres::{self, Database};

use super::{
    charges::{Charges, Customer, Keys, PATH},
    floor::{Floor, Visitor},
};
use crate::{
    BoxError,
    requests::{self, Load, Point},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Memory,
    Sqlite,
    Postgres,
}

impl StoreKind {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Sqlite, Self::Postgres];

    /// The one with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|store| store.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// Room for the records of a second: a record of this route takes a kilobyte of the bound, and no two cores make a million.
const MEMORY_BYTES_PER_SECOND: u32 = 1 << 30;

/// What the sides stand on.
pub(crate) struct Sides {
    /// Only where Postgres is measured: a server that nobody asks uses the machine too.
    database: Option<Database>,
    tables: AtomicU64,
    memory: MemoryStoreConfig,
    memory_bytes: usize,
    /// The most records that a memory store was left with.
    most_records: AtomicU64,
    versions: String,
}

impl Sides {
    /// What these stores need.
    pub(crate) async fn start(stores: &[StoreKind], point: Duration) -> Result<Self, BoxError> {
        let mut versions = Vec::new();
        let mut database = None;
        if stores.contains(&StoreKind::Postgres) {
            let started = postgres::database().await?;
            versions.push(postgres_version(started.url()).await?);
            database = Some(started);
        }
        if stores.contains(&StoreKind::Sqlite) {
            versions.push(sqlite_version().await?);
        }
        let seconds = point.as_secs_f64().ceil().max(1.0) as usize + 1;
        let memory_bytes = MEMORY_BYTES_PER_SECOND as usize * seconds;
        Ok(Self {
            database,
            tables: AtomicU64::new(0),
            memory: MemoryStoreConfig::default().with_max_bytes(memory_bytes),
            memory_bytes,
            most_records: AtomicU64::new(0),
            versions: versions.join("; "),
        })
    }

    pub(crate) fn description(&self) -> String {
        let memory = format!(
            "Memory store: {} MiB at most, retention of a day; the largest held {} records",
            self.memory_bytes >> 20,
            self.most_records.load(Ordering::Relaxed),
        );
        if self.versions.is_empty() {
            return memory;
        }
        format!(
            "{}.\n{memory}. Each SQLite point has a file of its own, each Postgres point a table",
            self.versions
        )
    }

    /// The same clients, and a server without a route.
    pub(crate) async fn floor(&self, load: Load) -> Result<Point, BoxError> {
        requests::measure(Floor, load, Visitor::new).await
    }

    /// The route without a layer.
    pub(crate) async fn bare(&self, load: Load) -> Result<Point, BoxError> {
        let charges = Charges::default();
        let router = Router::new().route(PATH, charges.route());
        press(router, &charges, Keys::Ignored, false, load).await
    }

    /// The route behind the layers, over a store that is new.
    pub(crate) async fn layered(
        &self,
        store: StoreKind,
        keys: Keys,
        load: Load,
    ) -> Result<Point, BoxError> {
        match store {
            StoreKind::Memory => {
                let point = layered(MemoryStore::new(self.memory), keys, load).await?;
                if keys == Keys::New {
                    self.most_records
                        .fetch_max(point.answers.executed(), Ordering::Relaxed);
                }
                Ok(point)
            }
            StoreKind::Sqlite => {
                let folder = tempfile::tempdir_in(DISK)?;
                let store = SqliteStore::open(folder.path().join("records.db")).await?;
                store.migrate().await?;
                let point = layered(store.clone(), keys, load).await?;
                store.close().await;
                Ok(point)
            }
            StoreKind::Postgres => {
                let database = self
                    .database
                    .as_ref()
                    .ok_or("Postgres was not among the stores to start")?;
                let number = self.tables.fetch_add(1, Ordering::Relaxed);
                let table = TableName::new(format!("point_{number}"))?;
                let store = PostgresStore::connect(database.url())
                    .await?
                    .with_table(table);
                store.migrate().await?;
                let point = layered(store.clone(), keys, load).await?;
                // Left there, it would be vacuumed while others are measured.
                let statement = format!("DROP TABLE {}", store.table());
                store.pool().execute(AssertSqlSafe(statement)).await?;
                store.pool().close().await;
                Ok(point)
            }
        }
    }
}

/// Where the files of SQLite stand: the folder for temporary files may be in memory, this one is where the build is.
const DISK: &str = env!("CARGO_TARGET_TMPDIR");

async fn layered<St: Store>(store: St, keys: Keys, load: Load) -> Result<Point, BoxError> {
    let charges = Charges::default();
    let may_be_refused = store.capabilities().durable;
    let layer = IdempotencyLayer::at_least_once(store, scope::bearer_token())?;
    let breaker = CircuitBreaker::new("charges");
    let router = Router::new()
        .route(PATH, charges.route())
        .route_layer(layer)
        .route_layer(CircuitBreakerLayer::http(breaker));
    press(router, &charges, keys, may_be_refused, load).await
}

async fn press(
    router: Router,
    charges: &Charges,
    keys: Keys,
    may_be_refused: bool,
    load: Load,
) -> Result<Point, BoxError> {
    let customer = |index| Customer::new(index, keys, may_be_refused);
    let point = requests::measure(router, load, customer).await?;

    let executions = charges.executions();
    let expected = match keys {
        Keys::Ignored | Keys::New => point.answers.executed(),
        Keys::Replayed => load.clients as u64,
    };
    if executions != expected {
        return Err(format!("the handler ran {executions} times instead of {expected}").into());
    }
    Ok(point)
}

async fn postgres_version(url: &str) -> Result<String, BoxError> {
    let mut connection = PgConnection::connect(url).await?;
    let row = sqlx::query(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), \
         current_setting('shared_buffers')",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    let setting = |index: usize| row.try_get::<String, _>(index);
    Ok(format!(
        "PostgreSQL {} (fsync {}, synchronous_commit {}, shared_buffers {})",
        setting(0)?,
        setting(1)?,
        setting(2)?,
        setting(3)?
    ))
}

async fn sqlite_version() -> Result<String, BoxError> {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(format!("SQLite {version} (WAL, synchronous FULL)"))
}
