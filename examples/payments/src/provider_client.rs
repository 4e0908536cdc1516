//! Calls the card provider.

use std::{error::Error, fmt, time::Duration};

use http::StatusCode;
use reqwest::{Client, Request, Response, Url, redirect};
use serde::Deserialize;
use serde_json::json;
use steadfast::{
    http::{LocalRejection, reqwest::ReqwestLayer},
    retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer},
};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

/// A client of one provider, shared by its clones.
#[derive(Clone, Debug)]
pub struct ProviderClient {
    http: Client,
    /// The same client, which sends again what may be sent again.
    stack: BoxCloneSyncService<Request, Response, reqwest::Error>,
    charges: String,
}

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
    /// A client that makes so many attempts at most, each of which has `timeout` to the head of its answer, and as much for each
    /// pause in its body.
    ///
    /// # Errors
    ///
    /// The system does not let a client be made, or there is no attempt or no time.
    pub fn new(
        provider: &Url,
        attempts: u32,
        timeout: Duration,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let http = Client::builder()
            .no_proxy()
            // A redirected POST may be sent twice, or become a GET.
            .redirect(redirect::Policy::none())
            // One layer retries.
            .retry(reqwest::retry::never())
            .build()?;
        let retry = RetryLayer::http()
            .with_name("card-provider")
            .with_config(config(attempts, timeout))?;
        let layers = ServiceBuilder::new()
            // Every call has a key, on which the provider deduplicates: so it may be sent again whatever became of it.
            .layer(IdempotencyKeyLayer::new())
            .layer(retry);
        let stack = ServiceBuilder::new()
            .layer(ReqwestLayer::new(layers))
            .service(http.clone());
        let base = provider.as_str().trim_end_matches('/');
        Ok(Self {
            http,
            stack: BoxCloneSyncService::new(stack),
            charges: format!("{base}/charges"),
        })
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
            .map_err(ProviderError::Unreachable)?;
        let response = self
            .stack
            .clone()
            .oneshot(request)
            .await
            .map_err(ProviderError::Unreachable)?;
        if response.extensions().get::<LocalRejection>().is_some() {
            return Err(ProviderError::Elapsed);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(ProviderError::Unreachable)?;

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
        Err(refusal(status, &body))
    }
}

fn config(attempts: u32, timeout: Duration) -> RetryConfig {
    RetryConfig::default()
        .with_max_attempts(attempts)
        .with_attempt_timeout(timeout)
        .with_body_idle_timeout(timeout)
}

fn refusal(status: StatusCode, body: &[u8]) -> ProviderError {
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
        return ProviderError::Failing { status };
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
    },
    /// It made another charge under this key before.
    KeyReused,
    /// It refused a call that is in order.
    Refused {
        /// The status of its answer.
        status: StatusCode,
    },
    /// No answer came.
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
            Self::Failing { status } => write!(f, "the provider is failing with status {status}"),
            Self::KeyReused => f.write_str("the provider has another charge under this key"),
            Self::Refused { status } => write!(f, "the provider refused with status {status}"),
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
            | Self::Refused { .. }
            | Self::WrongAmount { .. } => None,
        }
    }
}
