//! Binds the gateway to its sockets, and ends it in order.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    failure::Failure,
    server::{self, Patience},
    shutdown::Signals,
};

/// What requests in flight may take after a signal. Kubernetes kills 30 s after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Serves clients and operators until SIGTERM or Ctrl-C, and then what is in flight.
///
/// # Errors
///
/// Something could not be set up, a server ended by itself, or requests were still in flight 25 s after the signal, or at a second one.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub async fn serve(config: Config) -> Result<(), Failure> {
    let mut signals =
        Signals::install().map_err(|error| Failure::because("failed to receive signals", error))?;
    let app = crate::app(&config)?;
    let (listener, address) = bind(&config.listen).await?;
    let (admin_listener, admin_address) = bind(&config.admin_listen).await?;

    let patience = Patience::of(&config.limits);
    let stop = CancellationToken::new();
    let proxy = move |client, request| app.proxy.clone().answer(client, request);
    let mut proxy = tokio::spawn(server::serve(listener, proxy, patience, stop.clone()));
    let admin = move |_, request| std::future::ready(app.admin.answer(&request));
    // Served to the end, so that operators see what is going on.
    let mut admin = tokio::spawn(server::serve(
        admin_listener,
        admin,
        patience,
        CancellationToken::new(),
    ));
    announce(&format!(
        "listening http=http://{address} admin=http://{admin_address}"
    ));

    serving(signals.next(), &mut proxy, &mut admin).await?;
    tracing::info!("stopping: finishing what is in flight");
    stop.cancel();
    tokio::select! {
        drained = timeout(DRAIN_LIMIT, proxy) => match drained {
            Ok(served) => served.map_err(panicked),
            Err(_) => Err(Failure::new("requests that took too long were cut off")),
        },
        () = signals.next() => Err(Failure::new("a second signal cut off what was in flight")),
    }
}

/// Waits for the signal. Who ends before has failed: a process that serves only one of the two would look well from the other side.
async fn serving(
    signal: impl Future<Output = ()>,
    proxy: &mut JoinHandle<()>,
    admin: &mut JoinHandle<()>,
) -> Result<(), Failure> {
    let ended = tokio::select! {
        () = signal => return Ok(()),
        ended = proxy => ended,
        ended = admin => ended,
    };
    ended.map_err(panicked)?;
    Err(Failure::new("a server ended by itself"))
}

fn panicked(lost: JoinError) -> Failure {
    Failure::because("a server panicked", lost)
}

/// Binds the address, and says where it really listens.
async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: io::Error| Failure::because(format!("failed to bind {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Writes to stdout, which is for whoever started the process; nobody need listen.
fn announce(line: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "failed to write to stdout");
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_ends_the_process() {
        for ends_first in [true, false] {
            let broken = || tokio::spawn(async { panic!("broken") });
            let well = || tokio::spawn(pending());
            let (mut proxy, mut admin) = if ends_first {
                (broken(), well())
            } else {
                (well(), broken())
            };

            let failure = serving(pending(), &mut proxy, &mut admin).await;

            assert_eq!(failure.unwrap_err().to_string(), "a server panicked");
        }
        let (mut proxy, mut admin) = (tokio::spawn(ready(())), tokio::spawn(pending()));
        let failure = serving(pending(), &mut proxy, &mut admin).await;
        let failure = failure.unwrap_err().to_string();
        assert_eq!(failure, "a server ended by itself");
        assert!(
            serving(ready(()), &mut admin, &mut tokio::spawn(pending()))
                .await
                .is_ok()
        );
    }
}
