use sqlx::error::DatabaseError;
use steadfast_store::StoreError;

// Primary result codes, https://www.sqlite.org/rescode.html; the low byte of an extended one.
const ERROR: i32 = 1;
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const TOOBIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const AUTH: i32 = 23;
const NOTADB: i32 = 26;

fn primary_code(error: &dyn DatabaseError) -> Option<i32> {
    let code: i32 = error.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether another connection holds the lock that the statement needs. Nothing was done then.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(primary_code)
        .is_some_and(|code| code == BUSY || code == LOCKED)
}

/// What a failed statement means for the caller of a transition.
pub(crate) fn classified(error: sqlx::Error) -> StoreError {
    if matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) {
        return StoreError::unavailable(error).with_nothing_sent();
    }
    if matches!(
        error,
        sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Configuration(_)
            | sqlx::Error::Decode(_)
    ) {
        return StoreError::misconfigured(error);
    }
    let code = error.as_database_error().and_then(primary_code);
    match code {
        // The statements are fixed, so a general error speaks of the schema: no such table, no such column.
        Some(ERROR | PERM | READONLY | CORRUPT | CONSTRAINT | MISMATCH | AUTH | NOTADB) => {
            StoreError::misconfigured(error)
        }
        Some(TOOBIG) => StoreError::refused(error),
        // A full disk may have room again, and an answer that is not sent again then is lost: unavailable, not refused. SQLite
        // rolls the statement back in all three.
        Some(BUSY | LOCKED | FULL) => StoreError::unavailable(error).with_nothing_sent(),
        _ => StoreError::unavailable(error),
    }
}
