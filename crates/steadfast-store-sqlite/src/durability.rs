use sqlx::{Row, sqlite::SqliteRow};
use steadfast_store::StoreError;

use crate::error::classified;

/// Whether a connection that answered `durability.sql` so keeps acknowledged transitions through a crash of the host.
pub(crate) fn judge(row: &SqliteRow) -> Result<(), StoreError> {
    let file: String = row.try_get(0).map_err(classified)?;
    let journal: String = row.try_get(1).map_err(classified)?;
    let synchronous: i64 = row.try_get(2).map_err(classified)?;

    // https://www.sqlite.org/pragma.html#pragma_synchronous: a rollback journal may come back after a loss of power unless
    // its folder is synced too, which only EXTRA (3) does; with the write-ahead log FULL (2) does all there is to do.
    let needed = match &*journal {
        "wal" => 2,
        "delete" | "persist" | "truncate" => 3,
        _ => i64::MAX,
    };
    if file.is_empty() {
        return Err(StoreError::misconfigured(
            "the database is in memory and forgets its promises",
        ));
    }
    if synchronous < needed {
        return Err(StoreError::misconfigured(format!(
            "a loss of power can undo a commit with journal_mode={journal} and synchronous={synchronous}"
        )));
    }
    Ok(())
}
