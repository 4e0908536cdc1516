//! Calls the service: generated clients over a stack of layers.

use std::{error::Error, sync::Arc, time::Duration};

use steadfast::{
    circuit_breaker::{BreakerConfig, CircuitBreaker, CircuitBreakerLayer, Guarded, When},
    retry::{
        Budget, ConfigError, IdempotencyKeyLayer, Retry, RetryConfig, RetryLayer, SameBody,
        SetIdempotencyKey,
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::ServiceBuilder;

use crate::{
    methods::{CANCEL_ORDER, GET_ORDER, LIST_ORDERS, PLACE_ORDER, WATCH_ORDER},
    proto::orders_client::OrdersClient,
};

/// The server's name in logs and metrics.
const NAME: &str = "orders";

/// A server that is not connected by then is connected to anew, in the next attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How often a connection is asked whether it still carries anything, and how long the answer may take. A dead one is left after twice
/// this, which leaves a call with the default limits an attempt on the next. Servers of grpc-go and grpc-java end connections that ask
/// this often, unless they are told to permit it (`keepalive.EnforcementPolicy`, `permitKeepAliveTime`).
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The layers around the channel, from the outside.
pub type Stack = SetIdempotencyKey<Retry<Guarded<Channel>, SameBody>>;

/// The generated client over the layers.
pub type Client = OrdersClient<InterceptedService<Stack, Credentials>>;

/// How long a call may take, how often it is sent, and when the server is left alone.
#[derive(Clone, Debug)]
pub struct Limits {
    /// All attempts of a call together, and the waits between them.
    pub deadline: Duration,
    /// One attempt.
    pub attempt_timeout: Duration,
    /// How often one call is sent at most, the first attempt counted.
    pub attempts: u32,
    /// When the server is left alone.
    pub breaker: BreakerConfig,
}

/// Clients of one server. Clones share the connection and all that is known of the server.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For the methods that have one answer.
    pub unary: Client,
    /// For those that answer with a stream, which takes as long as it takes.
    pub streams: Client,
    /// Knows whether the server is called.
    pub breaker: CircuitBreaker,
}

impl Clients {
    /// Clients of the server at the endpoint, for the account of this API key. They connect with the first call.
    ///
    /// # Errors
    ///
    /// With these limits, or this API key, nothing can be called.
    pub fn new(
        endpoint: &Endpoint,
        api_key: &str,
        limits: &Limits,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // Attempts that elapse do not end their connection: without these, all of them would wait for a dead one.
        let channel = endpoint
            .clone()
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let credentials = Credentials::of_key(api_key)?;
        let breaker = CircuitBreaker::with_config(NAME, limits.breaker)?;
        let budget = Arc::new(Budget::default());

        let retries = RetryConfig::default()
            .with_max_attempts(limits.attempts)
            // Reading changes nothing. The others are named by their keys.
            .with_idempotent_grpc_methods([GET_ORDER, LIST_ORDERS, WATCH_ORDER]);
        let in_time = retries
            .clone()
            .with_attempt_timeout(limits.attempt_timeout)
            .with_deadline(limits.deadline);
        let unary = stack(
            retry(in_time, &budget)?,
            CircuitBreakerLayer::grpc(breaker.clone()),
            channel.clone(),
        );
        // No time limit: the server is told of it, and may end the stream. And a stream that began shows that the server is well,
        // however long it goes on.
        let streams = stack(
            retry(retries, &budget)?,
            CircuitBreakerLayer::grpc(breaker.clone()).with_outcome_at(When::Head),
            channel,
        );
        Ok(Self {
            unary: OrdersClient::with_interceptor(unary, credentials.clone()),
            streams: OrdersClient::with_interceptor(streams, credentials),
            breaker,
        })
    }
}

fn stack(retry: RetryLayer<SameBody>, breaker: CircuitBreakerLayer, channel: Channel) -> Stack {
    let keys =
        IdempotencyKeyLayer::new_for(|head| [PLACE_ORDER, CANCEL_ORDER].contains(&head.uri.path()));
    ServiceBuilder::new()
        // Outside of retry: all attempts of a call have one key, so that they are one order.
        .layer(keys)
        // Limits the whole call, and each attempt: the breaker and the server are told how long each may take.
        .layer(retry)
        // Beneath retry it counts each attempt. What it rejects is no attempt, and ends the retries.
        .layer(breaker)
        .service(channel)
}

/// One budget for both stacks: they call one server.
fn retry(config: RetryConfig, budget: &Arc<Budget>) -> Result<RetryLayer<SameBody>, ConfigError> {
    let retry = RetryLayer::grpc()
        .with_name(NAME)
        .with_config(config)?
        .with_budget(Arc::clone(budget));
    Ok(retry)
}

/// Tells the server who calls.
#[derive(Clone)]
pub struct Credentials(MetadataValue<Ascii>);

impl Credentials {
    /// Those of the account with this API key.
    ///
    /// # Errors
    ///
    /// The key cannot be sent: it holds other characters than visible ASCII.
    pub fn of_key(api_key: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {api_key}").parse()?;
        authorization.set_sensitive(true);
        Ok(Self(authorization))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let authorization = self.0.clone();
        request
            .metadata_mut()
            .insert("authorization", authorization);
        Ok(request)
    }
}

/// Without the key.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_key_is_sent_and_not_shown() {
        let mut credentials = Credentials::of_key("sk_secret").unwrap();

        let request = credentials.call(Request::new(())).unwrap();

        let sent = request.metadata().get("authorization").unwrap();
        assert_eq!(sent, "Bearer sk_secret");
        for shown in [format!("{credentials:?}"), format!("{request:?}")] {
            assert!(!shown.contains("sk_secret"), "{shown}");
        }
    }
}
