use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{Charge, lent::Lent, statements};

const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS payments_charges (
        number      INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT    NOT NULL UNIQUE,
        account     TEXT    NOT NULL,
        amount      INTEGER NOT NULL,
        currency    TEXT    NOT NULL,
        order_name  TEXT,
        customer    TEXT,
        provider_id TEXT    NOT NULL,
        created     INTEGER NOT NULL
    ) STRICT",
    "CREATE INDEX IF NOT EXISTS payments_charges_newest ON payments_charges (account, number)",
];

/// Charges in a SQLite file.
#[derive(Clone, Debug)]
pub(crate) struct SqliteCharges(SqlitePool);

impl SqliteCharges {
    pub(crate) async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An answered charge must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(4));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(4))
            .connect_with(options)
            .await?;
        Ok(Self(pool))
    }

    /// Makes the table where it is missing.
    pub(crate) async fn migrate(&self) -> Result<(), sqlx::Error> {
        for statement in SCHEMA {
            sqlx::query(statement).execute(&self.0).await?;
        }
        Ok(())
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
