use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool, Row, raw_sql};
use steadfast_store::StoreError;
use tokio::time::{sleep, timeout};

use crate::{
    TableName,
    call::Lent,
    error::{OutOfTime, classify, waited_for_lock},
};

/// A step of the schema. A released one never changes.
pub(crate) struct Migration {
    version: i32,
    pub(crate) sql: &'static str,
}

/// In order.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: include_str!("../migrations/0001_records.sql"),
}];

const BOOK: &str = include_str!("../sql/book.sql");

/// How long a migration may take, its wait for other processes included: an index on a large table needs minutes.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// How long a migration waits for a lock on the table. Claims queue behind it for as long, and their own limit is a second.
const LOCK_LIMIT: &str = "200ms";

/// What claims get between two such waits.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn migrate(pool: &PgPool, table: &TableName) -> Result<(), StoreError> {
    match timeout(LIMIT, migrate_patiently(pool, table)).await {
        Ok(outcome) => outcome.map_err(classify),
        Err(_) => Err(StoreError::unavailable(OutOfTime(LIMIT))),
    }
}

async fn migrate_patiently(pool: &PgPool, table: &TableName) -> Result<(), sqlx::Error> {
    loop {
        match migrate_alone(pool, table).await {
            Err(error) if waited_for_lock(&error) => {
                tracing::debug!(%table, %error, "migrating again in a while");
                sleep(LOCK_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// All of it in one transaction under a lock, so that other processes wait and then find it done. The lock is one for the whole
/// database: two tables may both need the same schema made.
async fn migrate_alone(pool: &PgPool, table: &TableName) -> Result<(), sqlx::Error> {
    let mut connection = Lent::from(pool.acquire().await?);
    // The pool's own limits are for the short statements of requests. Only migrations wait for the advisory lock.
    raw_sql(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning",
    )
    .execute(&mut *connection)
    .await?;
    raw_sql("SELECT pg_advisory_xact_lock(hashtextextended('steadfast migrations', 0))")
        .execute(&mut *connection)
        .await?;
    run(
        &mut connection,
        format!("SET LOCAL lock_timeout = '{LOCK_LIMIT}'"),
    )
    .await?;
    if let Some(schema) = table.quoted_schema()
        && is_missing(&mut connection, "regnamespace", &schema).await?
    {
        run(&mut connection, format!("CREATE SCHEMA {schema}")).await?;
    }
    if is_missing(&mut connection, "regclass", &table.book()).await? {
        run(&mut connection, table.render(BOOK)).await?;
    }
    let book = table.book();
    let applied: Vec<i32> = sqlx::query(AssertSqlSafe(format!("SELECT version FROM {book}")))
        .fetch_all(&mut *connection)
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let missing = MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version));
    for Migration { version, sql } in missing.clone() {
        run(&mut connection, table.render(sql)).await?;
        run(
            &mut connection,
            format!("INSERT INTO {book} (version) VALUES ({version})"),
        )
        .await?;
    }
    run(&mut connection, "COMMIT".into()).await?;
    connection.give_back();
    for Migration { version, .. } in missing {
        tracing::info!(%table, version, "migrated");
    }
    Ok(())
}

async fn is_missing(
    connection: &mut Lent,
    kind: &'static str,
    quoted_name: &str,
) -> Result<bool, sqlx::Error> {
    let statement = format!("SELECT to_{kind}($1) IS NULL");
    sqlx::query(AssertSqlSafe(statement))
        .bind(quoted_name)
        .fetch_one(&mut **connection)
        .await?
        .try_get(0)
}

async fn run(connection: &mut Lent, statements: String) -> Result<(), sqlx::Error> {
    raw_sql(AssertSqlSafe(statements))
        .execute(&mut **connection)
        .await?;
    Ok(())
}
