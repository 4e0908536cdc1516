use std::time::Duration;

use sqlx::{
    Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::rows::Rows;

/// A connection that is closed in the middle of a statement goes on in the server until the statement is done.
const SESSION: [(&str, &str); 1] = [("statement_timeout", "5s")];

/// `CREATE ... IF NOT EXISTS` fails when two processes start at once; this lock makes one wait.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('payments_charges'))";

const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS payments_charges (
        number      BIGINT GENERATED ALWAYS AS IDENTITY,
        id          TEXT   NOT NULL PRIMARY KEY,
        account     TEXT   NOT NULL,
        amount      BIGINT NOT NULL,
        currency    TEXT   NOT NULL,
        order_name  TEXT,
        customer    TEXT,
        provider_id TEXT   NOT NULL,
        created     BIGINT NOT NULL
    )",
    "CREATE INDEX IF NOT EXISTS payments_charges_newest ON payments_charges (account, number)",
];

/// Charges in Postgres.
pub(crate) type PostgresCharges = Rows<Postgres>;

impl Rows<Postgres> {
    pub(crate) async fn connect(url: &str) -> Result<Self, sqlx::Error> {
        let options = url.parse::<PgConnectOptions>()?.options(SESSION);
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(4))
            .connect_with(options)
            .await?;
        Ok(Self(pool))
    }

    /// Makes the table where it is missing.
    pub(crate) async fn migrate(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.0.begin().await?;
        sqlx::query(LOCK).execute(&mut *transaction).await?;
        for statement in SCHEMA {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }
}
