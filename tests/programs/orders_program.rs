//! The orders executable as a process.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{executable::built, program::eventually};

/// A server that runs. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    stderr: PathBuf,
    url: String,
}

impl Server {
    /// `orders serve` on a free port, and what else the arguments say, in `folder`.
    pub(crate) async fn start(folder: &Path, arguments: &[&str]) -> Self {
        let output = tempfile::tempdir_in(folder).unwrap().keep();
        let (stdout, stderr) = (output.join("stdout"), output.join("stderr"));
        let mut child = command(folder)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let url = eventually("the announcement of the server", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let logs = fs::read_to_string(&stderr).unwrap();
                panic!("the server ended with {status}: {logs}");
            }
            let said = fs::read_to_string(&stdout).unwrap();
            let url = said.strip_prefix("listening grpc=")?.strip_suffix('\n')?;
            Some(url.to_owned())
        })
        .await;
        Self { child, stderr, url }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it has said on stderr.
    pub(crate) fn logs(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the end of the server", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    /// Calls it with the program's own client: what stands after `orders`.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        self.spawn(arguments).wait_with_output().unwrap()
    }

    /// Begins to call it.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        command(Path::new("."))
            .args(arguments)
            .env("ORDERS_SERVER", &self.url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a test that fails shows what its programs said"
)]
impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended, and was waited for, already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- {} said:\n{}", self.url, self.logs());
        }
    }
}

/// A command that knows nothing of the environment of this test.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(executable());
    command.current_dir(folder);
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ORDERS_") {
            command.env_remove(name);
        }
    }
    command
}

fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| built("orders"))
}
