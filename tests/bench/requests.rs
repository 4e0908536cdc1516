//! A server under load: concurrent clients over loopback HTTP/1.1, each with a connection of its own that is kept, each sending
//! its next request when it has the answer to the last one.
//!
//! Clients and server share one runtime with a thread for each core. A second runtime would put more busy threads on the machine
//! than it has cores, and the 99th percentile would show the slices of its scheduler. What the clients cost is the same on all
//! sides, and part of every figure: a ratio between two sides is nearer to one than it is between two servers alone. A side with an
//! empty server shows that cost, so that it can be taken off.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::BoxError;

/// How hard, and how long, a server is pressed.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    /// Before it is measured.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What is put under load.
pub(crate) trait Server: Send + 'static {
    /// Serves until it is told to stop, then what is open still. The sockets send at once.
    fn serve(
        self,
        listener: TcpListener,
        stopped: oneshot::Receiver<()>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

impl Server for Router {
    async fn serve(self, listener: TcpListener, stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let listener = listener.tap_io(|stream| {
            // Where it cannot be set, small answers wait; that would show.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, self)
            .with_graceful_shutdown(async {
                let _ = stopped.await;
            })
            .await
    }
}

/// What one client sends, and what it expects. Each client has had a right answer before the load begins.
pub(crate) trait Client: Send + 'static {
    fn request(&mut self) -> Request<Full<Bytes>>;

    /// Judges the answer to the last request; an error says what is wrong with it.
    fn check(&mut self, head: &response::Parts, body: &Bytes) -> Result<Verdict, BoxError>;
}

/// What a client says of an answer that is not wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What it asked for.
    Right,
    /// The server says that it could not do it, and did not.
    Refused,
    /// What it asked for, and the server says that it may not remember it.
    Unstored,
}

/// What one load showed.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    /// Right answers.
    pub(crate) requests_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// All answers, those too that were not measured.
    pub(crate) answers: Answers,
}

/// How many answers of each kind there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) right: u64,
    pub(crate) refused: u64,
    pub(crate) unstored: u64,
}

impl Answers {
    const fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Right => self.right += 1,
            Verdict::Refused => self.refused += 1,
            Verdict::Unstored => self.unstored += 1,
        }
    }

    const fn add(&mut self, other: Self) {
        self.right += other.right;
        self.refused += other.refused;
        self.unstored += other.unstored;
    }

    /// For how many the handler ran, if it runs once for each request that is not refused.
    pub(crate) const fn executed(self) -> u64 {
        self.right + self.unstored
    }

    /// The percentage that was not right.
    pub(crate) const fn troubled(self) -> f64 {
        let troubled = self.refused + self.unstored;
        100.0 * troubled as f64 / (self.right + troubled) as f64
    }
}

/// Starts the server, loads it, and takes it down: afterwards nothing of it runs.
///
/// # Errors
///
/// A connection failed, or an answer was wrong.
///
/// # Cancel safety
///
/// Dropping the future ends the clients and leaves the server to end by itself.
pub(crate) async fn measure<C: Client>(
    server: impl Server,
    load: Load,
    client: impl Fn(usize) -> C,
) -> Result<Point, BoxError> {
    // The default queue of 128 overflows when hundreds of clients come at once.
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(4096)?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(server.serve(listener, stopped));

    let mut preparing = JoinSet::new();
    for index in 0..load.clients {
        let connection = Connection::open(TcpStream::connect(address).await?).await?;
        preparing.spawn(prepare(connection, client(index)));
    }
    let prepared = all(preparing).await?;
    let point = press(prepared, load).await?;

    let _ = stop.send(());
    timeout(STOP_LIMIT, server).await???;
    Ok(point)
}

/// The clients have gone: only their connections are to be closed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

async fn press<C: Client>(clients: Vec<Prepared<C>>, load: Load) -> Result<Point, BoxError> {
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(send(client, Arc::clone(&phase)));
    }
    sleep(load.warm_up).await;
    let started = Instant::now();
    phase.fetch_max(MEASURED, Ordering::Relaxed);
    sleep(load.measured).await;
    phase.store(OVER, Ordering::Relaxed);
    let took = started.elapsed();

    let mut latencies = latencies();
    let mut answers = Answers::default();
    for tally in all(running).await? {
        latencies.add(&tally.latencies)?;
        answers.add(tally.answers);
    }
    let quantile = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
    Ok(Point {
        requests_per_second: latencies.len() as f64 / took.as_secs_f64(),
        p50: quantile(0.50),
        p99: quantile(0.99),
        answers,
    })
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// A client that has had a right answer.
struct Prepared<C> {
    connection: Connection,
    client: C,
    answers: Answers,
}

/// What one client saw.
struct Tally {
    /// In nanoseconds, of the right answers that came while it was measured.
    latencies: Histogram<u64>,
    answers: Answers,
}

fn latencies() -> Histogram<u64> {
    // Two digits: small enough that hundreds of them stay in the cache.
    Histogram::new_with_bounds(1_000, 60_000_000_000, 2).expect("the bounds are in order")
}

async fn prepare<C: Client>(
    mut connection: Connection,
    mut client: C,
) -> Result<Prepared<C>, BoxError> {
    let mut answers = Answers::default();
    for _ in 0..PREPARATIONS {
        let (verdict, _) = connection.exchange(&mut client).await?;
        answers.count(verdict);
        if verdict == Verdict::Right {
            return Ok(Prepared {
                connection,
                client,
                answers,
            });
        }
    }
    Err(format!("a client had no right answer: {answers:?}").into())
}

/// A server that all clients come to at once may refuse some of them for a while.
const PREPARATIONS: u32 = 100;

async fn send<C: Client>(prepared: Prepared<C>, phase: Arc<AtomicU8>) -> Result<Tally, BoxError> {
    let Prepared {
        mut connection,
        mut client,
        answers,
    } = prepared;
    let mut tally = Tally {
        latencies: latencies(),
        answers,
    };
    while phase.load(Ordering::Relaxed) != OVER {
        let (verdict, took) = match connection.exchange(&mut client).await {
            Ok(exchanged) => exchanged,
            Err(error) => {
                phase.store(OVER, Ordering::Relaxed);
                return Err(error);
            }
        };
        tally.answers.count(verdict);
        if verdict == Verdict::Right && phase.load(Ordering::Relaxed) == MEASURED {
            let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            tally.latencies.saturating_record(nanoseconds);
        }
    }
    Ok(tally)
}

/// The results of all tasks, or the first error.
async fn all<T: 'static>(mut tasks: JoinSet<Result<T, BoxError>>) -> Result<Vec<T>, BoxError> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(stream: TcpStream) -> Result<Self, BoxError> {
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How it ends is seen by who waits for an answer on it.
        tokio::spawn(async { _ = connection.await });
        Ok(Self(sender))
    }

    /// Sends the next request and reads the whole answer; says how that was, and how long it took.
    async fn exchange<C: Client>(
        &mut self,
        client: &mut C,
    ) -> Result<(Verdict, Duration), BoxError> {
        let request = client.request();

        let started = Instant::now();
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let took = started.elapsed();

        Ok((client.check(&head, &body)?, took))
    }
}
