use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection, SqliteConnection, SqlitePool};
use steadfast_store::StoreError;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    call::acquire,
    error::{classified, is_busy},
    sql::Statements,
};

/// Migrations of many processes wait for each other.
const LIMIT: Duration = Duration::from_secs(30);

/// The pause before a busy database is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Brings the table up to the newest migration that this version knows.
pub(crate) async fn migrate(pool: &SqlitePool, statements: &Statements) -> Result<(), StoreError> {
    let deadline = Instant::now() + LIMIT;
    let mut connection = acquire(pool, deadline).await?;
    loop {
        let error = match timeout_at(deadline, migrate_on(&mut connection, statements)).await {
            Ok(Ok(migrated)) => return migrated,
            Ok(Err(error)) => error,
            Err(elapsed) => return Err(StoreError::unavailable(elapsed)),
        };
        if !is_busy(&error) || Instant::now() + BUSY_PAUSE >= deadline {
            return Err(classified(error));
        }
        sleep(BUSY_PAUSE).await;
    }
}

async fn migrate_on(
    connection: &mut SqliteConnection,
    statements: &Statements,
) -> Result<Result<(), StoreError>, sqlx::Error> {
    // Immediate: a transaction that only reads at first cannot wait for the write lock later.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let outcome = apply(&mut transaction, statements).await;
    if matches!(outcome, Ok(Ok(()))) {
        transaction.commit().await?;
    } else {
        // A dropped transaction would keep the lock a moment longer than the answer.
        transaction.rollback().await?;
    }
    outcome
}

async fn apply(
    connection: &mut SqliteConnection,
    statements: &Statements,
) -> Result<Result<(), StoreError>, sqlx::Error> {
    sqlx::query(AssertSqlSafe(Arc::clone(&statements.book)))
        .execute(&mut *connection)
        .await?;
    let applied: i64 = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&statements.book_version)))
        .fetch_one(&mut *connection)
        .await?;
    let Ok(applied) = usize::try_from(applied) else {
        return Ok(Err(StoreError::misconfigured(format!(
            "the book of migrations says version {applied}"
        ))));
    };

    // A newer version may have applied more than this one knows: then nothing is left to do.
    for (at, migration) in statements.migrations.iter().enumerate().skip(applied) {
        sqlx::raw_sql(AssertSqlSafe(Arc::clone(migration)))
            .execute(&mut *connection)
            .await?;
        let version = i64::try_from(at + 1).expect("there are few migrations");
        sqlx::query(AssertSqlSafe(Arc::clone(&statements.book_add)))
            .bind(version)
            .execute(&mut *connection)
            .await?;
    }
    Ok(Ok(()))
}
