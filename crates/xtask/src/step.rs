//! One named command of a gate.

use std::{
    env,
    ffi::OsStr,
    io,
    process::{Command, ExitStatus, Stdio},
};

/// A command, and the name under which it is reported.
pub(crate) struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// A step that runs this cargo with the arguments. Its standard input is empty: no gate ever asks.
    pub(crate) fn cargo<A: AsRef<OsStr>>(
        name: impl Into<String>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        // Set by cargo for what it runs: the same toolchain as the caller's.
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).stdin(Stdio::null());
        Self {
            name: name.into(),
            command,
        }
    }

    pub(crate) fn with_env(mut self, variable: &str, value: &str) -> Self {
        self.command.env(variable, value);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Says which step runs, then runs it to its end; true if it succeeded.
    pub(crate) fn run(mut self) -> bool {
        self.announce();
        let status = self.command.status();
        self.passed(status)
    }

    /// As [`run`](Self::run), and hands over what the command writes to standard output while it runs.
    pub(crate) fn run_reading(
        mut self,
        read: impl FnOnce(std::process::ChildStdout) -> io::Result<()>,
    ) -> bool {
        self.announce();
        let status = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                let output = child.stdout.take().expect("standard output is piped");
                let reading = read(output);
                let status = child.wait()?;
                reading.map(|()| status)
            });
        self.passed(status)
    }

    fn announce(&self) {
        let arguments: Vec<_> = self
            .command
            .get_args()
            .map(OsStr::to_string_lossy)
            .collect();
        eprintln!("==> {}: cargo {}", self.name, arguments.join(" "));
    }

    fn passed(&self, status: io::Result<ExitStatus>) -> bool {
        match status {
            Ok(status) if status.success() => true,
            Ok(status) => {
                eprintln!("==> {}: failed, {status}", self.name);
                false
            }
            Err(error) => {
                eprintln!("==> {}: failed, cargo could not be run: {error}", self.name);
                false
            }
        }
    }
}
