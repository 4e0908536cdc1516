use sqlx::{PgPool, SqlitePool};

use super::{LIST_LIMIT, OrderRow};

/// `CREATE ... IF NOT EXISTS` fails when two processes start at once; this lock makes one wait.
const POSTGRES_LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('orders_orders'))";

const POSTGRES_SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS orders_orders (
        number       BIGINT GENERATED ALWAYS AS IDENTITY,
        id           TEXT   NOT NULL PRIMARY KEY,
        account      TEXT   NOT NULL,
        sku          TEXT   NOT NULL,
        quantity     BIGINT NOT NULL,
        cancelled_by TEXT
    )",
    "CREATE INDEX IF NOT EXISTS orders_orders_newest ON orders_orders (account, number)",
];

const SQLITE_SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS orders_orders (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        id           TEXT    NOT NULL UNIQUE,
        account      TEXT    NOT NULL,
        sku          TEXT    NOT NULL,
        quantity     INTEGER NOT NULL,
        cancelled_by TEXT
    ) STRICT",
    "CREATE INDEX IF NOT EXISTS orders_orders_newest ON orders_orders (account, number)",
];

/// An order is placed at most once, whoever is first.
const PLACE: &str = "
INSERT INTO orders_orders (id, account, sku, quantity) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO NOTHING";

/// An order is cancelled at most once, and who did it stands for good.
const CANCEL: &str = "
UPDATE orders_orders SET cancelled_by = $3
WHERE id = $1 AND account = $2 AND cancelled_by IS NULL";

const FIND: &str = "
SELECT id, account, sku, quantity, cancelled_by
FROM orders_orders WHERE id = $1 AND account = $2";

const LIST: &str = "
SELECT id, account, sku, quantity, cancelled_by
FROM orders_orders WHERE account = $1 ORDER BY number DESC LIMIT $2";

type Columns = (String, String, String, i64, Option<String>);

/// Connections to a database.
#[derive(Clone, Debug)]
pub(crate) enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// The statements are the same on both; to sqlx they are of two types.
macro_rules! on {
    ($sql:expr, $pool:ident => $call:expr) => {
        match &$sql.0 {
            Pool::Postgres($pool) => $call,
            Pool::Sqlite($pool) => $call,
        }
    };
}

/// Orders in a database.
#[derive(Clone, Debug)]
pub(super) struct Sql(Pool);

impl Sql {
    pub(super) async fn open(pool: Pool) -> Result<Self, sqlx::Error> {
        match &pool {
            Pool::Postgres(pool) => {
                let mut transaction = pool.begin().await?;
                sqlx::query(POSTGRES_LOCK)
                    .execute(&mut *transaction)
                    .await?;
                for statement in POSTGRES_SCHEMA {
                    sqlx::query(statement).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
            }
            Pool::Sqlite(pool) => {
                for statement in SQLITE_SCHEMA {
                    sqlx::query(statement).execute(pool).await?;
                }
            }
        }
        Ok(Self(pool))
    }

    pub(super) async fn place(&self, order: &OrderRow) -> Result<OrderRow, sqlx::Error> {
        on!(self, pool => {
            sqlx::query(PLACE)
                .bind(&order.id)
                .bind(&order.account)
                .bind(&order.sku)
                .bind(i64::from(order.quantity))
                .execute(pool)
                .await?;
        });
        let kept = self.find(&order.account, &order.id).await?;
        kept.ok_or(sqlx::Error::RowNotFound)
    }

    pub(super) async fn cancel(
        &self,
        account: &str,
        id: &str,
        operation: &str,
    ) -> Result<Option<OrderRow>, sqlx::Error> {
        on!(self, pool => {
            sqlx::query(CANCEL).bind(id).bind(account).bind(operation).execute(pool).await?;
        });
        self.find(account, id).await
    }

    pub(super) async fn find(
        &self,
        account: &str,
        id: &str,
    ) -> Result<Option<OrderRow>, sqlx::Error> {
        let found: Option<Columns> = on!(self, pool => {
            sqlx::query_as(FIND).bind(id).bind(account).fetch_optional(pool).await?
        });
        found.map(row).transpose()
    }

    pub(super) async fn list(&self, account: &str) -> Result<Vec<OrderRow>, sqlx::Error> {
        let limit = LIST_LIMIT as i64;
        let found: Vec<Columns> = on!(self, pool => {
            sqlx::query_as(LIST).bind(account).bind(limit).fetch_all(pool).await?
        });
        found.into_iter().map(row).collect()
    }
}

fn row((id, account, sku, quantity, cancelled_by): Columns) -> Result<OrderRow, sqlx::Error> {
    let quantity = quantity
        .try_into()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(OrderRow {
        id,
        account,
        sku,
        quantity,
        cancelled_by,
    })
}
