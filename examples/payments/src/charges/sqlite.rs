use std::{path::Path, time::Duration};

use sqlx::{
    Sqlite,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::rows::Rows;

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
pub(crate) type SqliteCharges = Rows<Sqlite>;

impl Rows<Sqlite> {
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
}
