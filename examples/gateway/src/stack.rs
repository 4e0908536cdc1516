//! The layers between a request and its upstreams.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use steadfast::{
    circuit_breaker::{BreakerConfig, BreakerRegistry, CircuitBreakerLayer},
    http::body::ReplayBody,
    retry::{ConfigError, RetryConfig, RetryLayer},
};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    Body,
    config::{Config, Limits, Route},
    server::{MAX_FIELDS, MAX_HEAD},
    upstreams::Upstreams,
};

/// Tells an upstream how many attempts of the gateway came before, from the second on: under load it can refuse those first.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("x-previous-attempts");

/// Less than the 5 s after which Node's servers, the first of those that are common, close an idle connection: a request that is
/// written at that moment is lost, and not every one may be sent again.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// What an HTTP/2 upstream may send ahead of a client that does not read.
const STREAM_WINDOW: u32 = 128 << 10;

/// Room for 256 streams that nobody reads, which is more than servers let be at once: else they would hold up all others of their
/// connection, and there is one for each upstream.
const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;

/// The client of all upstreams, with its pool of connections.
pub type Transport = Client<HttpConnector, ReplayBody<Body>>;

/// What a route sends its requests to.
pub type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Error>;

/// Stacks the layers of one route.
///
/// The budget of the retries is that of the route: what its upstreams cannot serve costs other routes no retry.
///
/// # Errors
///
/// The numbers of the limits cannot work together.
pub fn stack(
    route: &Route,
    config: &Config,
    breakers: &BreakerRegistry,
    transport: Transport,
) -> Result<Stack, ConfigError> {
    let retry = RetryLayer::http()
        .with_name(route.name())
        .with_config(retry_config(&config.limits))?;
    let retry = if config.trust_idempotency_key.contains(&route.prefix) {
        retry.trusting_key_header()
    } else {
        retry
    };
    let upstreams = Arc::new(Upstreams::new(&route.upstreams, breakers.clone()));
    let aiming = Arc::clone(&upstreams);

    let stack = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
        .map_request(move |request| upstreams.take_turn(request)) // one for all attempts
        .layer(retry) // with the deadline of the request, and the time limit of each attempt
        .map_request(move |request| aiming.aim(request)) // another attempt, another upstream
        .layer(CircuitBreakerLayer::http(breakers.clone())) // one for each upstream, of all routes
        .service(transport);
    Ok(BoxCloneSyncService::new(stack))
}

/// The client of all upstreams.
#[must_use]
pub fn transport(config: &Config) -> Transport {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(config.limits.connect_timeout));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_headers(MAX_FIELDS)
        .http2_only(config.upstream_http2)
        .http2_max_header_list_size(MAX_HEAD)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        // A connection that has died in silence would be used for ever: attempts end, and it does not.
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(config.limits.attempt_timeout)
        .http2_keep_alive_timeout(config.limits.attempt_timeout)
        // One layer retries.
        .retry_canceled_requests(false)
        .build(connector)
}

/// The numbers of the breakers. The rate of failures keeps its defaults.
pub(crate) fn breaker_config(limits: &Limits) -> BreakerConfig {
    BreakerConfig::default()
        .with_consecutive_failures(limits.breaker_failures)
        .with_open_for(limits.breaker_open)
        // A probe may take as long as any other attempt.
        .with_half_open_limit(
            limits
                .attempt_timeout
                .max(BreakerConfig::DEFAULT_HALF_OPEN_LIMIT),
        )
}

fn retry_config(limits: &Limits) -> RetryConfig {
    RetryConfig::default()
        .with_max_attempts(limits.attempts)
        .with_deadline(limits.deadline)
        .with_attempt_timeout(limits.attempt_timeout)
        .with_body_idle_timeout(limits.pause_timeout)
        .with_replay_limit(limits.replay_limit)
        // It speaks of the early data of a client, who is to be told (RFC 8470 section 5.2): the gateway sends none of its own.
        .without_transient_status(StatusCode::TOO_EARLY)
        .with_attempt_header(PREVIOUS_ATTEMPTS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_readme_quotes_the_stack() {
        let source = include_str!("stack.rs");
        let begin = source.find("    let stack = ServiceBuilder").unwrap();
        let end = source.find("    Ok(BoxCloneSyncService").unwrap();
        let lines = source[begin..end].lines();
        let stack: Vec<&str> = lines
            .map(|line| line.strip_prefix("    ").unwrap())
            .collect();

        let readme = include_str!("../README.md");

        assert!(readme.contains(&stack.join("\n")));
    }

    #[test]
    fn a_probe_may_take_as_long_as_any_other_attempt() {
        for (time, limit) in [("5s", 30), ("40s", 40)] {
            let arguments = [
                "gateway",
                "--route",
                "/=http://h",
                "--attempt-timeout",
                time,
            ];
            let config = Config::try_parse_from(arguments).unwrap();
            let expected =
                breaker_config(&config.limits).with_half_open_limit(Duration::from_secs(limit));
            assert_eq!(breaker_config(&config.limits), expected);
        }
    }
}
