//! Real Postgres for tests: a fresh database per call, and servers that a test may stop, kill and start again.
//!
//! [`database`] takes the server that the environment variable `STEADFAST_TEST_POSTGRES_URL` names, whose role must be allowed to
//! create databases. Without it, one server for the whole test process is started from the binaries in `PATH` or in
//! `/usr/lib/postgresql`. Without those it fails and says what to do.
//!
//! A server started here listens on 127.0.0.1 alone, asks for a random password, and keeps `fsync` on: durability is what the tests
//! are about. It dies with the test process, however that ends.

mod binaries;
mod cluster;

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::cluster::Cluster;

const SERVER_VARIABLE: &str = "STEADFAST_TEST_POSTGRES_URL";

/// Makes an empty database on the server that this process shares, starting the server if it does not run yet.
///
/// # Errors
///
/// No server is named, none can be started, or it does not let the database be made.
///
/// # Cancel safety
///
/// Dropping the future may leave an unused database behind.
pub async fn database() -> Result<Database, LaunchError> {
    let (server, outlives_us) = match std::env::var(SERVER_VARIABLE) {
        Ok(url) => (url, true),
        Err(_) => (blocking(shared_url).await?, false),
    };
    let name = unique_name();
    execute(&server, format!("CREATE DATABASE {name}")).await?;
    Ok(Database {
        url: with_database(&server, &name),
        server,
        name,
        outlives_us,
    })
}

/// A database of one test. Dropping it drops the database, with force.
pub struct Database {
    url: String,
    server: String,
    name: String,
    /// Whether the server lives on after this process.
    outlives_us: bool,
}

impl Database {
    /// Where to connect, as `postgres://…`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // Its own thread: this may run on a runtime's only worker, and no runtime can be entered from within another.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                // What is left behind on a shared server is an empty name; there is nobody to tell.
                let _ = runtime.block_on(execute(&server, statement));
            }
        });
        if self.outlives_us {
            let _ = dropping.join();
        }
    }
}

/// A server of one test, which the test may stop, kill and start again. Always started from local binaries.
///
/// Dropping it kills the server and removes its data, and blocks for as long as that takes, about a tenth of a second.
pub struct Server {
    cluster: Arc<Cluster>,
    url: String,
}

impl Server {
    /// Starts a server with an empty data directory and a port of its own.
    ///
    /// # Errors
    ///
    /// There are no binaries, or they fail.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes the server once it has started.
    pub async fn start() -> Result<Self, LaunchError> {
        blocking(Self::launch).await
    }

    /// Where to connect, as `postgres://…`; it stays the same after [`restart`](Self::restart).
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server as an operator does: connections are closed, everything is written.
    ///
    /// # Errors
    ///
    /// The server does not run, or did not stop within 30 seconds.
    ///
    /// # Cancel safety
    ///
    /// The server stops although the future is dropped.
    pub async fn stop(&self) -> Result<(), LaunchError> {
        let cluster = Arc::clone(&self.cluster);
        blocking(move || cluster.stop("fast")).await
    }

    /// Ends the server as a crash does: every process of it at once, nothing is written, and the next start recovers from the
    /// write-ahead log.
    ///
    /// # Errors
    ///
    /// The server does not run, or did not end within 30 seconds.
    ///
    /// # Cancel safety
    ///
    /// The server ends although the future is dropped.
    pub async fn kill(&self) -> Result<(), LaunchError> {
        let cluster = Arc::clone(&self.cluster);
        blocking(move || cluster.stop("immediate")).await
    }

    /// Starts the server again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port and data.
    ///
    /// # Errors
    ///
    /// The server runs already, or did not start.
    ///
    /// # Cancel safety
    ///
    /// The server starts although the future is dropped.
    pub async fn restart(&self) -> Result<(), LaunchError> {
        let cluster = Arc::clone(&self.cluster);
        blocking(move || cluster.start()).await
    }

    fn launch() -> Result<Self, LaunchError> {
        let cluster = Cluster::launch()?;
        let url = cluster.url();
        Ok(Self {
            cluster: Arc::new(cluster),
            url,
        })
    }
}

/// Without the URL, which has a password in it.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// A Postgres for tests could not be had.
#[derive(Debug)]
pub struct LaunchError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl LaunchError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    fn because(what: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            what: what.into(),
            source: Some(Box::new(source)),
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for LaunchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

/// The server of this process. A static is never dropped: the server's watchdog ends it.
fn shared_url() -> Result<String, LaunchError> {
    static SHARED: Mutex<Option<Server>> = Mutex::new(None);

    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match shared.take() {
        Some(server) => server,
        None => Server::launch()?,
    };
    Ok(shared.insert(server).url.clone())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|lost| LaunchError::because("lost the thread that runs Postgres' tools", lost))?
}

