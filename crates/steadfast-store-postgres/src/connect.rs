use std::{str::FromStr, time::Duration};

use sqlx::{
    PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use steadfast_store::StoreError;
use tokio::time::timeout;

use crate::{
    call::Lent,
    error::{OutOfTime, classify, classify_opening},
};

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

/// As long as the longest limit of a transition. The whole of [`connect`] has no more.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn connect(url: &str) -> Result<PgPool, StoreError> {
    let options = options(url).map_err(classify)?;
    timeout(ACQUIRE_TIMEOUT, open(options))
        .await
        .unwrap_or_else(|_| Err(StoreError::unavailable(OutOfTime(ACQUIRE_TIMEOUT))))
        .map_err(StoreError::with_nothing_sent)
}

async fn open(options: PgConnectOptions) -> Result<PgPool, StoreError> {
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping is a round trip; a dead connection is noticed by its statement, which is sent again.
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(classify_opening)?;
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
    let chosen = names(options.get_options().unwrap_or_default());
    let ours = SESSION
        .iter()
        .filter(|(name, _)| !chosen.iter().any(|chosen| chosen == name))
        .copied();
    Ok(options.options(ours))
}

/// The settings that a line of `options` names, as Postgres reads it: `-c name=value`, `-cname=value` or `--name=value`, parted by
/// spaces that no backslash escapes, in any case, with `-` as good as `_`.
fn names(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut escaped = false;
    for character in line.chars() {
        if !escaped && character == '\\' {
            escaped = true;
            continue;
        }
        if !escaped && character.is_ascii_whitespace() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
        escaped = false;
    }
    words
        .iter()
        .filter_map(|word| {
            let word = word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))
                .unwrap_or(word);
            let (name, _) = word.split_once('=')?;
            Some(name.to_ascii_lowercase().replace('-', "_"))
        })
        .collect()
}

/// Refuses a server that acknowledges what it may forget, by which a claim could run twice, and one that takes no claims at all.
async fn refuse_forgetful(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = Lent::from(pool.acquire().await.map_err(classify)?);
    let row = sqlx::query(
        "SELECT pg_is_in_recovery(), current_setting('synchronous_commit') = 'off', \
         current_setting('fsync') = 'off', current_setting('full_page_writes') = 'off'",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(classify)?;
    connection.give_back();
    let is = |column: usize| row.try_get::<bool, _>(column).map_err(classify);
    // It may be promoted a moment later.
    if is(0)? {
        return Err(StoreError::unavailable(
            "the server is a standby: records need the primary",
        ));
    }
    for (column, forgetful) in [
        (
            1,
            "synchronous_commit is off: the server would forget acknowledged records in a crash",
        ),
        (
            2,
            "fsync is off: the server would forget acknowledged records when its host fails",
        ),
    ] {
        if is(column)? {
            return Err(StoreError::misconfigured(forgetful));
        }
    }
    // Storage that never tears a page, such as ZFS, makes up for this one.
    if is(3)? {
        tracing::warn!(
            "full_page_writes is off: most storage may then corrupt records when its host fails"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_told_from_one_whose_name_contains_it() {
        assert_eq!(
            names(
                r"-c deadlock_timeout=2s --Lock-Timeout=3s -cgeqo=off -c search_path=a\ jit=b -c x"
            ),
            ["deadlock_timeout", "lock_timeout", "geqo", "search_path"]
        );
        assert!(names("").is_empty());
    }

    #[test]
    fn a_setting_of_the_url_wins_and_no_other_is_left_out() {
        let url = "postgres://h/d?options[deadlock_timeout]=2s&options[statement_timeout]=3s";
        let options = options(url).unwrap();

        let line = options.get_options().unwrap();
        assert!(line.contains("-c lock_timeout=1s"), "{line}");
        assert!(line.contains("-c statement_timeout=3s"), "{line}");
        assert!(!line.contains("statement_timeout=5s"), "{line}");
    }
}
