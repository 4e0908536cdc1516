//! HTTP clients that nobody here wrote, each with its own way to try again.

use std::{fs, process::Stdio, time::Duration};

use serde_json::Value;
use tempfile::tempdir;
use tokio::{process::Command, time::Instant};

use crate::{
    peer::within,
    tools::{curl, node, python, script},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Curl,
    Requests,
    Fetch,
}

/// What a client ended with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Idempotent-Replayed`.
    pub(crate) replayed: Option<bool>,
    pub(crate) body: String,
    /// From the start of the process to its end.
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Make {
    pub(crate) const ALL: [Self; 3] = [Self::Curl, Self::Requests, Self::Fetch];

    /// Posts the body under the key, and tries again as often as it is let.
    pub(crate) async fn charge(self, api: &str, key: &str, body: &str, retries: u32) -> Answer {
        let url = format!("{api}/v1/charges");
        let retries = retries.to_string();
        let begun = Instant::now();
        let (status, replayed, body) = match self {
            Self::Curl => with_curl(&url, key, body, &retries).await,
            Self::Requests => {
                with_script(
                    python(),
                    "interop/http_client.py",
                    [&url, key, body, &retries],
                )
                .await
            }
            Self::Fetch => {
                with_script(
                    node(),
                    "interop/http_client.mjs",
                    [&url, key, body, &retries],
                )
                .await
            }
        };
        Answer {
            status,
            replayed: replayed.map(|text| text.parse().unwrap()),
            body,
            took: begun.elapsed(),
        }
    }
}

async fn with_script(
    mut interpreter: std::process::Command,
    name: &str,
    arguments: [&str; 4],
) -> (u16, Option<String>, String) {
    interpreter.arg(script(name)).args(arguments);
    let said = output(interpreter).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    let status = answer["status"].as_u64().unwrap();
    let replayed = answer["replayed"].as_str().map(str::to_owned);
    let body = answer["body"].as_str().unwrap().to_owned();
    (u16::try_from(status).unwrap(), replayed, body)
}

async fn with_curl(
    url: &str,
    key: &str,
    body: &str,
    retries: &str,
) -> (u16, Option<String>, String) {
    let folder = tempdir().unwrap();
    let (heads, answer) = (folder.path().join("heads"), folder.path().join("answer"));
    let mut command = curl();
    command
        .args(["--silent", "--show-error", "--fail-with-body"])
        .args(["--retry", retries, "--retry-all-errors", "--max-time", "60"])
        .args(["--header", "Authorization: Bearer sk_test"])
        .args(["--header", "Content-Type: application/json"])
        .args(["--header", &format!("Idempotency-Key: {key}")])
        .args(["--data-binary", body, "--write-out", "%{http_code}"])
        .arg("--dump-header")
        .arg(&heads)
        .arg("--output")
        .arg(&answer)
        .arg(url);
    let status = output(command).await.parse().unwrap();
    let heads = fs::read_to_string(&heads).unwrap().to_lowercase();
    // The heads of all attempts, one after the other.
    let last = heads.rsplit("http/1.1 ").next().unwrap();
    let replayed = last
        .lines()
        .find_map(|line| line.strip_prefix("idempotent-replayed: "))
        .map(str::to_owned);
    (status, replayed, fs::read_to_string(&answer).unwrap())
}

/// What it says on stdout; what went wrong, it says on that of errors, which is the test's own.
async fn output(command: std::process::Command) -> String {
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = within(command.kill_on_drop(true).output()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}
