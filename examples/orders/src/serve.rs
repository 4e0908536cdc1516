//! Binds the service to its socket, and ends it in order.

use std::{
    io::{self, ErrorKind, Write},
    net::SocketAddr,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use steadfast::store::{Reaper, ReaperConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinError,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Server, server::TcpIncoming};

use crate::{
    App, Deps, config::ServeConfig, database::Database, failure::Failure, faults::FaultLayer,
    shutdown::Signals,
};

/// What everything in flight may take after a signal. Kubernetes kills 30 s after SIGTERM, and the database is closed in between.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Who watches an order may be silent for hours: a ping finds out whether he is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long nothing is accepted after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves orders until SIGTERM or Ctrl-C.
///
/// # Errors
///
/// Something could not be set up, the server failed, or operations still ran 25 s after the signal.
///
/// # Cancel safety
///
/// Dropping the future cuts everything off, as a crash does: nothing is ordered twice.
pub async fn serve(config: ServeConfig) -> Result<(), Failure> {
    let signals =
        Signals::install().map_err(|error| Failure::because("failed to receive signals", error))?;
    let (listener, address) = bind(&config.listen)
        .await
        .map_err(|error| Failure::because(format!("failed to bind {}", config.listen), error))?;
    let database = Database::open(&config.store).await?;
    let stopping = CancellationToken::new();
    let app = crate::app(Deps {
        store: database.store.clone(),
        orders: database.orders.clone(),
        lease: config.lease,
        work_time: config.work_time,
        faults: FaultLayer {
            fail_first: config.fail_first,
            lose_first: config.lose_first,
        },
        stopping: stopping.clone(),
    })
    .map_err(|error| Failure::because("failed to set up idempotency", error))?;

    let reaper = Reaper::new(database.store.clone(), ReaperConfig::default());
    let reaping = tokio::spawn(reaper.run());
    announce(address);
    let incoming = with_pauses(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let drained = serve_until_signal(incoming, app, stopping, signals).await;
    reaping.abort();
    database.close().await;
    drained
}

/// Serves until the first signal, then what is in flight: first what clients wait for, then what they have left behind.
async fn serve_until_signal(
    incoming: impl Stream<Item = io::Result<TcpStream>> + Send + 'static,
    app: App,
    stopping: CancellationToken,
    mut signals: Signals,
) -> Result<(), Failure> {
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .serve_with_incoming_shutdown(app.service, incoming, stopping.clone().cancelled_owned());
    let mut serving = tokio::spawn(serving);

    tokio::select! {
        ended = &mut serving => {
            well_ended(ended)?;
            return Err(Failure::new("the server ended, and nobody had asked it to"));
        }
        () = signals.next() => {}
    }
    tracing::info!("stopping: finishing what is in flight");
    let deadline = Instant::now() + DRAIN_LIMIT;
    stopping.cancel();
    let draining = async {
        match timeout_at(deadline, serving).await {
            Ok(ended) => well_ended(ended)?,
            Err(_) => tracing::warn!("connections that stayed open were cut off"),
        }
        app.operations
            .drain(deadline.saturating_duration_since(Instant::now()))
            .await
            .map_err(|undrained| Failure::because("operations were cut off", undrained))
    };
    tokio::select! {
        drained = draining => drained,
        () = signals.next() => Err(Failure::new("a second signal cut off what was in flight")),
    }
}

fn well_ended(served: Result<Result<(), transport::Error>, JoinError>) -> Result<(), Failure> {
    served
        .map_err(|lost| Failure::because("the server panicked", lost))?
        .map_err(|error| Failure::because("the server failed", error))
}

/// tonic's server accepts again at once, and says nothing, while nothing can be accepted: when file descriptors run out, say.
fn with_pauses<T>(
    incoming: impl Stream<Item = io::Result<T>>,
) -> impl Stream<Item = io::Result<T>> {
    incoming.then(|accepted| async {
        match &accepted {
            // The client's, which is gone.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
            Ok(_) => {}
        }
        accepted
    })
}

async fn bind(address: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Writes to stdout, which is for whoever started the process; nobody need listen.
fn announce(address: SocketAddr) {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "listening grpc=http://{address}").and_then(|()| stdout.flush());
    if let Err(error) = written {
        tracing::warn!(%error, "failed to write to stdout");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::config::StoreUrl;

    /// Longer than anything here takes, on a clock that does not wait.
    const LONG: Duration = Duration::from_secs(3600);

    async fn served(
        incoming: impl Stream<Item = io::Result<TcpStream>> + Send + 'static,
    ) -> Result<(), Failure> {
        let database = Database::open(&StoreUrl::Memory).await.unwrap();
        let stopping = CancellationToken::new();
        let app = crate::app(Deps {
            store: database.store,
            orders: database.orders,
            lease: Duration::from_secs(5),
            work_time: Duration::ZERO,
            faults: FaultLayer::default(),
            stopping: stopping.clone(),
        });
        serve_until_signal(
            incoming,
            app.unwrap(),
            stopping,
            Signals::install().unwrap(),
        )
        .await
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_a_failure() {
        let ended = timeout(LONG, served(stream::empty())).await.unwrap();

        assert!(ended.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_accepted_for_a_while_after_a_failure() {
        let exhausted = || Err(io::Error::other("too many open files"));
        let aborted = Err(io::Error::from(ErrorKind::ConnectionAborted));
        let accepts = stream::iter([exhausted(), exhausted(), aborted, Ok(())]);
        let begun = Instant::now();

        let accepted: Vec<_> = with_pauses(accepts).collect().await;

        assert!(accepted.last().unwrap().is_ok());
        assert_eq!(begun.elapsed(), 2 * ACCEPT_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_an_answer_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut silent = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        tokio::spawn(served(TcpIncoming::from(listener)));
        // The preface of HTTP/2 and an empty SETTINGS frame, and nothing more.
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        silent.write_all(hello).await.unwrap();

        let mut heard = Vec::new();
        let closed = timeout(LONG, silent.read_to_end(&mut heard)).await;

        closed.unwrap().unwrap();
    }
}
