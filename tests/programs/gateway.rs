//! The gateway as a process, before upstreams that are told what to do.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::{TempDir, tempdir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    executable::built,
    program::{LIMIT, Program, eventually, paste},
};

const README: &str = include_str!("../../examples/gateway/README.md");

/// A gateway that runs. Dropping it kills it.
struct Gateway {
    child: Child,
    folder: TempDir,
    line: String,
}

impl Gateway {
    /// Starts one on free ports and waits until it has said where it listens.
    async fn run(arguments: &[&str]) -> Self {
        Self::run_by(Command::new(executable()), arguments).await
    }

    async fn run_by(mut command: Command, arguments: &[&str]) -> Self {
        let folder = tempdir().unwrap();
        let output = |name| File::create(folder.path().join(name)).unwrap();
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"GATEWAY_") {
                command.env_remove(name);
            }
        }
        let child = command
            .env("GATEWAY_LISTEN", "127.0.0.1:0")
            .args(["--admin-listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        let mut gateway = Self {
            child,
            folder,
            line: String::new(),
        };
        gateway.line = eventually("the announcement of the gateway", async || {
            if let Some(status) = gateway.child.try_wait().unwrap() {
                panic!(
                    "the gateway ended with {status}: {}",
                    gateway.read("stderr")
                );
            }
            let said = gateway.read("stdout");
            said.ends_with('\n').then_some(said)
        })
        .await;
        gateway
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Where it listens: for clients (`http`) or for operators (`admin`).
    fn url(&self, name: &str) -> &str {
        let mut words = self
            .line
            .strip_prefix("listening ")
            .unwrap()
            .split_whitespace();
        words
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .unwrap()
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.url("http").strip_prefix("http://").unwrap()).await
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if it has ended, and was waited for, already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_gateway_that_is_asked_to_end_finishes_what_is_in_flight() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("/=http://{}", upstream.local_addr().unwrap());
    let mut gateway = Gateway::run(&["--route", &route]).await;
    let mut idle = gateway.connect().await.unwrap();
    let mut client = gateway.connect().await.unwrap();
    let request = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut asked, _) = within(upstream.accept()).await.unwrap();
    let mut head = [0; 4096];
    let length = within(asked.read(&mut head)).await.unwrap();
    assert!(head[..length].starts_with(b"GET /slow HTTP/1.1\r\n"));

    gateway.signal(Signal::SIGTERM);
    eventually("the end of accepting", async || {
        gateway.connect().await.err()
    })
    .await;
    let read = within(idle.read(&mut head)).await.unwrap();
    assert_eq!(read, 0, "an idle connection is closed");
    assert_eq!(gateway.child.try_wait().unwrap(), None, "it does not wait");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer";
    asked.write_all(answer).await.unwrap();

    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nanswer"), "{answer}");
    let status = eventually("the end of the gateway", async || {
        gateway.child.try_wait().unwrap()
    })
    .await;
    assert_eq!(status.code(), Some(0), "{}", gateway.read("stderr"));
    assert_eq!(gateway.read("stdout").lines().count(), 1);
}

async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(LIMIT, event).await.expect("it never came")
}

#[tokio::test]
async fn a_gateway_without_file_descriptors_waits_for_some_and_serves_again() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 24; exec "$0" "$@""#]);
    command.arg(executable());
    let gateway = Gateway::run_by(command, &["--route", "/a=http://127.0.0.1:9"]).await;
    let complaints = || gateway.read("stderr").matches("failed to accept").count();

    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(gateway.connect().await.unwrap());
    }
    eventually("the end of the descriptors", async || {
        (complaints() > 0).then_some(())
    })
    .await;
    let begun = Instant::now();
    let before = complaints();
    eventually("some more failures", async || {
        (complaints() > before + 4).then_some(())
    })
    .await;
    let pauses = begun.elapsed();
    assert!(pauses >= Duration::from_millis(300), "it spins: {pauses:?}");

    drop(crowd);
    let mut client = gateway.connect().await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn the_transcript_of_the_gateway_happens_as_shown() {
    let folder = tempdir().unwrap();
    let provider = Program::provider(folder.path()).await;
    let route = format!("/={}", provider.provider_url());
    let gateway = Gateway::run(&["--route", &route, "--trust-idempotency-key", "/"]).await;
    let blocks: Vec<&str> = README.split("```console\n").skip(1).collect();
    assert!(blocks.len() > 5, "the transcript was not found");

    let real = |text: &str| {
        text.replace("http://127.0.0.1:8080", gateway.url("http"))
            .replace("http://127.0.0.1:8081", gateway.url("admin"))
            .replace("http://127.0.0.1:3001", provider.provider_url())
    };
    for block in blocks {
        let (command, shown) = block.split("```").next().unwrap().split_once('\n').unwrap();
        let line = real(command.strip_prefix("$ ").unwrap());
        let answer = String::from_utf8(paste(&line).stdout)
            .unwrap()
            .replace('\r', "");

        let mut rest = &*answer;
        for piece in real(shown).lines().flat_map(|line| line.split('…')) {
            let Some((_, after)) = rest.split_once(piece) else {
                panic!("{line}\nanswers\n{answer}\nwithout {piece:?}");
            };
            rest = after;
        }
    }
}

fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| built("gateway"))
}
