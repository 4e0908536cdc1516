//! A server of HTTP/1 that does what it was told, byte for byte, and a port where nobody listens yet.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::support::eventually;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request, and answers with these bytes.
    Answer(String),
    /// Answers as soon as the head is there, reads nothing more, and waits for the client to give the connection up.
    AnswerEarly(String),
    /// Reads the request, answers with these bytes, and closes.
    AnswerAndClose(String),
    /// Reads the request and closes.
    Close,
    /// Reads the request and resets the connection.
    Reset,
}

/// An answer of this status, with these lines in its head.
pub(crate) fn says(status: u16, lines: &[&str], body: &str) -> String {
    let length = body.len();
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n{lines}\r\n{body}")
}

pub(crate) fn answers(status: u16) -> Step {
    Step::Answer(says(status, &[], "said"))
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Which connection it came on, of all.
    pub(crate) connection: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// Takes one step for each request, in the order in which they come.
pub(crate) struct Script {
    address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    steps: Mutex<VecDeque<Step>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    given_up: AtomicUsize,
}

impl Script {
    pub(crate) async fn serve(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::serve_on(Reserved::port().listen(), steps)
    }

    pub(crate) fn serve_on(listener: TcpListener, steps: impl IntoIterator<Item = Step>) -> Self {
        let inner = Arc::new(Inner {
            steps: Mutex::new(steps.into_iter().collect()),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
        });
        let script = Self {
            address: listener.local_addr().unwrap(),
            inner: Arc::clone(&inner),
        };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = inner.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let inner = Arc::clone(&inner);
                // How a connection ends is its client's to see.
                tokio::spawn(async move { _ = inner.play(stream, connection).await });
            }
        });
        script
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/charges", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.inner.seen.lock().unwrap().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    /// Waits until a client has closed the connection of an early answer.
    pub(crate) async fn until_given_up(&self) {
        let given_up = || self.inner.given_up.load(Ordering::SeqCst) > 0;
        eventually("the connection is given up", given_up).await;
    }
}

impl Inner {
    async fn play(&self, stream: TcpStream, connection: usize) -> io::Result<()> {
        let mut stream = Reader {
            stream,
            read: Vec::new(),
        };
        while let Some(head) = stream.head().await? {
            // What nobody wrote down is a request too many.
            let step = self.steps.lock().unwrap().pop_front();
            let step = step.unwrap_or_else(|| answers(418));
            let is_early = matches!(step, Step::AnswerEarly(_));
            let body = if is_early {
                Vec::new()
            } else {
                stream.body(&head).await?
            };
            self.seen.lock().unwrap().push(Seen {
                connection,
                head,
                body,
            });
            match step {
                Step::Answer(said) => stream.stream.write_all(said.as_bytes()).await?,
                Step::AnswerAndClose(said) => {
                    return stream.stream.write_all(said.as_bytes()).await;
                }
                Step::AnswerEarly(said) => {
                    stream.stream.write_all(said.as_bytes()).await?;
                    while stream.more().await.is_ok_and(|more| more) {}
                    self.given_up.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                Step::Close => return Ok(()),
                Step::Reset => return stream.stream.set_zero_linger(),
            }
        }
        Ok(())
    }
}

struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Reader {
    /// `false` at the end.
    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    async fn need(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..length).collect())
    }

    /// Up to this mark, and the mark.
    async fn until(&mut self, mark: &[u8]) -> io::Result<Option<String>> {
        loop {
            let found = self.read.windows(mark.len()).position(|part| part == mark);
            if let Some(start) = found {
                let bytes = self.read.drain(..start + mark.len()).collect();
                return Ok(Some(String::from_utf8(bytes).unwrap()));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn head(&mut self) -> io::Result<Option<String>> {
        self.until(b"\r\n\r\n").await
    }

    async fn body(&mut self, head: &str) -> io::Result<Vec<u8>> {
        let value = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let line = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
            line.map(|(_, value)| value)
        };
        if let Some(length) = value("content-length") {
            return self.need(length.parse().unwrap()).await;
        }
        let mut body = Vec::new();
        if value("transfer-encoding") != Some("chunked") {
            return Ok(body);
        }
        loop {
            let size = self.until(b"\r\n").await?;
            let size = size.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let chunk = self.need(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// A port that is ours, and that refuses connections until somebody listens.
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    pub(crate) fn port() -> Self {
        Self::bind("127.0.0.1:0".parse().unwrap())
    }

    /// Another socket for the same port: it takes over when the other one is gone.
    pub(crate) fn heir(&self) -> Self {
        Self::bind(self.address())
    }

    fn bind(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(1024).unwrap()
    }
}
