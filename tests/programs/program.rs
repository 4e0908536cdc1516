//! The payments executable as a process.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::executable::built;

/// Generous, because a machine that also compiles is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// Waits until the condition gives a value.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {LIMIT:?}"
        );
        sleep(PACE).await;
    }
}

/// A running program. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    lines: Vec<String>,
}

impl Program {
    /// `payments serve` on free ports, and what else the arguments say, in `folder`.
    pub(crate) async fn serve(folder: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        if !arguments.contains(&"--provider-url") {
            all.extend(["--provider-listen", "127.0.0.1:0"]);
        }
        all.extend(arguments);
        Self::run(folder, &all, &[]).await
    }

    /// `payments provider` on a free port.
    pub(crate) async fn provider(folder: &Path) -> Self {
        Self::run(folder, &["provider", "--listen", "127.0.0.1:0"], &[]).await
    }

    /// Starts the program and waits until it has said where it listens.
    pub(crate) async fn run(
        folder: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut program = Self::start(folder, arguments, environment);
        let lines = eventually("the announcement of the program", async || {
            if let Some(status) = program.child.try_wait().unwrap() {
                panic!("the program ended with {status}: {}", program.logs());
            }
            let text = fs::read_to_string(&program.stdout).unwrap();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= 4 && text.ends_with('\n')).then_some(lines)
        })
        .await;
        program.lines = lines;
        program
    }

    /// Starts the program and waits for nothing.
    pub(crate) fn start(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let output = tempfile::Builder::new()
            .prefix("payments-output-")
            .tempdir_in(folder)
            .unwrap()
            .keep();
        let (stdout, stderr) = (output.join("stdout"), output.join("stderr"));
        let child = command(folder)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            stdout,
            stderr,
            lines: Vec::new(),
        }
    }

    /// What it said on stdout at its start.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Where the API listens.
    pub(crate) fn api(&self) -> &str {
        self.address("api")
    }

    /// Where the provider listens.
    pub(crate) fn provider_url(&self) -> &str {
        self.address("provider")
    }

    fn address(&self, name: &str) -> &str {
        let mut words = self.lines[0].split(' ');
        words
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.lines[0]))
    }

    /// Its number in the system.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stdout until here.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
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
        eventually("the end of the program", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a test that fails shows what its programs said"
)]
impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has ended, and was waited for, already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- {:?} said:\n{}", self.lines.first(), self.logs());
        }
    }
}

/// A command that knows nothing of the environment of this test.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(executable());
    command.current_dir(folder).env_remove("RUST_LOG");
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PAYMENTS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a `curl` line as if it were pasted into a shell, with no proxy between it and the program.
pub(crate) fn paste(line: &str) -> Output {
    let found = Command::new("curl").arg("--version").output();
    assert!(
        found.is_ok(),
        "curl is missing: install it, for example `apt-get install curl`"
    );
    // Without what the developer's own `.curlrc` asks for.
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", line])
        .env("CURL_HOME", home.path())
        .env("NO_PROXY", "*")
        .env("no_proxy", "*")
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    output
}

fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| built("payments"))
}
