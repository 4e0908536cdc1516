//! The table as Postgres and SQLite have it in common.

use sqlx::{
    ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, Row, Type, query,
};

use super::{Charge, lent::Lent};

/// Rows never change, so a charge is kept at most once whoever is first.
const KEEP: &str = "
INSERT INTO payments_charges
    (id, account, amount, currency, order_name, customer, provider_id, created)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO NOTHING
RETURNING id";

const GET: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE id = $1";

const FIND: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE id = $1 AND account = $2";

const LIST: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE account = $1 ORDER BY number DESC LIMIT $2";

/// One more than a page holds, which tells whether there are more.
const LIST_ROWS: i64 = super::LIST_LIMIT as i64 + 1;

/// Charges in a database.
#[derive(Debug)]
pub(crate) struct Rows<DB: Database>(pub(super) Pool<DB>);

impl<DB: Database> Clone for Rows<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB> Rows<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    &'static str: ColumnIndex<DB::Row>,
    for<'t> i64: Encode<'t, DB> + Decode<'t, DB> + Type<DB>,
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
    for<'t> Option<&'t str>: Encode<'t, DB> + Type<DB>,
    for<'t> String: Decode<'t, DB> + Type<DB>,
    for<'t> Option<String>: Decode<'t, DB> + Type<DB>,
{
    pub(super) async fn keep(&self, charge: &Charge) -> Result<Charge, sqlx::Error> {
        let mut connection = Lent::of(&self.0).await?;
        let inserted = query(KEEP)
            .bind(&*charge.id)
            .bind(&*charge.account)
            .bind(charge.amount)
            .bind(&*charge.currency)
            .bind(charge.order.as_deref())
            .bind(charge.customer.as_deref())
            .bind(&*charge.provider_id)
            .bind(charge.created)
            // To the end of the statement: SQLite commits there, and after one row nobody would hear of its failure.
            .fetch_all(&mut *connection)
            .await?;
        let kept = if inserted.is_empty() {
            let row = query(GET)
                .bind(&*charge.id)
                .fetch_one(&mut *connection)
                .await?;
            read(&row)?
        } else {
            charge.clone()
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
        let row = query(FIND)
            .bind(id)
            .bind(account)
            .fetch_optional(&mut *connection)
            .await?;
        connection.give_back();
        row.as_ref().map(read).transpose()
    }

    pub(super) async fn list(&self, account: &str) -> Result<Vec<Charge>, sqlx::Error> {
        let mut connection = Lent::of(&self.0).await?;
        let rows = query(LIST)
            .bind(account)
            .bind(LIST_ROWS)
            .fetch_all(&mut *connection)
            .await?;
        connection.give_back();
        rows.iter().map(read).collect()
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

fn read<'r, R>(row: &'r R) -> Result<Charge, sqlx::Error>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(Charge {
        id: row.try_get("id")?,
        account: row.try_get("account")?,
        amount: row.try_get("amount")?,
        currency: row.try_get("currency")?,
        order: row.try_get("order_name")?,
        customer: row.try_get("customer")?,
        provider_id: row.try_get("provider_id")?,
        created: row.try_get("created")?,
    })
}
