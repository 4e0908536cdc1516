//! The statements that Postgres and SQLite have in common.

use sqlx::{ColumnIndex, Decode, Row, Type};

use super::Charge;

/// Rows never change, so a charge is kept at most once whoever is first.
pub(super) const KEEP: &str = "
INSERT INTO payments_charges
    (id, account, amount, currency, order_name, customer, provider_id, created)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO NOTHING";

pub(super) const GET: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE id = $1";

pub(super) const FIND: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE id = $1 AND account = $2";

pub(super) const LIST: &str = "
SELECT id, account, amount, currency, order_name, customer, provider_id, created
FROM payments_charges WHERE account = $1 ORDER BY number DESC LIMIT $2";

/// One more than a page holds, which tells whether there are more.
pub(super) const LIST_ROWS: i64 = super::LIST_LIMIT as i64 + 1;

pub(super) fn charge<'r, R>(row: &'r R) -> Result<Charge, sqlx::Error>
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
