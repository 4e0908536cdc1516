use std::{fmt, path::Path, sync::Arc, time::Duration};

use sqlx::{Row, SqlitePool};
use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms, Transition};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Sharing, Standing, Store,
    StoreError, StoreId, StoredResponse,
};
use tokio::time::Instant;

use crate::{
    call::{Answer, Call, ROOM, turn},
    durability,
    error::classified,
    migrate,
    open::Pools,
    record::{self, Record},
    sql::{Statements, Table},
};

/// A request waits for it.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

/// Nobody waits for it but other requests' time.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// An operation that has run waits for it: worth a longer wait than one that has not begun.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Records that one statement of the reaper takes at most, so that requests get the write lock in between.
const REAP_BATCH: i64 = 100;

/// What durations are cut to, in microseconds: seventy thousand years. Any two and the present moment together stay below
/// SQLite's largest integer.
const LONGEST: i64 = i64::MAX / 4;

/// Keeps records in a table of a SQLite file. See the [crate's documentation](crate) for what it promises.
///
/// Clones share the connections and are cheap.
#[derive(Clone)]
pub struct SqliteStore {
    id: StoreId,
    pools: Arc<Pools>,
    table: Table,
    statements: Arc<Statements>,
}

impl SqliteStore {
    /// Opens a file with the advised settings, and makes it if it is missing: write-ahead log, `synchronous=FULL`, one
    /// connection that writes and four that read. The table comes with [`migrate`](Self::migrate).
    ///
    /// Any number of stores, in any number of processes of this host, may open the same file. `:memory:` and URLs are refused.
    ///
    /// # Errors
    ///
    /// Misconfigured: the folder is missing, the file is not a database or may not be written, or the file system has no
    /// write-ahead log. Unavailable: another process kept the file locked for ten seconds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it opened; the file may be left, empty.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = Self::over(Pools::open(path.as_ref()).await?);
        store.check().await?;
        Ok(store)
    }

    /// Takes a pool as it is, for reads and writes, and sends nothing yet. [`check`](Self::check) tells whether its settings
    /// keep the store's promises; the [crate's documentation](crate#a-pool-of-your-own) lists them.
    ///
    /// No connection may come back to the pool with a transaction open: the store's statements would become part of it.
    #[must_use]
    pub fn new(pool: SqlitePool) -> Self {
        Self::over(Pools::of(pool.clone(), pool))
    }

    fn over(pools: Pools) -> Self {
        let table = Table::default();
        Self {
            id: StoreId::new(),
            pools: Arc::new(pools),
            statements: Arc::new(Statements::of(&table)),
            table,
        }
    }

    /// Keeps the records in the table of this name; `steadfast_idempotency` by default. Its book and its indexes have names
    /// that start with it.
    ///
    /// # Errors
    ///
    /// Misconfigured: the name is empty, longer than 128 bytes, holds a NUL, or starts with `sqlite_`. Any other is quoted.
    pub fn with_table(self, name: &str) -> Result<Self, StoreError> {
        let table = Table::named(name)?;
        Ok(Self {
            id: StoreId::new(),
            statements: Arc::new(Statements::of(&table)),
            table,
            ..self
        })
    }

    /// The schema as SQL, for other migrators. A table that another migrator made is not known to [`migrate`](Self::migrate):
    /// use one or the other.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        self.table.schema_sql()
    }

    /// Makes the table, or brings it up to this version. Does nothing to one that is; any number of processes may call it at
    /// once. A schema that a newer version has brought further is left as it is. Its book is the table `<table>_migrations`.
    /// Runs [`check`](Self::check) first.
    ///
    /// # Errors
    ///
    /// Misconfigured: the check failed, or the table was made by other means. Unavailable: the database stayed busy for thirty
    /// seconds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves all of a migration or nothing.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.check().await?;
        migrate::migrate(&self.pools.writer, &self.statements).await
    }

    /// Asks a connection whether its settings keep acknowledged transitions through a crash of the host.
    ///
    /// # Errors
    ///
    /// Misconfigured: the database is in memory; its journal is neither the write-ahead log with `synchronous` `FULL` or more,
    /// nor a rollback journal with `EXTRA`.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    pub async fn check(&self) -> Result<(), StoreError> {
        let call = Call::new(&self.statements.durability);
        let answer = call
            .run(&self.pools.writer, Instant::now() + READ_LIMIT)
            .await?;
        durability::judge(one_row(&answer)?)
    }

    /// Closes the connections, a pool given to [`new`](Self::new) too. Calls under way end first; later ones answer
    /// unavailable.
    ///
    /// # Cancel safety
    ///
    /// The store is closed for new calls at once; connections may be left to close on their own.
    pub async fn close(&self) {
        self.pools.reader.close().await;
        self.pools.writer.close().await;
    }

    /// Makes one step that reports by the number of rows it changed whether it was taken.
    async fn transition(&self, call: Call<'_>) -> Result<Transition, StoreError> {
        let deadline = Instant::now() + WRITE_LIMIT;
        let answer = call.run(&self.pools.writer, deadline).await?;
        Ok(match answer.changed {
            0 => Transition::Fenced,
            _ => Transition::Applied,
        })
    }

    /// Sends a statement that takes so many records at most until it took `limit`, or found too few, or time is up; says how many
    /// it took.
    async fn in_batches<'a>(
        &'a self,
        limit: u64,
        deadline: Instant,
        call: impl Fn(i64) -> Call<'a> + Send,
    ) -> Result<u64, StoreError> {
        let mut taken = 0;
        while taken < limit && Instant::now() + ROOM < deadline {
            let batch =
                i64::try_from(limit - taken).map_or(REAP_BATCH, |left| left.min(REAP_BATCH));
            let answer = call(batch)
                .run(&self.pools.writer, deadline)
                .await
                .map_err(|error| after(taken, error))?;
            taken += answer.changed;
            if answer.changed < batch.unsigned_abs() {
                break;
            }
        }
        Ok(taken)
    }

    async fn records(&self, call: Call<'_>) -> Result<Vec<RecordSummary>, StoreError> {
        let deadline = Instant::now() + READ_LIMIT;
        let answer = call.run(&self.pools.reader, deadline).await?;
        answer
            .rows
            .iter()
            .map(|row| Ok(Record::read(row)?.summary(record::key(row)?)))
            .collect()
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.pools.writer.connect_options();
        f.debug_struct("SqliteStore")
            .field("file", &options.get_filename().file_name())
            .field("table", &self.table.name())
            .finish_non_exhaustive()
    }
}

