//! Binds the service to its socket, and ends it in order.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use steadfast::store::{Reaper, ReaperConfig};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    App, Deps, config::ServeConfig, database::Database, failure::Failure, faults::FaultLayer,
    shutdown::Signals,
};

/// What everything in flight may take after a signal. Kubernetes kills 30 s after SIGTERM, and the database is closed in between.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Who watches an order may be silent for hours: a ping finds out whether he is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves orders until SIGTERM or Ctrl-C.
///
/// # Errors
///
/// Something could not be set up, or operations still ran 25 s after the signal.
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
    let drained = serve_until_signal(listener, app, stopping, signals).await;
    reaping.abort();
    database.close().await;
    drained
}

/// Serves until the first signal, then what is in flight: first what clients wait for, then what they have left behind.
async fn serve_until_signal(
    listener: TcpListener,
    app: App,
    stopping: CancellationToken,
    mut signals: Signals,
) -> Result<(), Failure> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .serve_with_incoming_shutdown(app.service, incoming, stopping.clone().cancelled_owned());
    let serving = tokio::spawn(serving);

    signals.next().await;
    tracing::info!("stopping: finishing what is in flight");
    let deadline = Instant::now() + DRAIN_LIMIT;
    stopping.cancel();
    let draining = async {
        match timeout_at(deadline, serving).await {
            Ok(Ok(served)) => {
                served.map_err(|error| Failure::because("the server failed", error))?;
            }
            Ok(Err(lost)) => return Err(Failure::because("the server panicked", lost)),
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
