//! One statement, sent once it has a connection, within a limit of time.
//!
//! Every statement of the store commits by itself, so a dropped call leaves no transaction open: SQLite finishes the statement
//! or never starts it, and the next caller of the connection queues behind it.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor, Sqlite, SqliteConnection, SqlitePool, Type,
    pool::PoolConnection,
    sqlite::{SqliteArguments, SqliteRow},
};
use steadfast_store::StoreError;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    error::{classified, is_busy},
    open::BUSY_TIMEOUT,
};

/// What must be left of a call's limit when a statement is sent: time for SQLite to find the database busy and say so, and as
/// much again for waking up late. With less left the limit could cut the statement off, and leave open whether it was taken.
pub(crate) const ROOM: Duration = BUSY_TIMEOUT.saturating_mul(2);

/// The pause before a busy database is asked again, for connections whose busy timeout is shorter.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A statement with its arguments.
pub(crate) struct Call<'a> {
    sql: &'a Arc<str>,
    arguments: SqliteArguments,
}

/// What a statement did and answered.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<SqliteRow>,
    pub(crate) changed: u64,
}

impl<'a> Call<'a> {
    pub(crate) fn new(sql: &'a Arc<str>) -> Self {
        Self {
            sql,
            arguments: SqliteArguments::default(),
        }
    }

    pub(crate) fn bind<'t, T>(mut self, value: T) -> Self
    where
        T: Encode<'t, Sqlite> + Type<Sqlite>,
    {
        self.arguments
            .add(value)
            .expect("integers and bytes always encode");
        self
    }

    /// Runs the statement on a connection of `pool`, again and again while the database is busy and there is [`ROOM`] before
    /// `deadline`.
    pub(crate) async fn run(
        self,
        pool: &SqlitePool,
        deadline: Instant,
    ) -> Result<Answer, StoreError> {
        let mut connection = acquire(pool, deadline - ROOM).await?;
        if Instant::now() + ROOM > deadline {
            return Err(
                StoreError::unavailable("too little time was left to send").with_nothing_sent()
            );
        }
        loop {
            let sent = Instant::now();
            let error = match timeout_at(deadline, self.send(&mut connection)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(elapsed) => return Err(StoreError::unavailable(elapsed)),
            };
            // A connection of the user's may have a longer busy timeout than ours: the next round takes as long as this one.
            let round = BUSY_PAUSE + sent.elapsed().max(ROOM);
            if !is_busy(&error) || Instant::now() + round > deadline {
                return Err(classified(error));
            }
            sleep(BUSY_PAUSE).await;
        }
    }

    /// Steps the statement to its end. Stopping at the first row of a RETURNING would hide a failed commit: it is the step after
    /// the last row that commits and tells.
    async fn send(&self, connection: &mut SqliteConnection) -> Result<Answer, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(self.sql)), self.arguments.clone());
        let mut answer = Answer::default();
        let mut results = connection.fetch_many(query);
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Left(done) => answer.changed += done.rows_affected(),
                Either::Right(row) => answer.rows.push(row),
            }
        }
        Ok(answer)
    }
}

/// Takes a connection, in the order of asking. Nothing is sent before it is there.
pub(crate) async fn acquire(
    pool: &SqlitePool,
    deadline: Instant,
) -> Result<PoolConnection<Sqlite>, StoreError> {
    match timeout_at(deadline, pool.acquire()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(classified(error).with_nothing_sent()),
        Err(elapsed) => Err(StoreError::unavailable(elapsed).with_nothing_sent()),
    }
}

/// Waits for a claim's turn to write, in the order of asking, as long as there is [`ROOM`] before `deadline` to write then.
pub(crate) async fn turn(
    claims: &Semaphore,
    deadline: Instant,
) -> Result<SemaphorePermit<'_>, StoreError> {
    match timeout_at(deadline - ROOM, claims.acquire()).await {
        Ok(permit) => Ok(permit.expect("the queue of claims is never closed")),
        Err(elapsed) => Err(StoreError::unavailable(elapsed).with_nothing_sent()),
    }
}
