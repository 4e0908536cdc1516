//! A place of its own in somebody's Postgres.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::timeout;

use crate::{config::PostgresUrl, failure::Failure};

/// Two short statements; the drop may wait for the last statement of a process that was killed.
const LIMIT: Duration = Duration::from_secs(10);

/// A schema that nobody else uses.
#[derive(Debug)]
pub(super) struct Schema {
    database: PostgresUrl,
    name: String,
}

impl Schema {
    /// Makes it.
    pub(super) async fn create(database: PostgresUrl) -> Result<Self, Failure> {
        let number = getrandom::u64()
            .map_err(|error| Failure::because("failed to name a schema of Postgres", error))?;
        let name = format!("payments_demo_{number:016x}");
        execute(&database, format!("CREATE SCHEMA {name}"))
            .await
            .map_err(|error| {
                Failure::because("failed to make a schema in the Postgres database", error)
            })?;
        Ok(Self { database, name })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The URL by which every table is looked for, and made, in it alone.
    pub(super) fn url(&self) -> String {
        within(self.database.as_str(), &self.name)
    }

    /// Drops it with all that is in it.
    pub(super) async fn remove(self) {
        let statement = format!("DROP SCHEMA {} CASCADE", self.name);
        if let Err(error) = execute(&self.database, statement).await {
            let (error, schema) = (&*error as &dyn std::error::Error, &self.name);
            tracing::warn!(
                error,
                schema,
                "a schema was left behind in the Postgres database"
            );
        }
    }
}

async fn execute(
    database: &PostgresUrl,
    statement: String,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let executing = async {
        let mut connection = PgConnection::connect(database.as_str()).await?;
        connection.execute(AssertSqlSafe(statement)).await?;
        connection.close().await
    };
    Ok(timeout(LIMIT, executing).await??)
}

/// The last setting of a name counts, and the settings of a URL are read in their order.
fn within(url: &str, schema: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options[search_path]={schema}")
}

#[cfg(test)]
mod tests {
    use sqlx::{Row, postgres::PgConnectOptions};

    use super::*;

    #[test]
    fn the_schema_comes_after_what_the_url_says() {
        for (url, expected) in [
            ("postgres://h/d", "-c search_path=s"),
            ("postgres://h/d?sslmode=disable", "-c search_path=s"),
            (
                "postgres://h/d?options=-c%20search_path%3Dother",
                "-c search_path=other -c search_path=s",
            ),
        ] {
            let options: PgConnectOptions = within(url, "s").parse().unwrap();
            assert_eq!(options.get_options(), Some(expected), "{url}");
        }
    }

    #[tokio::test]
    async fn what_is_made_in_the_schema_goes_with_it_and_nothing_else() {
        let database = steadfast_testkit::postgres::database().await.unwrap();
        let url: PostgresUrl = database.url().parse().unwrap();
        let tables = async |url: &str| -> Vec<String> {
            let mut connection = PgConnection::connect(url).await.unwrap();
            sqlx::query(
                "SELECT schemaname || '.' || tablename FROM pg_tables WHERE tablename = 'made' ORDER BY 1",
            )
            .fetch_all(&mut connection)
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
        };
        let make = async |url: &str| {
            let mut connection = PgConnection::connect(url).await.unwrap();
            connection
                .execute("CREATE TABLE made (n INT)")
                .await
                .unwrap();
        };
        make(url.as_str()).await;

        let schema = Schema::create(url.clone()).await.unwrap();
        make(&schema.url()).await;
        let with_ours = tables(url.as_str()).await;
        let ours = format!("{}.made", schema.name());
        schema.remove().await;

        assert_eq!(with_ours, [ours, "public.made".to_owned()]);
        assert_eq!(tables(url.as_str()).await, ["public.made"]);
    }
}
