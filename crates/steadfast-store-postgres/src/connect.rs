use std::{str::FromStr, time::Duration};

use sqlx::{
    PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use steadfast_store::StoreError;

use crate::error::classify;

/// What each connection of an advised pool asks of the server, unless the URL says otherwise.
const SESSION: &[(&str, &str)] = &[
    // An isolation above it turns every race into a failed statement.
    ("default_transaction_isolation", "read committed"),
    // A plan prepared while the table was one page long would read the whole table for ever.
    ("enable_seqscan", "off"),
    // The setting above works by a huge cost, at which Postgres compiles the operators' list for a tenth of a second each time.
    ("jit", "off"),
    // No transition holds a row lock for longer than one commit.
    ("lock_timeout", "1s"),
    // The longest limit a transition has; what nobody waits for any more need not run.
    ("statement_timeout", "5s"),
    // A transaction is only open while a migration runs, and that never idles.
    ("idle_in_transaction_session_timeout", "10s"),
    // The server notices within a minute that this host is gone.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// Two short statements an operation: ten connections carry thousands of operations a second.
const MAX_CONNECTIONS: u32 = 10;

/// As long as the longest limit of a transition.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn connect(url: &str) -> Result<PgPool, StoreError> {
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping is a round trip; a dead connection is noticed by its statement, which is sent again.
        .test_before_acquire(false)
        .connect_with(options(url).map_err(classify)?)
        .await
        .map_err(|error| classify(error).with_nothing_sent())?;
    refuse_forgetful(&pool).await?;
    Ok(pool)
}

fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    // The driver takes any scheme.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        let wrong = "the URL does not begin with postgres:// or postgresql://";
        return Err(sqlx::Error::Configuration(wrong.into()));
    }
    let options = PgConnectOptions::from_str(url)?;
    let chosen = options.get_options().unwrap_or_default().to_owned();
    let ours = SESSION
        .iter()
        .filter(|(name, _)| !chosen.contains(&format!("{name}=")))
        .copied();
    Ok(options.options(ours))
}

/// With `synchronous_commit` off the server acknowledges what a crash may undo: a claim could be forgotten and run twice.
async fn refuse_forgetful(pool: &PgPool) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT current_setting('synchronous_commit')")
        .fetch_one(pool)
        .await
        .map_err(classify)?;
    let setting: String = row.try_get(0).map_err(classify)?;
    if setting == "off" {
        return Err(StoreError::misconfigured(
            "synchronous_commit is off: the server would forget acknowledged records in a crash",
        ));
    }
    Ok(())
}