async fn execute(url: &str, statement: String) -> Result<(), LaunchError> {
    let failed = |error| LaunchError::because(format!("failed to run `{statement}`"), error);
    let mut connection = PgConnection::connect(url).await.map_err(failed)?;
    connection
        .execute(AssertSqlSafe(statement.as_str()))
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)
}

/// `url` with another database; user, host and parameters stay.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let authority = address.find("://").map_or(0, |scheme| scheme + 3);
    let end = address[authority..]
        .find('/')
        .map_or(address.len(), |slash| authority + slash);
    format!("{}/{name}{parameters}", &address[..end])
}

fn unique_name() -> String {
    format!("steadfast_{}_{:016x}", std::process::id(), random())
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}

impl From<io::Error> for LaunchError {
    fn from(error: io::Error) -> Self {
        Self::because("failed to prepare a data directory for Postgres", error)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use sqlx::Row;

    use super::*;

    async fn eventually(failure: &str, condition: impl AsyncFn() -> bool) {
        for _ in 0..600 {
            if condition().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{failure}");
    }

    async fn databases(url: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query("SELECT datname FROM pg_database")
            .fetch_all(&mut connection)
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    #[tokio::test]
    async fn each_database_is_its_own_and_goes_when_it_is_dropped() {
        let kept = database().await.unwrap();
        let dropped = database().await.unwrap();
        let name = dropped.name.clone();
        assert!(databases(kept.url()).await.contains(&name));

        drop(dropped);

        eventually("the database is still there", async || {
            !databases(kept.url()).await.contains(&name)
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_keeps_what_was_committed_when_it_is_killed() {
        let server = Server::start().await.unwrap();
        execute(server.url(), "CREATE TABLE kept AS SELECT 7 AS n".into())
            .await
            .unwrap();

        server.kill().await.unwrap();
        assert!(PgConnection::connect(server.url()).await.is_err());
        server.restart().await.unwrap();

        let mut connection = PgConnection::connect(server.url()).await.unwrap();
        let row = sqlx::query("SELECT n FROM kept").fetch_one(&mut connection);
        assert_eq!(row.await.unwrap().get::<i32, _>(0), 7);
        drop(connection);
        server.stop().await.unwrap();
        assert!(server.stop().await.is_err());
    }

    #[tokio::test]
    async fn dropping_a_server_removes_its_data() {
        let server = Server::start().await.unwrap();
        let folder = server.cluster.folder().to_owned();
        assert!(folder.exists());

        drop(server);

        assert!(!folder.exists());
    }

    const DOOMED: &str = "STEADFAST_TESTKIT_DOOMED";

    #[tokio::test]
    async fn a_server_dies_with_a_process_that_is_killed() {
        if std::env::var_os(DOOMED).is_some() {
            let server = Server::start().await.unwrap();
            std::fs::write(
                std::env::var_os(DOOMED).unwrap(),
                format!("{}\n{}", server.url(), server.cluster.folder().display()),
            )
            .unwrap();
            std::future::pending::<()>().await;
        }
        let note = tempfile::NamedTempFile::new().unwrap();
        let mut doomed = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "postgres::tests::a_server_dies_with_a_process_that_is_killed",
            ])
            .env(DOOMED, note.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let read = || std::fs::read_to_string(note.path()).unwrap();
        eventually("no server was started", async || read().contains('\n')).await;
        let text = read();
        let (url, folder) = text.split_once('\n').unwrap();
        let alive = PgConnection::connect(url).await;

        doomed.kill().unwrap();
        doomed.wait().unwrap();

        alive.unwrap();
        eventually("the server outlived its process", async || {
            !std::path::Path::new(folder).exists()
        })
        .await;
        assert!(PgConnection::connect(url).await.is_err());
    }

    #[test]
    fn the_database_of_a_url_is_replaced_and_the_rest_kept() {
        for (url, expected) in [
            ("postgres://h", "postgres://h/x"),
            ("postgres://u:p%2F@h:5/old", "postgres://u:p%2F@h:5/x"),
            (
                "postgresql://h/old?sslmode=disable",
                "postgresql://h/x?sslmode=disable",
            ),
            ("postgres:///old?host=/run/pg", "postgres:///x?host=/run/pg"),
        ] {
            assert_eq!(with_database(url, "x"), expected);
        }
    }
}
