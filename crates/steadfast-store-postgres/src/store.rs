use std::{fmt, sync::Arc, time::Duration};

use sqlx::{PgPool, types::Uuid};
use steadfast_core::idempotency::{Claim, Claimant, KeyDigest, OwnerId, Terms};
use steadfast_store::{
    Begin, Capabilities, Incident, Reaped, RecordSummary, Resolution, Sharing, Standing, Store,
    StoreError, StoreId, StoredResponse, Transition,
};

use crate::{
    TableName, call::Call, connect, interval::interval, migrate, row, statements::Statements,
};

/// A client waits for it.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

/// A third of a lease passes between renewals: one that takes longer is better asked again.
const RENEW_LIMIT: Duration = Duration::from_secs(2);

/// A waiting client's poller asks again soon.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);

/// What ends an execution may take longer: its work would be lost.
const COMPLETE_LIMIT: Duration = Duration::from_secs(5);

/// It reads the whole table, for an operator or a metric: about 0.4 s per million records in cache, and as long as a disk takes.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// Operators and background work.
const DESK_LIMIT: Duration = Duration::from_secs(5);

/// Postgres' limit for one value is a gigabyte, and for the message that carries it.
const MAX_RESPONSE_BYTES: usize = (1 << 30) - (1 << 20);

/// Idempotency records in Postgres.
///
/// A clone shares the pool, the table and the [`StoreId`]. See the crate's documentation for what it promises.
#[derive(Clone)]
pub struct PostgresStore {
    id: StoreId,
    pool: PgPool,
    table: Arc<TableName>,
    statements: Arc<Statements>,
}

impl PostgresStore {
    /// Opens a pool of ten connections with the settings that the crate's documentation advises, and checks that the server keeps
    /// what it acknowledges. Settings in the URL's `options` win over the advised ones.
    ///
    /// # Errors
    ///
    /// The URL is malformed, the server cannot be reached and asked within five seconds or refuses the login, it is a standby, or its
    /// `synchronous_commit` or `fsync` is off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was opened.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        connect::connect(url).await.map(Self::new)
    }

    /// Takes a pool as it is. See the crate's documentation for the settings it should have.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self::on(pool, TableName::default())
    }

    /// Keeps the records in another table than `steadfast_idempotency`. The store is another one then, with another [`StoreId`].
    #[must_use]
    pub fn with_table(self, table: TableName) -> Self {
        Self::on(self.pool, table)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Brings the schema up to date: makes the table's schema, the table and its index where they are missing.
    ///
    /// It may be called any number of times, by any number of processes at once: one works and the others wait. It waits for a lock
    /// on the table for 200 ms at a time, and lets claims pass in between. What it did stands in a table of its own, named for the
    /// records' table with `_migrations` behind. Once nothing is left to do it only reads. A schema that a newer version has brought
    /// further is left as it is.
    ///
    /// # Errors
    ///
    /// The role may not create, a table of that name was made by other hands, or it took longer than ten minutes. Nothing was
    /// changed then, unless the connection was lost at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes the migration, unless it was just committed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate::migrate(&self.pool, &self.table).await
    }

    fn on(pool: PgPool, table: TableName) -> Self {
        Self {
            id: StoreId::new(),
            pool,
            statements: Arc::new(Statements::new(&table)),
            table: Arc::new(table),
        }
    }
}

