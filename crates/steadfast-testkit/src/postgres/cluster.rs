use std::{
    env, fmt, fs,
    io::{self, Write},
    net::TcpListener,
    os::unix::{
        fs::{OpenOptionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::unistd::{User, geteuid};

use super::{LaunchError, binaries, random};

/// The superuser of every server started here.
const ROLE: &str = "steadfast";

/// Quick to start and small, since each test process may have one; what makes it durable stays on.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 16MB
min_wal_size = 32MB
max_wal_size = 256MB
fsync = on
full_page_writes = on
synchronous_commit = on
log_timezone = UTC
timezone = UTC
";

/// Ends the server and removes its folder when the pipe from the test process closes: by its `Drop`, by its exit, or by its
/// death. Its process group is its own and it ignores the signals of a terminal, so that it outlives the process it watches.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
"$1/pg_ctl" stop -D "$2/data" -m immediate -t 30
rm -rf "$2"
"#;

/// The port lies below the range that the kernel takes for outgoing connections: a client that calls a stopped server on a port
/// within the range can reach itself.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// A data directory, and the server on it while it runs.
pub(super) struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
    user: Option<User>,
    /// Random, for any user of the host can reach the port.
    password: String,
    port: u16,
    watchdog: Child,
}

impl Cluster {
    /// Makes a data directory and starts a server on it.
    pub(super) fn launch() -> Result<Self, LaunchError> {
        let mut cluster = Self::prepare(&env::temp_dir())?;
        cluster.initialise()?;
        // Another process may take the port between the look and the start.
        let mut outcome = Ok(());
        for _ in 0..5 {
            cluster.port = free_port()?;
            outcome = cluster.start();
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map(|()| cluster)
    }

    fn prepare(parent: &Path) -> Result<Self, LaunchError> {
        let binaries = binaries::find()?;
        let user = unprivileged_user()?;
        let folder = tempfile::Builder::new()
            .prefix("steadfast-postgres-")
            .tempdir_in(parent)?;
        if let Some(user) = &user {
            chown(
                folder.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )?;
        }
        let watchdog = as_user(Command::new("sh"), user.as_ref(), folder.path())
            .args(["-c", WATCHDOG, "sh"])
            .args([&*binaries, folder.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| match &user {
                Some(user) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let (name, parent) = (&user.name, parent.display());
                    LaunchError::because(
                        format!(
                            "the user {name}, who runs Postgres, cannot enter {parent}: set TMPDIR to another folder"
                        ),
                        error,
                    )
                }
                _ => error.into(),
            })?;
        Ok(Self {
            binaries,
            folder: folder.keep(),
            user,
            password: format!("{:016x}{:016x}", random(), random()),
            port: 0,
            watchdog,
        })
    }

    fn initialise(&self) -> Result<(), LaunchError> {
        let password_file = self.folder.join("password");
        self.write_secret(&password_file)?;
        self.run(
            "initdb",
            &[
                "--no-sync",
                // Proving a password without sending it takes a client that is not optimised longer than a connection does.
                "--auth=password",
                "--pwfile",
                &password_file.to_string_lossy(),
                "--encoding=UTF8",
                "--locale=C",
                "--wal-segsize=1",
                "--username",
                ROLE,
            ],
        )?;
        fs::remove_file(password_file)?;
        let configuration = self.data().join("postgresql.auto.conf");
        fs::write(configuration, SETTINGS)?;
        Ok(())
    }

    /// Writes the password where only the server's user reads it.
    fn write_secret(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(self.password.as_bytes())?;
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(())
    }

    /// Starts the server and waits until it takes connections.
    pub(super) fn start(&self) -> Result<(), LaunchError> {
        let log = self.folder.join("log");
        let options = format!("-p {}", self.port);
        let log = log.to_string_lossy();
        self.run(
            "pg_ctl",
            &["start", "-w", "-t", "60", "-l", &log, "-o", &options],
        )
    }

    /// Stops the server in one of `pg_ctl`'s modes and waits until it is gone.
    pub(super) fn stop(&self, mode: &str) -> Result<(), LaunchError> {
        self.run("pg_ctl", &["stop", "-w", "-t", "30", "-m", mode])
    }

    /// Where a client connects.
    pub(super) fn url(&self) -> String {
        format!(
            "postgres://{ROLE}:{}@127.0.0.1:{}/postgres",
            self.password, self.port
        )
    }

    #[cfg(test)]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), LaunchError> {
        let command = Command::new(self.binaries.join(program));
        let output = as_user(command, self.user.as_ref(), &self.folder)
            .args(arguments)
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| LaunchError::because(format!("failed to run {program}"), error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        Err(LaunchError::new(format!(
            "{program} failed: {} {last}",
            said.trim()
        )))
    }
}

/// Without the password.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("folder", &self.folder)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // It ends by itself, and there is nobody to tell if it did not.
        let _ = self.watchdog.wait();
    }
}

/// Postgres refuses to run as root: then the user `postgres`, else `nobody`, runs it.
fn unprivileged_user() -> Result<Option<User>, LaunchError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(user));
        }
    }
    Err(LaunchError::new(
        "Postgres refuses to run as root: run the tests as another user, or add a user named postgres",
    ))
}

fn as_user(mut command: Command, user: Option<&User>, folder: &Path) -> Command {
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env("LC_ALL", "C");
    for variable in ["PGDATA", "PGHOST", "PGOPTIONS", "PGPORT", "PGUSER"] {
        command.env_remove(variable);
    }
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn free_port() -> Result<u16, LaunchError> {
    let first = random();
    for step in 0..u64::from(PORTS.end - PORTS.start) {
        let offset = (first.wrapping_add(step)) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("the offset is within the ports");
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(LaunchError::new("no port is free for Postgres"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_the_servers_user_cannot_enter_is_named() {
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();

        let outcome = Cluster::prepare(closed.path());

        // Whoever is not root runs the server as themselves, and may enter.
        assert_eq!(outcome.is_err(), geteuid().is_root());
        if let Err(error) = outcome {
            assert!(error.to_string().contains("set TMPDIR"), "{error}");
        }
    }
}
