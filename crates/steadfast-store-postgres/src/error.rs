//! What an error of the driver means for the caller of a transition.

use std::{error::Error, fmt, time::Duration};

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use steadfast_store::{StoreError, StoreErrorKind};

/// read_only_sql_transaction: a standby, or a primary that became one.
const READ_ONLY: &str = "25006";

/// lock_not_available: it waited for `lock_timeout`.
const LOCKED: &str = "55P03";

/// What may help at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The statement met another one: send it again.
    Again,
    /// The connection is lost or its prepared statements are: send it on a fresh one.
    FreshConnection,
    /// The connection's server is no primary any more: send it on one whose server takes writes.
    WritableConnection,
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
        Some(READ_ONLY) => Remedy::WritableConnection,
        Some(code) if code.starts_with("08") => Remedy::FreshConnection,
        Some(_) | None => Remedy::Leave,
    }
}

/// Whether the statement waited too long for a lock.
pub(crate) fn waited_for_lock(error: &sqlx::Error) -> bool {
    sqlstate(error) == Some(LOCKED)
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

/// As [`classify`], for the making of the first connection: there PgBouncer may refuse a start-up parameter, with the code of all its
/// errors.
pub(crate) fn classify_opening(error: sqlx::Error) -> StoreError {
    let unsupported = postgres(&error)
        .is_some_and(|error| error.code() == "08P01" && names_a_parameter(error.message()));
    if unsupported {
        StoreError::misconfigured(error)
    } else {
        classify(error)
    }
}

/// PgBouncer's words are "unsupported startup parameter: …", "unsupported startup parameter in options: …" and "unsupported options
/// startup parameter: …".
fn names_a_parameter(message: &str) -> bool {
    message.starts_with("unsupported") && message.contains("startup parameter")
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
        // database_dropped; corrupted data and indexes
        "57P04" | "XX001" | "XX002" => StoreErrorKind::Misconfigured,
        READ_ONLY | LOCKED => StoreErrorKind::Unavailable,
        _ => match sqlstate.get(..2) {
            // data exception, program limit exceeded
            Some("22" | "54") => StoreErrorKind::Refused,
            // feature not supported, constraint violation, invalid statement name, authorization, catalog, schema, syntax or access
            Some("0A" | "23" | "26" | "28" | "3D" | "3F" | "42") => StoreErrorKind::Misconfigured,
            // Connection (08P01 is also how PgBouncer reports its own troubles, nearly all of which pass), rollback, resources (disk
            // full, too many connections), operator, system, internal; and what is not known.
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
            ("08P01", StoreErrorKind::Unavailable),
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
    #[test]
    fn only_a_refused_parameter_is_told_from_poolers_other_errors() {
        for message in [
            "unsupported startup parameter: extra_float_digits",
            "unsupported startup parameter in options: jit",
            "unsupported options startup parameter: only '-c config=val' is allowed",
        ] {
            assert!(names_a_parameter(message), "{message}");
        }
        for message in [
            "query_wait_timeout",
            "no more connections allowed (max_client_conn)",
            "server login has been failing, cached error: unsupported startup parameter",
        ] {
            assert!(!names_a_parameter(message), "{message}");
        }
    }
}