/// Shows neither the server's address nor a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("id", &self.id)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, Sharing::Network, true)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    async fn begin(&self, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
        let answer = Call::new(&self.statements.begin, BEGIN_LIMIT)
            .bind(key.as_bytes())
            .bind(terms.fingerprint.to_bytes())
            .bind(uuid(&terms.owner))
            .bind(i16::from(terms.promise.code()))
            .bind(interval(terms.lease))
            .bind(interval(terms.retention))
            .run(&self.pool)
            .await?;
        let row = answer.rows.first().ok_or_else(row::missing)?;
        row::begin(row, key, terms)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<Transition, StoreError> {
        let answer = Call::new(&self.statements.renew, RENEW_LIMIT)
            .bind(claim.key().as_bytes())
            .bind(uuid(claim.owner()))
            .bind(interval(lease))
            .run(&self.pool)
            .await?;
        Ok(answer.repeatable())
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: &StoredResponse,
    ) -> Result<Transition, StoreError> {
        let answer = Call::new(&self.statements.complete, COMPLETE_LIMIT)
            .bind(claim.key().as_bytes())
            .bind(uuid(claim.owner()))
            .bind(i32::from(response.format()))
            .bind(stored(response)?)
            .run(&self.pool)
            .await?;
        Ok(answer.repeatable())
    }

    async fn abandon(&self, claim: &Claim, successor: OwnerId) -> Result<Transition, StoreError> {
        Call::new(&self.statements.abandon, COMPLETE_LIMIT)
            .bind(claim.key().as_bytes())
            .bind(uuid(claim.owner()))
            .bind(uuid(&successor))
            .run(&self.pool)
            .await?
            .unrepeatable()
    }

    async fn release(&self, claimant: &Claimant) -> Result<Transition, StoreError> {
        Call::new(&self.statements.release, COMPLETE_LIMIT)
            .bind(claimant.key.as_bytes())
            .bind(uuid(&claimant.owner))
            .run(&self.pool)
            .await?
            .unrepeatable()
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes().as_slice()).collect();
        let answer = Call::new(&self.statements.look_up, LOOK_UP_LIMIT)
            .bind(keys)
            .run(&self.pool)
            .await?;
        answer.rows.iter().map(row::standing).collect()
    }

    async fn show(&self, key: &KeyDigest) -> Result<Option<RecordSummary>, StoreError> {
        let answer = Call::new(&self.statements.show, DESK_LIMIT)
            .bind(key.as_bytes())
            .run(&self.pool)
            .await?;
        answer.rows.first().map(row::summary).transpose()
    }

    /// Reads the whole table: about 0.4 s per million records in cache, and as long as the disk takes for the others. It ends within
    /// a minute, if need be as unavailable.
    async fn list_indeterminate(&self, limit: u32) -> Result<Vec<RecordSummary>, StoreError> {
        let rows = Call::new(&self.statements.list_indeterminate, LIST_LIMIT)
            .bind(i64::from(limit))
            .read_patiently(&self.pool)
            .await?;
        rows.iter().map(row::summary).collect()
    }

    async fn resolve(
        &self,
        incident: &Incident,
        resolution: &Resolution,
    ) -> Result<Transition, StoreError> {
        let about = |statement| {
            Call::new(statement, DESK_LIMIT)
                .bind(incident.key.as_bytes())
                .bind(uuid(&incident.owner))
        };
        let call = match resolution {
            Resolution::Complete {
                resolver,
                response,
                retention,
            } => about(&self.statements.resolve_complete)
                .bind(uuid(resolver))
                .bind(i32::from(response.format()))
                .bind(stored(response)?)
                .bind(interval(*retention)),
            Resolution::Release => about(&self.statements.resolve_release),
            _ => {
                return Err(StoreError::refused(
                    "this version of the store does not know the resolution",
                ));
            }
        };
        call.run(&self.pool).await?.unrepeatable()
    }

    async fn reap(
        &self,
        limit: u32,
        indeterminate_retention: Duration,
    ) -> Result<Reaped, StoreError> {
        let answer = Call::new(&self.statements.reap, DESK_LIMIT)
            .bind(i64::from(limit))
            .bind(interval(indeterminate_retention))
            .run(&self.pool)
            .await?;
        row::reaped(answer.rows.first().ok_or_else(row::missing)?)
    }
}

fn uuid(owner: &OwnerId) -> Uuid {
    Uuid::from_bytes(*owner.as_bytes())
}

fn stored(response: &StoredResponse) -> Result<&[u8], StoreError> {
    let bytes = response.bytes();
    if bytes.len() > MAX_RESPONSE_BYTES {
        return Err(StoreError::refused(
            "the response is larger than Postgres can hold",
        ));
    }
    Ok(bytes)
}
