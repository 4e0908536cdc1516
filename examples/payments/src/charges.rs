//! The table of charges, in the database that holds the idempotency records too.

mod lent;
mod memory;
mod postgres;
mod rows;
mod sqlite;

use std::{error::Error, fmt, future::Future, time::Duration};

use tokio::time::timeout;

pub(crate) use self::{memory::MemoryCharges, postgres::PostgresCharges, sqlite::SqliteCharges};

/// A list holds the newest this many.
pub const LIST_LIMIT: usize = 100;

/// Longer than a restart of a healthy database takes to be noticed, and short enough that a client waits for it.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A charge that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// `ch_` and 32 hexadecimal digits, the same on every execution of its operation.
    pub id: String,
    /// The account that it belongs to.
    pub account: String,
    /// In minor units of the currency.
    pub amount: i64,
    /// Three letters in lower case.
    pub currency: String,
    /// The client's own name of the order.
    pub order: Option<String>,
    /// The client's own name of the customer.
    pub customer: Option<String>,
    /// The provider's name of the charge.
    pub provider_id: String,
    /// When the provider made it, in seconds since 1970.
    pub created: i64,
}

/// A page of charges, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most [`LIST_LIMIT`] charges.
    pub charges: Vec<Charge>,
    /// Whether older ones were left out.
    pub has_more: bool,
}

impl Page {
    /// `charges` has one more than the page may hold, if there are that many.
    fn of_newest(mut charges: Vec<Charge>) -> Self {
        let has_more = charges.len() > LIST_LIMIT;
        charges.truncate(LIST_LIMIT);
        Self { charges, has_more }
    }
}

/// Where the charges are kept.
#[derive(Clone, Debug)]
pub struct Charges(Table);

#[derive(Clone, Debug)]
enum Table {
    Memory(MemoryCharges),
    Postgres(PostgresCharges),
    Sqlite(SqliteCharges),
}

impl Charges {
    /// Keeps the charge unless one with its id is there, and returns the one that is there afterwards.
    ///
    /// # Errors
    ///
    /// The database failed; the charge may be kept nevertheless.
    ///
    /// # Cancel safety
    ///
    /// The charge may be kept although the future is dropped; asking again is safe.
    pub async fn keep(&self, charge: &Charge) -> Result<Charge, ChargesError> {
        match &self.0 {
            Table::Memory(table) => Ok(table.keep(charge)),
            Table::Postgres(table) => limited(table.keep(charge)).await,
            Table::Sqlite(table) => limited(table.keep(charge)).await,
        }
    }

    /// The charge with this id, if it is the account's.
    ///
    /// # Errors
    ///
    /// The database failed.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn find(&self, account: &str, id: &str) -> Result<Option<Charge>, ChargesError> {
        match &self.0 {
            Table::Memory(table) => Ok(table.find(account, id)),
            Table::Postgres(table) => limited(table.find(account, id)).await,
            Table::Sqlite(table) => limited(table.find(account, id)).await,
        }
    }

    /// The newest charges of the account.
    ///
    /// # Errors
    ///
    /// The database failed.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn list(&self, account: &str) -> Result<Page, ChargesError> {
        let charges = match &self.0 {
            Table::Memory(table) => table.list(account),
            Table::Postgres(table) => limited(table.list(account)).await?,
            Table::Sqlite(table) => limited(table.list(account)).await?,
        };
        Ok(Page::of_newest(charges))
    }
}

impl From<MemoryCharges> for Charges {
    fn from(table: MemoryCharges) -> Self {
        Self(Table::Memory(table))
    }
}

impl From<PostgresCharges> for Charges {
    fn from(table: PostgresCharges) -> Self {
        Self(Table::Postgres(table))
    }
}

impl From<SqliteCharges> for Charges {
    fn from(table: SqliteCharges) -> Self {
        Self(Table::Sqlite(table))
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, ChargesError> {
    match timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| ChargesError(Some(error))),
        Err(_) => Err(ChargesError(None)),
    }
}

/// The table of charges cannot be used.
#[derive(Debug)]
pub struct ChargesError(Option<sqlx::Error>);

impl fmt::Display for ChargesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(_) => f.write_str("the table of charges failed"),
            None => write!(
                f,
                "the table of charges did not answer within {CALL_LIMIT:?}"
            ),
        }
    }
}

impl Error for ChargesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_ref().map(|error| error as _)
    }
}
