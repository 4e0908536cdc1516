use std::sync::Arc;

use steadfast_store::StoreError;

/// The present moment on SQLite's clock in microseconds since 1970; the same wherever it stands in one statement. SQLite counts
/// milliseconds.
const NOW: &str = "(CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000)";

/// The migrations in their order; the first is version 1.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_records.sql")];

/// A table name that may stand between double quotes.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    name: Arc<str>,
}

impl Table {
    const MAX_LEN: usize = 128;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// Misconfigured: SQLite cannot have a table of this name.
    pub(crate) fn named(name: &str) -> Result<Self, StoreError> {
        let reserved = name
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
        let complaint = if name.is_empty() {
            "the table name is empty"
        } else if name.len() > Self::MAX_LEN {
            "the table name is longer than 128 bytes"
        } else if name.contains('\0') {
            "the table name holds a NUL"
        } else if reserved {
            "SQLite keeps table names that start with sqlite_ to itself"
        } else {
            return Ok(Self { name: name.into() });
        };
        Err(StoreError::misconfigured(complaint))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fills a file's text in. Comment lines go, so that no statement carries them to SQLite.
    fn fill(&self, text: &str) -> Arc<str> {
        let quoted = self.name.replace('"', "\"\"");
        text.lines()
            .filter(|line| !line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n")
            .replace("{now}", NOW)
            .replace("{table}", &quoted)
            .into()
    }

    /// The text of every migration with its comments, for other migrators.
    pub(crate) fn schema_sql(&self) -> String {
        MIGRATIONS
            .join("\n")
            .replace("{table}", &self.name.replace('"', "\"\""))
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            name: "steadfast_idempotency".into(),
        }
    }
}

/// The statements for one table. Each file in `sql/` states its invariant.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) abandon: Arc<str>,
    pub(crate) begin: Arc<str>,
    pub(crate) book: Arc<str>,
    pub(crate) book_add: Arc<str>,
    pub(crate) book_version: Arc<str>,
    pub(crate) complete: Arc<str>,
    pub(crate) durability: Arc<str>,
    pub(crate) list_indeterminate: Arc<str>,
    pub(crate) look_up: Arc<str>,
    pub(crate) migrations: Vec<Arc<str>>,
    pub(crate) read: Arc<str>,
    pub(crate) reap_delete: Arc<str>,
    pub(crate) reap_lapse: Arc<str>,
    pub(crate) release: Arc<str>,
    pub(crate) renew: Arc<str>,
    pub(crate) resolve_complete: Arc<str>,
    pub(crate) resolve_release: Arc<str>,
    pub(crate) show: Arc<str>,
}

impl Statements {
    pub(crate) fn of(table: &Table) -> Self {
        Self {
            abandon: table.fill(include_str!("../sql/abandon.sql")),
            begin: table.fill(include_str!("../sql/begin.sql")),
            book: table.fill(include_str!("../sql/book.sql")),
            book_add: table.fill(include_str!("../sql/book_add.sql")),
            book_version: table.fill(include_str!("../sql/book_version.sql")),
            complete: table.fill(include_str!("../sql/complete.sql")),
            durability: table.fill(include_str!("../sql/durability.sql")),
            list_indeterminate: table.fill(include_str!("../sql/list_indeterminate.sql")),
            look_up: table.fill(include_str!("../sql/look_up.sql")),
            migrations: MIGRATIONS.iter().map(|text| table.fill(text)).collect(),
            read: table.fill(include_str!("../sql/read.sql")),
            reap_delete: table.fill(include_str!("../sql/reap_delete.sql")),
            reap_lapse: table.fill(include_str!("../sql/reap_lapse.sql")),
            release: table.fill(include_str!("../sql/release.sql")),
            renew: table.fill(include_str!("../sql/renew.sql")),
            resolve_complete: table.fill(include_str!("../sql/resolve_complete.sql")),
            resolve_release: table.fill(include_str!("../sql/resolve_release.sql")),
            show: table.fill(include_str!("../sql/show.sql")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_once_and_never_filled_in_again() {
        let table = Table::named("a\"b{now}{table}").unwrap();

        assert_eq!(
            &*table.fill("-- gone\nSELECT 1 FROM \"{table}\""),
            "SELECT 1 FROM \"a\"\"b{now}{table}\""
        );
    }

    #[test]
    fn names_that_sqlite_cannot_have_are_refused() {
        for name in ["", "a\0b", "sqlite_x", "SQLite_X", &"x".repeat(129)] {
            assert!(Table::named(name).is_err(), "{name:?}");
        }
        for name in ["sqlite", "é_________", "x; DROP TABLE x", &"x".repeat(128)] {
            assert!(Table::named(name).is_ok(), "{name:?}");
        }
    }
}
