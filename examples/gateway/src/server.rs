//! Serves HTTP/1 and HTTP/2 on a socket.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{Body, config::Limits, unread::Unread};

/// The largest head of a request: more than browsers and gateways send, and what many at once can cost is bounded.
pub(crate) const MAX_HEAD: u32 = 64 << 10;

/// The most fields in a head of HTTP/1, in both directions: more than browsers send.
pub(crate) const MAX_FIELDS: usize = 128;

/// Out of file descriptors, for example: some may be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a connection is kept on which nothing is in flight.
    pub idle: Duration,
    /// How long a client may read nothing of a response that goes on.
    pub unread: Duration,
}

impl Patience {
    /// That of the gateway.
    #[must_use]
    pub const fn of(limits: &Limits) -> Self {
        Self {
            idle: limits.idle_timeout,
            unread: limits.pause_timeout,
        }
    }
}

/// Serves until `stop`, and then what is in flight.
///
/// A connection is closed on which nothing was in flight for as long as may be. That holds from its beginning: hyper-util has no time limit of its
/// own until it knows the version, nor hyper one for HTTP/2. A response that is not read is given up, and is no longer in flight.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub async fn serve<H, F>(
    listener: TcpListener,
    handler: H,
    patience: Patience,
    stop: CancellationToken,
) where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, client)) => {
                let handler = handler.clone();
                let handler = move |request| handler(client, request);
                connections.spawn(connection(stream, handler, patience, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<H, F>(
    stream: TcpStream,
    handler: H,
    patience: Patience,
    stop: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set TCP_NODELAY");
    }
    let Patience { idle, unread } = patience;
    let requests = Requests::new();
    let begun = requests.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let version = request.version();
        let token = begun.begin();
        let response = handler(request);
        async move {
            let response = response.await;
            // In flight until its body is sent, or given up.
            let tracked = |body| Unread::new(body, token, unread, version);
            Ok::<_, Infallible>(response.map(tracked))
        }
    });
    let http = builder(idle);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = requests.cease(idle) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                // Nothing is left to wait for, but the client does not close.
                () = requests.cease(idle) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended");
    }
}

/// The requests of one connection.
#[derive(Clone)]
struct Requests {
    in_flight: TaskTracker,
    begun: Arc<AtomicUsize>,
}

impl Requests {
    fn new() -> Self {
        let in_flight = TaskTracker::new();
        // Only a closed tracker can be waited for. Others may still begin.
        in_flight.close();
        Self {
            in_flight,
            begun: Arc::default(),
        }
    }

    /// One begins, and ends when the token is dropped.
    fn begin(&self) -> TaskTrackerToken {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.in_flight.token()
    }

    /// Waits until none was in flight for this long.
    async fn cease(&self, idle: Duration) {
        loop {
            self.in_flight.wait().await;
            let begun = self.begun.load(Ordering::Relaxed);
            sleep(idle).await;
            if self.in_flight.is_empty() && self.begun.load(Ordering::Relaxed) == begun {
                return;
            }
        }
    }
}

fn builder(idle: Duration) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(MAX_HEAD as usize)
        .max_headers(MAX_FIELDS);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle)
        .max_header_list_size(MAX_HEAD);
    http
}
