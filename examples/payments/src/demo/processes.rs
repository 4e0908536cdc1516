//! This program as other processes.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// A start takes some hundredths of a second; a machine that also compiles is slower.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A process gives what it has in flight 25 s, and then closes its database.
const END_LIMIT: Duration = Duration::from_secs(40);

/// How often the announcement, or the end, is looked for.
const PACE: Duration = Duration::from_millis(5);

/// What a process is started with.
pub(super) struct Start<'a> {
    /// Names its logs, and the process in what the demo says.
    pub(super) name: &'a str,
    /// The word before its address in its announcement.
    pub(super) announces: &'static str,
    pub(super) arguments: &'a [&'a str],
    /// In the environment, since others can read the arguments of a process and the URL may hold a password.
    pub(super) store: Option<&'a str>,
}

/// A running process. Dropping it kills it with SIGKILL.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    address: String,
    log: PathBuf,
}

impl Process {
    /// Starts it and waits until it has said where it listens. Its logs go into `folder`.
    pub(super) async fn start(folder: &Path, start: Start<'_>) -> Result<Self, Failure> {
        let name = start.name;
        let stdout = folder.join(format!("{name}.out"));
        let stderr = folder.join(format!("{name}.log"));
        let child = spawn(&start, &stdout, &stderr)
            .map_err(|error| Failure::because(format!("failed to start {name}"), error))?;
        let mut process = Self {
            child,
            name: name.to_owned(),
            address: String::new(),
            log: stderr.clone(),
        };

        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(address) = announced(&stdout, start.announces) {
                process.address = address;
                return Ok(process);
            }
            let ended = process.child.try_wait().map_err(|error| {
                Failure::because(format!("failed to look whether {name} runs"), error)
            })?;
            let wrong = if let Some(status) = ended {
                format!("{name} did not start: {status}")
            } else if Instant::now() > deadline {
                format!("{name} did not say within {START_LIMIT:?} where it listens")
            } else {
                sleep(PACE).await;
                continue;
            };
            return Err(Failure::new(format!("{wrong}{}", last_line(&stderr))));
        }
    }

    /// What it was named at its start.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens, as a URL without a path.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Its number in the system.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged under this message, from the message on.
    pub(super) fn logged(&self, message: &str) -> Result<Vec<String>, Failure> {
        let name = &self.name;
        let log = fs::read_to_string(&self.log).map_err(|error| {
            Failure::because(format!("failed to read the log of {name}"), error)
        })?;
        let message = format!(": {message} ");
        let found = log
            .lines()
            .filter_map(|line| line.find(&message).map(|at| &line[at + 2..]));
        Ok(found.map(str::to_owned).collect())
    }

    /// Asks it with SIGTERM to finish what it has begun, and returns when it is gone.
    pub(super) async fn end(mut self) -> Result<ExitStatus, Failure> {
        let name = &self.name;
        terminate(&self.child)
            .map_err(|error| Failure::because(format!("failed to end {name}"), error))?;
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let ended = self.child.try_wait().map_err(|error| {
                Failure::because(format!("failed to look whether {name} has ended"), error)
            })?;
            if let Some(status) = ended {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "{name} did not end within {END_LIMIT:?} of SIGTERM"
                )));
            }
            sleep(PACE).await;
        }
    }

    /// Kills it with SIGKILL, and returns when it is gone.
    pub(super) fn kill(self) {}
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended, and was waited for, already. What was killed ends at once, so that waiting blocks for
        // less than starting does; not waiting would leave its files in use.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(start: &Start<'_>, stdout: &Path, stderr: &Path) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    // Scenes are judged by lines of the log, so the levels are the default ones.
    command.env_remove("RUST_LOG");
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PAYMENTS_") {
            command.env_remove(name);
        }
    }
    if let Some(store) = start.store {
        command.env("PAYMENTS_STORE", store);
    }
    command
        .args(start.arguments)
        .arg("--end-with-stdin")
        .stdin(Stdio::piped())
        .stdout(File::create(stdout)?)
        .stderr(File::create(stderr)?)
        // Ctrl-C in a terminal goes to a whole group: the demo decides when its processes end.
        .process_group(0)
        .spawn()
}

fn terminate(child: &Child) -> io::Result<()> {
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(kill(Pid::from_raw(id), Signal::SIGTERM)?)
}

/// The address in a first line that is complete.
fn announced(stdout: &Path, word: &str) -> Option<String> {
    let text = fs::read_to_string(stdout).ok()?;
    let (line, _) = text.split_once('\n')?;
    let mut words = line.strip_prefix("listening ")?.split(' ');
    let address = words.find_map(|found| found.strip_prefix(word)?.strip_prefix('='))?;
    Some(address.to_owned())
}

/// What it said last, as the end of a sentence.
fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {}", line.trim()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tempfile::tempdir;

    use super::*;

    #[tokio::test]
    async fn a_process_that_ends_at_its_start_is_named_with_what_it_said() {
        let folder = tempdir().unwrap();
        // This program is the test's own here, and does not know the flag.
        let start = Start {
            name: "api",
            announces: "api",
            arguments: &["--no-such-flag"],
            store: None,
        };

        let failure = Process::start(folder.path(), start).await.unwrap_err();

        let text = failure.to_string();
        assert!(
            text.starts_with("api did not start: exit status: "),
            "{text}"
        );
        assert!(text.contains("no-such-flag"), "{text}");
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_end_may_finish_first() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        let process = Process {
            child,
            name: "shell".to_owned(),
            address: String::new(),
            log: PathBuf::new(),
        };

        let status = process.end().await.unwrap();

        assert_eq!(status.code(), Some(7), "{status}");
    }

    #[test]
    fn an_announcement_counts_when_its_line_is_complete() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let line = "listening api=http://127.0.0.1:3000 provider=http://127.0.0.1:30";

        fs::write(path, line).unwrap();
        assert_eq!(announced(path, "provider"), None);
        fs::write(path, format!("{line}01\n")).unwrap();

        let provider = announced(path, "provider");
        assert_eq!(provider.as_deref(), Some("http://127.0.0.1:3001"));
        assert_eq!(
            announced(path, "api").as_deref(),
            Some("http://127.0.0.1:3000")
        );
        assert_eq!(announced(path, "database"), None);
    }
}
