//! Binds the API and the provider to their sockets, and ends them in order.

use std::{
    io::{self, Write},
    time::Duration,
};

use reqwest::Url;
use steadfast::store::{Reaper, ReaperConfig};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    App, Deps,
    config::{ProviderConfig, ServeConfig},
    database::Database,
    failure::Failure,
    lifeline,
    provider::{self, Provider},
    provider_client::ProviderClient,
    server,
    shutdown::Signals,
    telemetry::Metrics,
};

/// What everything in flight may take after a signal. Kubernetes kills 30 s after SIGTERM, and the database is closed in between.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// A provider in memory loses nothing when its last callers are cut off.
const PROVIDER_DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Serves the API, and the built-in provider unless another one is named, until SIGTERM or Ctrl-C.
///
/// # Errors
///
/// Something could not be set up, or operations still ran 25 s after the signal.
///
/// # Cancel safety
///
/// Dropping the future cuts everything off, as a crash does: nothing is charged twice.
pub async fn serve(config: ServeConfig) -> Result<(), Failure> {
    if config.end_with_stdin {
        lifeline::end_with_stdin()?;
    }
    // Before there is a layer, whose metrics would go nowhere.
    let metrics = Metrics::install()?;
    let signals = install_signals()?;
    let (listener, api) = bind(&config.listen).await?;
    let (built_in, provider) = match config.provider_url {
        Some(url) => (None, url),
        None => {
            let (listener, url) = bind(&config.provider_listen).await?;
            (Some(listener), url)
        }
    };
    let client = ProviderClient::new(&provider, config.limits)
        .map_err(|error| Failure::because("failed to make a client of the provider", error))?;
    let database = Database::open(&config.store).await?;
    let app = crate::app(Deps {
        store: database.store.clone(),
        charges: database.charges.clone(),
        provider: client,
        lease: config.lease,
        metrics: metrics.clone(),
    })
    .map_err(|error| Failure::because("failed to set up idempotency", error))?;

    // It serves until the process ends, since charges in flight call it; nobody else's calls are worth waiting for.
    if let Some(listener) = built_in {
        let routes = Provider::default().routes();
        tokio::spawn(provider::serve(listener, routes, CancellationToken::new()));
    }
    let reaper = Reaper::new(database.store.clone(), ReaperConfig::default());
    let reaping = tokio::spawn(reaper.run());
    let upkeep = tokio::spawn(metrics.keep_up());
    announce(&serve_lines(&api, &provider));
    let drained = serve_api(listener, app, signals).await;
    reaping.abort();
    upkeep.abort();
    database.close().await;
    drained
}

/// Serves until the first signal, then what is in flight: first what clients wait for, then what they have left behind.
async fn serve_api(listener: TcpListener, app: App, mut signals: Signals) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, app.router, stop.clone()));

    signals.next().await;
    tracing::info!("stopping: finishing what is in flight");
    let deadline = Instant::now() + DRAIN_LIMIT;
    stop.cancel();
    let draining = async {
        match timeout_at(deadline, serving).await {
            Ok(served) => {
                served.map_err(|lost| Failure::because("the server panicked", lost))?;
            }
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

/// Serves the provider alone until SIGTERM or Ctrl-C.
///
/// # Errors
///
/// The address cannot be bound, or signals cannot be received.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections that are open go on.
pub async fn provider(config: ProviderConfig) -> Result<(), Failure> {
    if config.end_with_stdin {
        lifeline::end_with_stdin()?;
    }
    let mut signals = install_signals()?;
    let (listener, url) = bind(&config.listen).await?;
    let stop = CancellationToken::new();
    let serving = provider::serve(listener, Provider::default().routes(), stop.clone());
    let serving = tokio::spawn(serving);
    announce(&provider_lines(&url));

    signals.next().await;
    stop.cancel();
    match timeout(PROVIDER_DRAIN_LIMIT, serving).await {
        Ok(served) => served.map_err(|lost| Failure::because("the provider panicked", lost)),
        Err(_) => {
            tracing::warn!("callers of the provider were cut off");
            Ok(())
        }
    }
}

fn install_signals() -> Result<Signals, Failure> {
    Signals::install().map_err(|error| Failure::because("failed to receive signals", error))
}

/// Binds the address, and says where it really listens.
async fn bind(address: &str) -> Result<(TcpListener, Url), Failure> {
    let failed = |error: io::Error| Failure::because(format!("failed to bind {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let url = Url::parse(&format!("http://{bound}")).expect("a socket's address makes a URL");
    Ok((listener, url))
}

fn serve_lines(api: &Url, provider: &Url) -> [String; 4] {
    let (api, provider) = (base(api), base(provider));
    [
        format!("listening api={api} provider={provider}"),
        format!(
            "curl -i {api}/v1/charges -H 'Authorization: Bearer sk_demo' -H 'Idempotency-Key: order-1' \
             -H 'Content-Type: application/json' -d '{{\"amount\": 1999, \"currency\": \"usd\", \"order\": \"1\"}}'"
        ),
        format!("curl -i {api}/v1/charges -u sk_demo:"),
        format!("curl -i {provider}/ledger"),
    ]
}

fn provider_lines(provider: &Url) -> [String; 4] {
    let provider = base(provider);
    [
        format!("listening provider={provider}"),
        format!(
            "curl -i {provider}/charges -H 'Idempotency-Key: k1' -d '{{\"amount\": 1999, \"currency\": \"usd\"}}'"
        ),
        format!("curl -i {provider}/ledger"),
        format!("curl -i -X PUT {provider}/faults -d '{{\"mode\": \"down\", \"count\": 1}}'"),
    ]
}

fn base(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

/// Writes to stdout, which is for whoever started the process; nobody need listen.
fn announce(lines: &[String]) {
    let mut stdout = io::stdout().lock();
    let written = lines
        .iter()
        .try_for_each(|line| writeln!(stdout, "{line}"))
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        tracing::warn!(%error, "failed to write to stdout");
    }
}
