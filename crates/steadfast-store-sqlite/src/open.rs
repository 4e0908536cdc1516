//! How the store opens a file of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use steadfast_store::StoreError;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use crate::error::{classified, is_busy};

/// Bounds an open: a recovery after a crash reads the whole write-ahead log.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The pause before a busy file is opened again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How long SQLite itself waits for another process's write. An eighth of the shortest limit of a call: most of the limit is
/// left for a queue, and a statement sent after it can still be told as busy, with nothing done.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Connections that read. A read of one record takes microseconds; more would only wait for the same processors.
const READERS: u32 = 4;

/// Claims that may stand in the writer's queue: while one is written the next is in its place already, so the writer does not
/// idle.
const CLAIMS: usize = 2;

/// The pools of one file: one connection that writes, and some that only read.
pub(crate) struct Pools {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
    /// Where claims wait before they wait for the writer. What keeps or ends an operation goes to the writer straight away, so
    /// that under overload it waits for a claim or two, and not for all that have come before.
    pub(crate) claims: Semaphore,
}

impl Pools {
    pub(crate) const fn of(writer: SqlitePool, reader: SqlitePool) -> Self {
        Self {
            writer,
            reader,
            claims: Semaphore::const_new(CLAIMS),
        }
    }

    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        // The whole path: a later change of the working directory must not lead the next connection to another file, and SQLite
        // reads what starts with "file:" as a URI.
        let path = whole(path)?;
        let common = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT);
        // On macOS a plain fsync leaves the data in the drive's cache.
        let writes = common
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("fullfsync", "ON")
            .pragma("checkpoint_fullfsync", "ON");

        let deadline = Instant::now() + OPEN_LIMIT;
        let writer = connected(1, writes.clone().create_if_missing(true), deadline).await?;
        // A file that vanished is not made anew behind the back of those who still hold the old one.
        writer.set_connect_options(writes);
        let reader = connected(READERS, common.pragma("query_only", "ON"), deadline).await?;
        Ok(Self::of(writer, reader))
    }
}

fn whole(path: &Path) -> Result<PathBuf, StoreError> {
    let text = path
        .to_str()
        .ok_or_else(|| StoreError::misconfigured("SQLite takes paths in UTF-8 only"))?;
    if text.starts_with(":memory:") {
        return Err(StoreError::misconfigured(
            "a database in memory forgets its promises; MemoryStore is made for that",
        ));
    }
    if ["file:", "sqlite:"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return Err(StoreError::misconfigured(
            "the store opens a path, not a URL",
        ));
    }
    std::path::absolute(path).map_err(StoreError::misconfigured)
}

/// Opens a pool whose first connection works. Connections are kept for good: they hold the prepared statements and the page
/// cache.
async fn connected(
    connections: u32,
    options: SqliteConnectOptions,
    deadline: Instant,
) -> Result<SqlitePool, StoreError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None);
    loop {
        let error = match timeout_at(deadline, pool.clone().connect_with(options.clone())).await {
            Ok(Ok(pool)) => return Ok(pool),
            Ok(Err(error)) => error,
            Err(elapsed) => return Err(StoreError::unavailable(elapsed).with_nothing_sent()),
        };
        // The switch to WAL needs the file alone, and SQLite does not wait for that by itself.
        if !is_busy(&error) || Instant::now() + BUSY_PAUSE >= deadline {
            return Err(opening(error));
        }
        sleep(BUSY_PAUSE).await;
    }
}

/// A file that cannot be opened at the start is the wrong file, or in the wrong place; later it may be a passing want of
/// descriptors.
fn opening(error: sqlx::Error) -> StoreError {
    const CANTOPEN: &str = "14";
    let code = error.as_database_error().and_then(|error| error.code());
    if code.is_some_and(|code| code == CANTOPEN) || matches!(error, sqlx::Error::Io(_)) {
        return StoreError::misconfigured(error);
    }
    classified(error)
}
