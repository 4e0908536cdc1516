use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool, Row, raw_sql};
use steadfast_store::StoreError;
use tokio::time::timeout;

use crate::{
    TableName,
    call::Lent,
    error::{OutOfTime, classify},
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

pub(crate) async fn migrate(pool: &PgPool, table: &TableName) -> Result<(), StoreError> {
    match timeout(LIMIT, migrate_alone(pool, table)).await {
        Ok(outcome) => outcome.map_err(classify),
        Err(_) => Err(StoreError::unavailable(OutOfTime(LIMIT))),
    }
}

/// All of it in one transaction under a lock of the table's name, so that other processes wait and then find it done.
async fn migrate_alone(pool: &PgPool, table: &TableName) -> Result<(), sqlx::Error> {
    let mut connection = Lent::from(pool.acquire().await?);
    // The pool's own limits are for the short statements of requests.
    raw_sql(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("steadfast {table}"))
        .execute(&mut *connection)
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
    for Migration { version, sql } in MIGRATIONS {
        if applied.contains(version) {
            continue;
        }
        run(&mut connection, table.render(sql)).await?;
        run(
            &mut connection,
            format!("INSERT INTO {book} (version) VALUES ({version})"),
        )
        .await?;
        tracing::info!(%table, version, "migrated");
    }
    run(&mut connection, "COMMIT".into()).await?;
    connection.give_back();
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
