//! What an error of the driver means for the caller of a transition.

use std::{error::Error, fmt, time::Duration};

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use steadfast_store::{StoreError, StoreErrorKind};

/// What may help at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The statement met another one: send it again.
    Again,
    /// The connection is lost or its prepared statements are: send it on a fresh one.
    FreshConnection,
    /// Nothing here.
    Leave,
}

pub(crate) fn remedy(error: &sqlx::Error) -> Remedy {
    if matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) {
        return Remedy::FreshConnection;
    }
    match sqlstate(error) {
        // serialization_failure, deadlock_detected
        Some("40001" | "40P01") => Remedy::Again,
        // 0A000: a plan prepared before the table was altered; 26000: the statement was deallocated behind our back
        Some("0A000" | "26000" | "57P01" | "57P02" | "57P03" | "57P05") => Remedy::FreshConnection,
        Some(code) if code.starts_with("08") => Remedy::FreshConnection,
        Some(_) | None => Remedy::Leave,
    }
}

/// Whether the error says that the statement changed nothing: the server ended it, and only it.
pub(crate) fn was_rolled_back(error: &sqlx::Error) -> bool {
    let Some(database) = postgres(error) else {
        return matches!(error, sqlx::Error::Encode(_));
    };
    // 40003: statement_completion_unknown
    database.severity() == PgSeverity::Error
        && !database.code().starts_with("08")
        && database.code() != "40003"
}

/// The error with its kind. It may have applied, unless the caller knows better.
pub(crate) fn classify(error: sqlx::Error) -> StoreError {
    match kind(&error) {
        StoreErrorKind::Refused => StoreError::refused(error),
        StoreErrorKind::Unavailable => StoreError::unavailable(error),
        StoreErrorKind::Misconfigured | _ => StoreError::misconfigured(error),
    }
}

fn kind(error: &sqlx::Error) -> StoreErrorKind {
    if let Some(code) = sqlstate(error) {
        return kind_of(code);
    }
    let passes = matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
    );
    if passes {
        StoreErrorKind::Unavailable
    } else {
        // The rest speaks of the connection's options, or of columns that are not what this version makes of them.
        StoreErrorKind::Misconfigured
    }
}

/// See Postgres' appendix A, error codes; the first two characters are the class.
fn kind_of(sqlstate: &str) -> StoreErrorKind {
    match sqlstate {
        // protocol_violation: how PgBouncer refuses a start-up parameter; database_dropped; corrupted data and indexes
        "08P01" | "57P04" | "XX001" | "XX002" => StoreErrorKind::Misconfigured,
        // read_only_sql_transaction: a standby, or a primary that became one; lock_not_available
        "25006" | "55P03" => StoreErrorKind::Unavailable,
        _ => match sqlstate.get(..2) {
            // data exception, program limit exceeded
            Some("22" | "54") => StoreErrorKind::Refused,
            // feature not supported, constraint violation, invalid statement name, authorization, catalog, schema, syntax or access
            Some("0A" | "23" | "26" | "28" | "3D" | "3F" | "42") => StoreErrorKind::Misconfigured,
            // Connection, rollback, resources (disk full, too many connections), operator, system, internal; and what is not known.
            _ => StoreErrorKind::Unavailable,
        },
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    postgres(error).map(PgDatabaseError::code)
}

fn postgres(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
}

/// A call took longer than it may.
#[derive(Debug)]
pub(crate) struct OutOfTime(pub(crate) Duration);

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.0)
    }
}

impl Error for OutOfTime {}

/// A record that this version cannot read.
#[derive(Debug)]
pub(crate) struct UnreadableRecord(pub(crate) &'static str);

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record has an unknown {}", self.0)
    }
}

impl Error for UnreadableRecord {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_sqlstate_has_its_kind() {
        for (code, kind) in [
            ("08006", StoreErrorKind::Unavailable),
            ("08P01", StoreErrorKind::Misconfigured),
            ("22008", StoreErrorKind::Refused),
            ("23514", StoreErrorKind::Misconfigured),
            ("25006", StoreErrorKind::Unavailable),
            ("28P01", StoreErrorKind::Misconfigured),
            ("3D000", StoreErrorKind::Misconfigured),
            ("40001", StoreErrorKind::Unavailable),
            ("40P01", StoreErrorKind::Unavailable),
            ("42501", StoreErrorKind::Misconfigured),
            ("42703", StoreErrorKind::Misconfigured),
            ("42P01", StoreErrorKind::Misconfigured),
            ("53100", StoreErrorKind::Unavailable),
            ("53300", StoreErrorKind::Unavailable),
            ("54000", StoreErrorKind::Refused),
            ("55P03", StoreErrorKind::Unavailable),
            ("57014", StoreErrorKind::Unavailable),
            ("57P01", StoreErrorKind::Unavailable),
            ("57P04", StoreErrorKind::Misconfigured),
            ("58030", StoreErrorKind::Unavailable),
            ("XX001", StoreErrorKind::Misconfigured),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
