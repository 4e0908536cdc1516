//! nginx as a process of its own, with what it says that it saw.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, thread, time::Duration};

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{program::eventually, tools};

const CONFIG: &str = include_str!("nginx.conf");

/// A running nginx. Dropping it kills it.
pub(crate) struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

/// A request that it has answered, or given up.
#[derive(Debug)]
pub(crate) struct Seen(Value);

impl Nginx {
    /// Before the upstream, which need not be there.
    pub(crate) async fn before(upstream: SocketAddr) -> Self {
        Self::with_keepalive(upstream, "60s").await
    }

    /// One that closes a connection which is idle for so long.
    pub(crate) async fn with_keepalive(upstream: SocketAddr, keepalive: &str) -> Self {
        // It cannot take a free port by itself, and another process may be quicker to take the one that was free.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            if let Some(nginx) = Self::start(address, upstream, keepalive).await {
                return nginx;
            }
        }
        panic!("nginx found no free port");
    }

    /// `None` if the port is taken.
    async fn start(address: SocketAddr, upstream: SocketAddr, keepalive: &str) -> Option<Self> {
        let folder = tempdir().unwrap();
        let path = folder.path();
        let config = CONFIG
            .replace("{folder}", path.to_str().unwrap())
            .replace("{port}", &address.port().to_string())
            .replace("{upstream}", &upstream.to_string())
            .replace("{keepalive}", keepalive);
        fs::write(path.join("nginx.conf"), config).unwrap();
        let mut child = Command::from(tools::nginx())
            .arg("-p")
            .arg(path)
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let is_up = eventually("the start of nginx", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let said = errors(path);
                assert!(said.contains("Address already in use"), "{status}: {said}");
                return Some(false);
            }
            // It is written once it listens.
            let has_begun = path.join("pid").exists();
            (has_begun && TcpStream::connect(address).await.is_ok()).then_some(true)
        })
        .await;
        is_up.then_some(Self {
            child,
            address,
            folder,
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// So many requests and no more, in the order of their ends.
    pub(crate) async fn seen(&self, count: usize) -> Vec<Seen> {
        let log = self.folder.path().join("access.log");
        // A line is written after the answer was.
        let seen: Vec<_> = eventually("the requests in the log of nginx", async || {
            let text = fs::read_to_string(&log).unwrap();
            let lines = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let seen: Vec<_> = lines.map(Seen::of).collect();
            (seen.len() >= count).then_some(seen)
        })
        .await;
        assert_eq!(seen.len(), count, "{seen:?}");
        seen
    }

    /// Ends it, as a machine that is switched off does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a test that fails shows what its programs said"
)]
impl Drop for Nginx {
    fn drop(&mut self) {
        if thread::panicking() {
            let (path, url) = (self.folder.path(), self.url("/"));
            let seen = fs::read_to_string(path.join("access.log")).unwrap_or_default();
            println!("--- {url} saw:\n{seen}and said:\n{}", errors(path));
        }
    }
}

fn errors(folder: &Path) -> String {
    fs::read_to_string(folder.join("error.log")).unwrap_or_default()
}

impl Seen {
    fn of(line: &str) -> Self {
        Self(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    pub(crate) fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap()
    }

    pub(crate) fn key(&self) -> &str {
        self.0["key"].as_str().unwrap()
    }

    pub(crate) fn connection(&self) -> u64 {
        self.0["connection"].as_u64().unwrap()
    }

    /// How long after the other one.
    pub(crate) fn after(&self, other: &Self) -> Duration {
        let at = |seen: &Self| seen.0["at"].as_f64().unwrap();
        Duration::from_secs_f64(at(self) - at(other))
    }
}

pub(crate) fn statuses(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(Seen::status).collect()
}
