//! Serves HTTP/1 and HTTP/2 on a socket.

mod arriving;

use std::{
    error::Error,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
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
use tower::{Service, ServiceExt};

use self::arriving::Arriving;

/// How long a connection is kept on which nothing is in flight: before its first request, in the head of one, and between two.
///
/// `axum::serve` sets no such limit. A client that says nothing would have its connection for ever, and hold up the end of the process.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Out of file descriptors, for example: some may be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, and then what is in flight. A connection whose service fails is closed without an answer.
///
/// No client holds a connection that it does not use: a connection is asked to end when nothing was in flight on it for [`IDLE_LIMIT`],
/// and closed when that was so once more. hyper-util has no such limit until it knows the version, nor hyper one for HTTP/2. A request is
/// in flight until the head of its response: every body here is whole by then, and who does not read it is idle too.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub(crate) async fn serve<S>(listener: TcpListener, service: S, stop: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, service.clone(), stop.clone()));
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

async fn connection<S>(stream: TcpStream, service: S, stop: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set TCP_NODELAY");
    }
    let requests = Requests::new();
    let (begun, stopped) = (requests.clone(), stop.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let in_flight = begun.begin();
        let request = request.map(|body| Arriving::new(body, stopped.clone()));
        let answering = service.clone().oneshot(request);
        async move {
            let answered = answering.await;
            drop(in_flight);
            answered
        }
    });
    let http = builder();
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = requests.cease() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                // Nothing is left to wait for, but the client does not close.
                () = requests.cease() => Ok(()),
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

    /// Waits until none was in flight for as long as a connection is kept.
    async fn cease(&self) {
        loop {
            self.in_flight.wait().await;
            let begun = self.begun.load(Ordering::Relaxed);
            sleep(IDLE_LIMIT).await;
            if self.in_flight.is_empty() && self.begun.load(Ordering::Relaxed) == begun {
                return;
            }
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT);
    // A peer that is gone without a word does not keep the connection while a charge is in flight.
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE_LIMIT)
        .keep_alive_timeout(IDLE_LIMIT);
    http
}
