//! The table of orders, in the database that holds the idempotency records too.

mod memory;
mod sql;

use std::{error::Error, fmt, time::Duration};

use tokio::time::timeout;

pub(crate) use self::sql::Pool;
use self::{memory::Memory, sql::Sql};

/// A list holds the newest this many.
pub(crate) const LIST_LIMIT: usize = 100;

/// Longer than a restart of a healthy database takes to be noticed, and short enough that a client waits for it.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// An order as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRow {
    /// `or_` and 32 hexadecimal digits, the same on every execution of the operation that placed it.
    pub id: String,
    /// The account that it belongs to.
    pub account: String,
    /// The article.
    pub sku: String,
    /// How many of it.
    pub quantity: u32,
    /// The operation that cancelled it.
    pub cancelled_by: Option<String>,
}

/// Where the orders are kept.
#[derive(Clone, Debug)]
pub struct Orders(Table);

#[derive(Clone, Debug)]
enum Table {
    Memory(Memory),
    Sql(Sql),
}

impl Orders {
    /// Orders that are gone with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Table::Memory(Memory::default()))
    }

    /// Makes the table where it is missing.
    pub(crate) async fn open(pool: Pool) -> Result<Self, sqlx::Error> {
        Ok(Self(Table::Sql(Sql::open(pool).await?)))
    }

    /// Keeps the order unless one with its id is there, and returns the one that is there afterwards.
    ///
    /// # Errors
    ///
    /// The database failed; the order may be kept nevertheless.
    ///
    /// # Cancel safety
    ///
    /// The order may be kept although the future is dropped; asking again is safe.
    pub async fn place(&self, order: &OrderRow) -> Result<OrderRow, TableError> {
        match &self.0 {
            Table::Memory(memory) => Ok(memory.place(order)),
            Table::Sql(sql) => limited(sql.place(order)).await,
        }
    }

    /// Cancels the order unless it is cancelled, and returns it as it is afterwards: cancelled by this operation or by another.
    ///
    /// # Errors
    ///
    /// The database failed; the order may be cancelled nevertheless.
    ///
    /// # Cancel safety
    ///
    /// The order may be cancelled although the future is dropped; asking again is safe.
    pub async fn cancel(
        &self,
        account: &str,
        id: &str,
        operation: &str,
    ) -> Result<Option<OrderRow>, TableError> {
        match &self.0 {
            Table::Memory(memory) => Ok(memory.cancel(account, id, operation)),
            Table::Sql(sql) => limited(sql.cancel(account, id, operation)).await,
        }
    }

    /// The order with this id, if it is the account's.
    ///
    /// # Errors
    ///
    /// The database failed.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn find(&self, account: &str, id: &str) -> Result<Option<OrderRow>, TableError> {
        match &self.0 {
            Table::Memory(memory) => Ok(memory.find(account, id)),
            Table::Sql(sql) => limited(sql.find(account, id)).await,
        }
    }

    /// The newest orders of the account, newest first.
    ///
    /// # Errors
    ///
    /// The database failed.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn list(&self, account: &str) -> Result<Vec<OrderRow>, TableError> {
        match &self.0 {
            Table::Memory(memory) => Ok(memory.list(account)),
            Table::Sql(sql) => limited(sql.list(account)).await,
        }
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, TableError> {
    match timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| TableError(Some(error))),
        Err(_) => Err(TableError(None)),
    }
}

/// The table of orders cannot be used.
#[derive(Debug)]
pub struct TableError(Option<sqlx::Error>);

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(_) => f.write_str("the table of orders failed"),
            None => write!(
                f,
                "the table of orders did not answer within {CALL_LIMIT:?}"
            ),
        }
    }
}

impl Error for TableError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_ref().map(|error| error as _)
    }
}
