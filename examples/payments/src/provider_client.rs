//! Calls the card provider.

mod answer;

use std::{error::Error, fmt, time::Duration};

use http::StatusCode;
use reqwest::{Client, Request, Response, Url, redirect};
use serde::Deserialize;
use serde_json::json;
use steadfast::{
    circuit_breaker::{BreakerConfig, CircuitBreaker, CircuitBreakerLayer, Rejected, State},
    client_metrics::ClientMetricsLayer,
    core::verdict::Hint,
    http::{LocalRejection, hint, reqwest::ReqwestLayer},
    retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer},
};
use tokio::time::Instant;
use tower::{
    ServiceBuilder, ServiceExt,
    util::{AndThenLayer, BoxCloneSyncService},
};

use self::answer::CallError;
use crate::config::ProviderLimits;

/// The provider's name in logs.
const NAME: &str = "card-provider";

/// The longest `Retry-After` that is waited out within a request, as long as a duplicate waits. A client that is to wait for longer is
/// told so: it would rather know than hang, and holds no connection meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A client of one provider, shared by its clones.
#[derive(Clone, Debug)]
pub struct ProviderClient {
    http: Client,
    /// The same client, which sends again what may be sent again, and nothing while the circuit is open.
    stack: Stack,
    breaker: CircuitBreaker,
    charges: String,
}

type Stack = BoxCloneSyncService<Request, Response, CallError>;

/// What the provider says about a charge that it made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ProviderCharge {
    /// Its name of the charge.
    pub id: String,
    /// The amount that was charged, in minor units.
    pub amount: i64,
    /// When it made the charge, in seconds since 1970.
    pub at: i64,
}

impl ProviderClient {
    /// A client with these limits. Each attempt has the timeout to the end of its answer, which is limited in size too.
    ///
    /// # Errors
    ///
    /// The system does not let a client be made, or with these limits it cannot call.
    pub fn new(
        provider: &Url,
        limits: ProviderLimits,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let http = Client::builder()
            .no_proxy()
            // A redirected POST may be sent twice, or become a GET.
            .redirect(redirect::Policy::none())
            // One layer retries.
            .retry(reqwest::retry::never())
            .build()?;
        let breaker = CircuitBreaker::with_config(NAME, breaker_config(&limits))?;
        let stack = stack(http.clone(), &limits, breaker.clone())?;
        let base = provider.as_str().trim_end_matches('/');
        Ok(Self {
            http,
            stack,
            breaker,
            charges: format!("{base}/charges"),
        })
    }

    /// The state of the circuit breaker: open, it stays so until a call comes after the open time.
    #[must_use]
    pub fn circuit(&self) -> State {
        self.breaker.state()
    }

    /// Charges `amount` minor units. Calls with the same `key` are one charge.
    ///
    /// # Errors
    ///
    /// Unless the key was [refused](ProviderError::KeyReused), the charge may have been made.
    ///
    /// # Cancel safety
    ///
    /// The charge may be made although the future is dropped; calling again with the same key is safe.
    pub async fn charge(
        &self,
        key: &str,
        amount: i64,
        currency: &str,
    ) -> Result<ProviderCharge, ProviderError> {
        let request = self
            .http
            .post(&self.charges)
            .header("idempotency-key", key)
            .json(&json!({"amount": amount, "currency": currency}))
            .build()
            .map_err(CallError::from)?;
        let begun = Instant::now();
        let response = self.stack.clone().oneshot(request).await?;
        if let Some(rejected) = response.extensions().get::<Rejected>() {
            return Err(ProviderError::LeftAlone {
                retry_after: rejected.retry_after(),
                took: begun.elapsed(),
            });
        }
        if response.extensions().get::<LocalRejection>().is_some() {
            return Err(ProviderError::Elapsed);
        }
        let status = response.status();
        let hint = hint::of_http(status, response.headers());
        let retry_after = if let Some(Hint::After(delay)) = hint {
            Some(delay)
        } else {
            None
        };
        let body = response.bytes().await.map_err(CallError::from)?;

        if status.is_success() {
            let charge: ProviderCharge =
                serde_json::from_slice(&body).map_err(ProviderError::Unreadable)?;
            return if charge.amount == amount {
                Ok(charge)
            } else {
                Err(ProviderError::WrongAmount {
                    asked: amount,
                    charged: charge.amount,
                })
            };
        }
        Err(refusal(status, retry_after, &body))
    }
}