fn one_row(answer: &Answer) -> Result<&sqlx::sqlite::SqliteRow, StoreError> {
    match &*answer.rows {
        [row] => Ok(row),
        _ => Err(StoreError::misconfigured(sqlx::Error::RowNotFound)),
    }
}

/// The error of a batch as the whole call's: where batches before it took records, something was done.
fn after(taken: u64, error: StoreError) -> StoreError {
    if taken == 0 || error.may_have_applied() {
        return error;
    }
    StoreError::unavailable(error)
}

/// Whole microseconds, rounded up.
fn micros(duration: Duration) -> i64 {
    let micros = duration.as_nanos().div_ceil(1_000);
    i64::try_from(micros).map_or(LONGEST, |micros| micros.min(LONGEST))
}

fn key_bytes(key: &KeyDigest) -> Vec<u8> {
    key.as_bytes().to_vec()
}

fn owner_bytes(owner: &OwnerId) -> Vec<u8> {
    owner.as_bytes().to_vec()
}

impl Store for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, Sharing::Host, true)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        let deadline = Instant::now() + BEGIN_LIMIT;
        let read = Call::new(&self.statements.read)
            .bind(key_bytes(key))
            .run(&self.pools.reader, deadline)
            .await
            .map_err(StoreError::with_nothing_sent)?;
        if let [row] = &*read.rows {
            let record = Record::read(row).map_err(StoreError::with_nothing_sent)?;
            if record.is_settled() {
                return record.begin(*key, terms.owner, terms.fingerprint);
            }
        }

        let _turn = turn(&self.pools.claims, deadline).await?;
        let written = Call::new(&self.statements.begin)
            .bind(key_bytes(key))
            .bind(terms.fingerprint.to_bytes().to_vec())
            .bind(i64::from(terms.promise.code()))
            .bind(owner_bytes(&terms.owner))
            .bind(micros(terms.lease))
            .bind(micros(terms.retention))
            .run(&self.pools.writer, deadline)
            .await?;
        Record::read(one_row(&written)?)?.begin(*key, terms.owner, terms.fingerprint)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        let call = Call::new(&self.statements.renew)
            .bind(key_bytes(claim.key()))
            .bind(owner_bytes(claim.owner()))
            .bind(micros(lease));
        self.transition(call).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        let call = Call::new(&self.statements.complete)
            .bind(key_bytes(claim.key()))
            .bind(owner_bytes(claim.owner()))
            .bind(i64::from(response.format()))
            .bind(response.bytes().to_vec());
        self.transition(call).await
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        let call = Call::new(&self.statements.abandon)
            .bind(key_bytes(claim.key()))
            .bind(owner_bytes(claim.owner()))
            .bind(owner_bytes(&successor));
        self.transition(call).await
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        let call = Call::new(&self.statements.release)
            .bind(key_bytes(&claimant.key))
            .bind(owner_bytes(&claimant.owner));
        self.transition(call).await
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        let mut standings = vec![Standing::Absent; keys.len()];
        if keys.is_empty() {
            return Ok(standings);
        }
        let asked: Vec<u8> = keys.iter().flat_map(|key| *key.as_bytes()).collect();
        let answer = Call::new(&self.statements.look_up)
            .bind(asked)
            .run(&self.pools.reader, Instant::now() + READ_LIMIT)
            .await?;
        for row in &answer.rows {
            let position: i64 = row.try_get("position").map_err(classified)?;
            let position = usize::try_from(position).expect("positions count from 0");
            standings[position] = Record::read(row)?.standing()?;
        }
        Ok(standings)
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        let call = Call::new(&self.statements.show).bind(key_bytes(key));
        Ok(self.records(call).await?.pop())
    }

    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        let call = Call::new(&self.statements.list_indeterminate).bind(i64::from(limit));
        self.records(call).await
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        let call = match resolution {
            Resolution::Complete {
                resolver,
                response,
                retention,
            } => Call::new(&self.statements.resolve_complete)
                .bind(key_bytes(&incident.key))
                .bind(owner_bytes(&incident.owner))
                .bind(owner_bytes(resolver))
                .bind(micros(*retention))
                .bind(i64::from(response.format()))
                .bind(response.bytes().to_vec()),
            Resolution::Release => Call::new(&self.statements.resolve_release)
                .bind(key_bytes(&incident.key))
                .bind(owner_bytes(&incident.owner)),
            _ => {
                return Err(StoreError::refused(
                    "this version of the store does not know the resolution",
                ));
            }
        };
        self.transition(call).await
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        let deadline = Instant::now() + WRITE_LIMIT;
        let retention = micros(indeterminate_retention);
        // Deletes come first: a record that lapses in this call is not deleted by it.
        let deleted = self
            .in_batches(limit.into(), deadline, |batch| {
                let call = Call::new(&self.statements.reap_delete);
                call.bind(batch).bind(retention)
            })
            .await?;
        let lapsed = self
            .in_batches(
                u64::from(limit).saturating_sub(deleted),
                deadline,
                |batch| Call::new(&self.statements.reap_lapse).bind(batch),
            )
            .await
            .map_err(|error| after(deleted, error))?;
        Ok(Reaped { deleted, lapsed })
    }
}
