use std::{error::Error, fmt};

/// The name of the table that holds the records, with its schema if it is given one.
///
/// Any name Postgres can hold is taken as it stands, in its own case, and quoted wherever it is used.
///
/// ```
/// use steadfast_store_postgres::TableName;
///
/// let table = TableName::new("operations")?.with_schema("payments")?;
/// assert_eq!(table.to_string(), r#""payments"."operations""#);
/// # Ok::<(), steadfast_store_postgres::InvalidTableName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// The table's name unless another is chosen.
    pub const DEFAULT: &str = "steadfast_idempotency";

    /// The longest name of a table, in bytes: Postgres keeps 63, and the names of the index and of the book of migrations are made
    /// of the table's name and at most eleven bytes more.
    pub const MAX_BYTES: usize = MAX_IDENTIFIER_BYTES - LONGEST_SUFFIX.len();

    /// A table that the connection's `search_path` finds.
    ///
    /// # Errors
    ///
    /// Postgres cannot hold the name, or it leaves no room for the names made of it.
    pub fn new(table: impl Into<String>) -> Result<Self, InvalidTableName> {
        Ok(Self {
            schema: None,
            table: checked(table.into(), Self::MAX_BYTES)?,
        })
    }

    /// Names the schema, so that `search_path` does not matter. Without it a change of `search_path` is a change of table.
    ///
    /// # Errors
    ///
    /// Postgres cannot hold the name.
    pub fn with_schema(self, schema: impl Into<String>) -> Result<Self, InvalidTableName> {
        Ok(Self {
            schema: Some(checked(schema.into(), MAX_IDENTIFIER_BYTES)?),
            ..self
        })
    }

    /// The statements that make the table and its index, for people with a migrator of their own.
    ///
    /// [`PostgresStore::migrate`](crate::PostgresStore::migrate) is not to be called then. The schema itself is not made.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        crate::migrate::MIGRATIONS
            .iter()
            .map(|migration| self.render(migration.sql))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The schema, quoted.
    pub(crate) fn quoted_schema(&self) -> Option<String> {
        self.schema.as_deref().map(quoted)
    }

    /// The book of migrations, quoted, with its schema.
    pub(crate) fn book(&self) -> String {
        self.beside(BOOK_SUFFIX)
    }

    /// The template with this table's names. One pass: a name that looks like a place to fill is left alone.
    pub(crate) fn render(&self, template: &str) -> String {
        let mut rendered = String::with_capacity(template.len() + 256);
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            let (before, place) = rest.split_at(open);
            rendered.push_str(before);
            let close = place.find('}').expect("a template closes what it opens");
            rendered.push_str(&match &place[..=close] {
                "{table}" => self.to_string(),
                "{book}" => self.book(),
                "{expiry_index}" => quoted(&format!("{}{EXPIRY_SUFFIX}", self.table)),
                unknown => unreachable!("no template has the place {unknown}"),
            });
            rest = &place[close + 1..];
        }
        rendered.push_str(rest);
        rendered
    }

    fn beside(&self, suffix: &str) -> String {
        let table = quoted(&format!("{}{suffix}", self.table));
        match self.quoted_schema() {
            Some(schema) => format!("{schema}.{table}"),
            None => table,
        }
    }
}

impl Default for TableName {
    fn default() -> Self {
        Self {
            schema: None,
            table: Self::DEFAULT.into(),
        }
    }
}

/// As it stands in a statement.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.beside(""))
    }
}

/// Postgres cuts a longer name off in silence.
const MAX_IDENTIFIER_BYTES: usize = 63;

const BOOK_SUFFIX: &str = "_migrations";
const EXPIRY_SUFFIX: &str = "_expires_at";
const LONGEST_SUFFIX: &str = BOOK_SUFFIX;

fn checked(name: String, max_bytes: usize) -> Result<String, InvalidTableName> {
    if name.is_empty() {
        Err(InvalidTableName::Empty)
    } else if name.contains('\0') {
        Err(InvalidTableName::ContainsNul)
    } else if name.len() > max_bytes {
        Err(InvalidTableName::TooLong {
            bytes: name.len(),
            max_bytes,
        })
    } else {
        Ok(name)
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A name that Postgres cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidTableName {
    /// It contains the byte zero.
    ContainsNul,
    /// It is empty.
    Empty,
    /// It would be cut off.
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest name in bytes.
        max_bytes: usize,
    },
}

impl fmt::Display for InvalidTableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContainsNul => f.write_str("the name contains a zero byte"),
            Self::Empty => f.write_str("the name is empty"),
            Self::TooLong { bytes, max_bytes } => {
                write!(f, "the name has {bytes} bytes, {max_bytes} at most")
            }
        }
    }
}

impl Error for InvalidTableName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_a_name_are_doubled() {
        let table = TableName::new(r#"a"; DROP TABLE b; --"#).unwrap();

        assert_eq!(table.to_string(), r#""a""; DROP TABLE b; --""#);
    }

    #[test]
    fn a_name_that_looks_like_a_place_is_not_filled() {
        let table = TableName::new("{book}{").unwrap();

        assert_eq!(table.render("FROM {table};"), r#"FROM "{book}{";"#);
    }

    #[test]
    fn what_postgres_would_cut_off_is_refused() {
        assert_eq!(TableName::new(""), Err(InvalidTableName::Empty));
        assert_eq!(TableName::new("a\0b"), Err(InvalidTableName::ContainsNul));
        assert!(TableName::new("t".repeat(TableName::MAX_BYTES)).is_ok());
        assert_eq!(
            TableName::new("t".repeat(53)),
            Err(InvalidTableName::TooLong {
                bytes: 53,
                max_bytes: 52
            })
        );
        assert!(TableName::default().with_schema("s".repeat(64)).is_err());
    }

    #[test]
    fn the_schema_is_the_one_in_the_documentation() {
        let schema = TableName::default().schema_sql().replace('"', "");

        let statements = schema
            .lines()
            .filter(|line| !line.starts_with("--") && !line.is_empty());
        for line in statements {
            assert!(include_str!("../README.md").contains(line), "{line}");
        }
    }
}
