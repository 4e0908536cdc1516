use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Charge, lent::Lent, statements};

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
#[derive(Clone, Debug)]
pub(crate) struct PostgresCharges(PgPool);

impl PostgresCharges {
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

    pub(super) async fn keep(&self, charge: &Charge) -> Result<Charge, sqlx::Error> {
        let mut connection = Lent::of(&self.0).await?;
        let inserted = sqlx::query(statements::KEEP)
            .bind(&charge.id)
            .bind(&charge.account)
            .bind(charge.amount)
            .bind(&charge.currency)
            .bind(&charge.order)
            .bind(&charge.customer)
            .bind(&charge.provider_id)
            .bind(charge.created)
            .execute(&mut *connection)
            .await?;
        let kept = if inserted.rows_affected() == 1 {
            charge.clone()
        } else {
            let row = sqlx::query(statements::GET)
                .bind(&charge.id)
                .fetch_one(&mut *connection)
                .await?;
            statements::charge(&row)?
        };
        connection.give_back();
        Ok(kept)
    }

    pub(super) async fn find(
        &self,
        account: &str,
        id: &str,
    ) -> Result<Option<Charge>, sqlx::Error> {
        let mut connection = Lent::of(&self.0).await?;
        let row = sqlx::query(statements::FIND)
            .bind(id)
            .bind(account)
            .fetch_optional(&mut *connection)
            .await?;
        connection.give_back();
        row.as_ref().map(statements::charge).transpose()
    }

    pub(super) async fn list(&self, account: &str) -> Result<Vec<Charge>, sqlx::Error> {
        let mut connection = Lent::of(&self.0).await?;
        let rows = sqlx::query(statements::LIST)
            .bind(account)
            .bind(statements::LIST_ROWS)
            .fetch_all(&mut *connection)
            .await?;
        connection.give_back();
        rows.iter().map(statements::charge).collect()
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}
