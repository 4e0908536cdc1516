//! One statement, one answer, within a time limit.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Arguments, AssertSqlSafe, Connection, Encode, PgConnection, PgPool, Postgres, Row, Type,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    raw_sql,
};
use steadfast_store::{StoreError, Transition};
use tokio::time::{sleep, timeout};

use crate::error::{OutOfTime, Remedy, classify, remedy, was_rolled_back};

/// How often a statement that met another one is sent again. Each round, one of those that met goes through.
const MAX_COLLISIONS: u32 = 4;

/// The wait before the first of those rounds, doubled for each further one: a statement takes about that long.
const COLLISION_WAIT: Duration = Duration::from_millis(2);

/// A statement with its arguments. All time and all waiting it may take is within its limit.
pub(crate) struct Call {
    statement: Arc<str>,
    limit: Duration,
    arguments: Result<PgArguments, BoxDynError>,
}

/// The rows of a call.
pub(crate) struct Answer {
    pub(crate) rows: Vec<PgRow>,
    /// How an earlier sending was lost, which may have applied before this one did.
    lost: Option<sqlx::Error>,
}

impl Call {
    pub(crate) fn new(statement: &Arc<str>, limit: Duration) -> Self {
        Self {
            statement: Arc::clone(statement),
            limit,
            arguments: Ok(PgArguments::default()),
        }
    }

    pub(crate) fn bind<'q>(mut self, value: impl Encode<'q, Postgres> + Type<Postgres>) -> Self {
        if let Ok(arguments) = &mut self.arguments
            && let Err(error) = arguments.add(value)
        {
            self.arguments = Err(error);
        }
        self
    }

    pub(crate) async fn run(self, pool: &PgPool) -> Result<Answer, StoreError> {
        let arguments = self
            .arguments
            .map_err(|error| classify(sqlx::Error::Encode(error)).with_nothing_sent())?;
        let mut doubt = false;
        let sending = send(pool, &self.statement, &arguments, &mut doubt);
        let failure = match timeout(self.limit, sending).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => classify(error),
            Err(_) => StoreError::unavailable(OutOfTime(self.limit)),
        };
        Err(if doubt {
            failure
        } else {
            failure.with_nothing_sent()
        })
    }
}

impl Call {
    /// Reads with all of the call's limit, where the connection's own `statement_timeout` may be shorter.
    pub(crate) async fn read_patiently(self, pool: &PgPool) -> Result<Vec<PgRow>, StoreError> {
        let arguments = self
            .arguments
            .map_err(|error| classify(sqlx::Error::Encode(error)))?;
        let reading = async {
            let connection = Lent::from(pool.acquire().await?);
            match read(connection, &self.statement, &arguments, self.limit).await {
                Err(error) if remedy(&error) == Remedy::FreshConnection => {
                    let connection = fresh(pool).await?;
                    read(connection, &self.statement, &arguments, self.limit).await
                }
                outcome => outcome,
            }
        };
        match timeout(self.limit, reading).await {
            Ok(outcome) => outcome.map_err(classify),
            Err(_) => Err(StoreError::unavailable(OutOfTime(self.limit))),
        }
        .map_err(StoreError::with_nothing_sent)
    }
}

/// Reads in a transaction of its own. Unless all went well the connection is closed, and the transaction with it.
async fn read(
    mut connection: Lent,
    statement: &Arc<str>,
    arguments: &PgArguments,
    limit: Duration,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}",
        limit.as_millis()
    );
    raw_sql(AssertSqlSafe(begin))
        .execute(&mut *connection)
        .await?;
    let rows = sqlx::query_with(AssertSqlSafe(Arc::clone(statement)), arguments.clone())
        .fetch_all(&mut *connection)
        .await?;
    raw_sql("COMMIT").execute(&mut *connection).await?;
    connection.give_back();
    Ok(rows)
}

impl Answer {
    /// For a transition that finds its own work again when it is sent twice: no row is no transition.
    pub(crate) fn repeatable(&self) -> Transition {
        if self.rows.is_empty() {
            Transition::Fenced
        } else {
            Transition::Applied
        }
    }

    /// For a transition that does not: after a lost sending, no row may be the work of that one.
    pub(crate) fn unrepeatable(self) -> Result<Transition, StoreError> {
        match (self.repeatable(), self.lost) {
            (Transition::Fenced, Some(lost)) => Err(StoreError::unavailable(lost)),
            (transition, _) => Ok(transition),
        }
    }
}

/// Sends the statement until it is answered, a remedy is used up, or there is none. `doubt` says at any time whether a sending may
/// have applied without an answer.
async fn send(
    pool: &PgPool,
    statement: &Arc<str>,
    arguments: &PgArguments,
    doubt: &mut bool,
) -> Result<Answer, sqlx::Error> {
    let mut collisions = 0;
    let mut lost = None;
    let mut refreshed = false;
    let mut connection = Lent::from(pool.acquire().await?);
    loop {
        let doubted = std::mem::replace(doubt, true);
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(statement)), arguments.clone());
        let error = match query.fetch_all(&mut *connection).await {
            Ok(rows) => {
                connection.give_back();
                return Ok(Answer { rows, lost });
            }
            Err(error) => error,
        };
        let rolled_back = was_rolled_back(&error);
        *doubt = doubted || !rolled_back;
        match remedy(&error) {
            Remedy::Again if collisions < MAX_COLLISIONS => {
                sleep(COLLISION_WAIT * (1 << collisions)).await;
                collisions += 1;
            }
            Remedy::FreshConnection if !refreshed => {
                refreshed = true;
                tracing::debug!(%error, "sending again on a fresh connection");
                drop(connection);
                connection = fresh(pool).await?;
                if !rolled_back {
                    lost = Some(error);
                }
            }
            Remedy::WritableConnection if !refreshed => {
                refreshed = true;
                tracing::debug!(%error, "sending again on a connection that takes writes");
                drop(connection);
                connection = writable(pool).await?;
            }
            // Closed, for the pool would lend it again.
            Remedy::WritableConnection => return Err(error),
            Remedy::Again | Remedy::FreshConnection | Remedy::Leave => {
                if rolled_back {
                    connection.give_back();
                }
                return Err(error);
            }
        }
    }
}

/// A connection that answers. A server that restarted leaves a pool full of dead ones: each is closed on the way.
async fn fresh(pool: &PgPool) -> Result<Lent, sqlx::Error> {
    loop {
        let mut connection = Lent::from(pool.acquire().await?);
        if connection.ping().await.is_ok() {
            return Ok(connection);
        }
    }
}

/// A connection whose server takes writes. A primary that was demoted leaves a pool full of others: each is closed on the way. Once
/// those are gone the next is taken as it is, since a new one tells of the server as it stands.
async fn writable(pool: &PgPool) -> Result<Lent, sqlx::Error> {
    for _ in 0..pool.num_idle() {
        let mut connection = Lent::from(pool.acquire().await?);
        let asked = sqlx::query("SELECT current_setting('transaction_read_only') = 'off'");
        if let Ok(row) = asked.fetch_one(&mut *connection).await
            && row.try_get(0)?
        {
            return Ok(connection);
        }
    }
    fresh(pool).await
}

/// A connection of the pool that goes back only by [`give_back`](Self::give_back).
///
/// Dropped before, in the middle of a statement, it is closed: the pool would otherwise wait for the statement's answer, for as
/// long as a dead network keeps it, with the connection's place taken.
pub(crate) struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl From<PoolConnection<Postgres>> for Lent {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Self(Some(connection))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

const LENT: &str = "it holds its connection until it is given back";

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect(LENT)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect(LENT)
    }
}