/// The client beneath its layers, the outermost first.
fn stack(
    http: Client,
    limits: &ProviderLimits,
    breaker: CircuitBreaker,
) -> Result<Stack, Box<dyn Error + Send + Sync>> {
    let retry = RetryLayer::http()
        .with_name(NAME)
        .with_config(retry_config(limits))?;
    let layers = ServiceBuilder::new()
        // Every call has a key, on which the provider deduplicates: so it may be sent again whatever became of it.
        .layer(IdempotencyKeyLayer::new())
        .layer(retry)
        // Beneath retry it counts each attempt. What it refuses is not an attempt, and ends the retries.
        .layer(CircuitBreakerLayer::http(breaker))
        .layer(ClientMetricsLayer::new())
        // Beneath all others: an attempt lasts to the end of its answer, and one that breaks off is sent again.
        .layer(AndThenLayer::new(answer::whole));
    let stack = ServiceBuilder::new()
        .layer(ReqwestLayer::new(layers))
        .service(http);
    Ok(BoxCloneSyncService::new(stack))
}

fn retry_config(limits: &ProviderLimits) -> RetryConfig {
    RetryConfig::default()
        .with_max_attempts(limits.provider_attempts)
        .with_attempt_timeout(limits.provider_timeout)
        .with_hint_cap(LONGEST_WAIT)
}

/// Failures in a row alone, so that how it opens can be told in one sentence. The open time keeps the default jitter: chance adds up
/// to a tenth, so that many APIs do not come back to the provider at one moment.
fn breaker_config(limits: &ProviderLimits) -> BreakerConfig {
    BreakerConfig::default()
        .with_consecutive_failures(limits.breaker_failures)
        .without_failure_rate()
        .with_open_for(limits.breaker_open)
        .with_probes(1, limits.breaker_successes)
        // A probe may take as long as any other attempt.
        .with_half_open_limit(
            limits
                .provider_timeout
                .max(BreakerConfig::DEFAULT_HALF_OPEN_LIMIT),
        )
}

fn refusal(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> ProviderError {
    #[derive(Deserialize)]
    struct Refusal {
        error: Reason,
    }
    #[derive(Deserialize)]
    struct Reason {
        code: String,
    }

    let passes = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if status.is_server_error() || passes.contains(&status) {
        return ProviderError::Failing {
            status,
            retry_after,
        };
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) if refusal.error.code == "key_reused" => ProviderError::KeyReused,
        _ => ProviderError::Refused { status },
    }
}

/// There is no answer to go on with.
#[derive(Debug)]
pub enum ProviderError {
    /// The last attempt took too long.
    Elapsed,
    /// It answered that it cannot work now, or is still at work on this key.
    Failing {
        /// The status of its answer.
        status: StatusCode,
        /// When it may be called again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It made another charge under this key before.
    KeyReused,
    /// It failed before, and was not called now, or not any more.
    LeftAlone {
        /// When it may be called again; zero: any moment.
        retry_after: Duration,
        /// How long it took to find out: less than a millisecond, unless an attempt was made before.
        took: Duration,
    },
    /// It refused a call that is in order.
    Refused {
        /// The status of its answer.
        status: StatusCode,
    },
    /// Its answer is larger than that to any call can be.
    TooLarge,
    /// No answer came, or not all of one.
    Unreachable(reqwest::Error),
    /// Its answer means nothing.
    Unreadable(serde_json::Error),
    /// It charged something else.
    WrongAmount {
        /// What it was asked to charge.
        asked: i64,
        /// What it says it charged.
        charged: i64,
    },
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed => f.write_str("the provider did not answer in time"),
            Self::Failing { status, .. } => {
                write!(f, "the provider is failing with status {status}")
            }
            Self::KeyReused => f.write_str("the provider has another charge under this key"),
            Self::LeftAlone { .. } => f.write_str("the provider is left alone after failures"),
            Self::Refused { status } => write!(f, "the provider refused with status {status}"),
            Self::TooLarge => f.write_str("the provider's answer is too large"),
            Self::Unreachable(_) => f.write_str("the provider gave no answer"),
            Self::Unreadable(_) => f.write_str("the provider's answer is not a charge"),
            Self::WrongAmount { asked, charged } => {
                write!(f, "the provider charged {charged} and not {asked}")
            }
        }
    }
}

impl Error for ProviderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            Self::Unreadable(error) => Some(error),
            Self::Elapsed
            | Self::Failing { .. }
            | Self::KeyReused
            | Self::LeftAlone { .. }
            | Self::Refused { .. }
            | Self::TooLarge
            | Self::WrongAmount { .. } => None,
        }
    }
}

impl From<CallError> for ProviderError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Lost(error) => Self::Unreachable(error),
            CallError::TooLarge => Self::TooLarge,
        }
    }
}
