use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::LONG;

/// A connection over which anything can be sent.
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Answered {
        status: u16,
        body: String,
    },
    /// The connection ended without an answer of HTTP/1.
    Closed,
}

impl Reply {
    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            Self::Closed => None,
        }
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// Sends what the other side takes: it may have closed already.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Ends the sending direction alone.
    pub(crate) async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Reads one answer. Interim answers are read over.
    pub(crate) async fn reply(&mut self) -> Reply {
        timeout(LONG, self.read_reply())
            .await
            .expect("the server neither answers nor closes")
    }

    /// Reads until the other side closes; an answer before that counts.
    pub(crate) async fn until_closed(&mut self) {
        timeout(LONG, async { while self.read_more().await {} })
            .await
            .expect("the server does not close");
    }

    /// Splits the connection, so that sending and reading go on at once.
    pub(crate) const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    async fn read_reply(&mut self) -> Reply {
        loop {
            let Some(end) = find(&self.read, b"\r\n\r\n") else {
                if !self.read_more().await {
                    return Reply::Closed;
                }
                continue;
            };
            let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
            let Some(status) = head.strip_prefix("HTTP/1.1 ") else {
                self.until_closed().await;
                return Reply::Closed;
            };
            let status: u16 = status[..3].parse().unwrap();
            self.read.drain(..end + 4);
            if status < 200 {
                continue;
            }
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            while self.read.len() < length && self.read_more().await {}
            let length = length.min(self.read.len());
            let body = self.read.drain(..length).collect();
            return Reply::Answered {
                status,
                body: String::from_utf8(body).unwrap(),
            };
        }
    }

    /// `false` at the end; a reset is an end too.
    async fn read_more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.read.extend_from_slice(&bytes[..read]);
                true
            }
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
