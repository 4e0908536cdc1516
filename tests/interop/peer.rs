//! A foreign process that is told and tells in lines of JSON.

use std::{
    process::{self, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::program::LIMIT;

/// A process that runs. Dropping it kills it.
pub(crate) struct Peer {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Peer {
    pub(crate) fn start(command: process::Command) -> Self {
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    pub(crate) async fn tell(&mut self, what: &Value) {
        let line = format!("{what}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    /// The next line, which must come.
    pub(crate) async fn hear(&mut self) -> Value {
        let line = within(self.output.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("the process has ended")).unwrap()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        within(self.child.wait()).await.unwrap();
    }

    /// Tells it that nothing more will be said, and returns all that it still has to say.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        drop(self.input);
        let mut lines = Vec::new();
        while let Some(line) = within(self.output.next_line()).await.unwrap() {
            lines.push(serde_json::from_str(&line).unwrap());
        }
        lines
    }
}

/// What must happen, or the test fails.
pub(crate) async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(LIMIT, event).await.expect("it never came")
}

/// A time that the other side told, in milliseconds.
pub(crate) fn millis(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap() / 1000.0)
}
