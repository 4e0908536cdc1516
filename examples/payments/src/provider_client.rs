//! Calls the card provider.

use std::{error::Error, fmt, time::Duration};

use http::StatusCode;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::json;

/// A client of one provider, shared by its clones.
#[derive(Clone, Debug)]
pub struct ProviderClient {
    http: Client,
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
    /// A client whose every call takes `timeout` at most, from connecting to the last byte of the answer.
    ///
    /// # Errors
    ///
    /// The system does not let a client be made.
    pub fn new(provider: &Url, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .no_proxy()
            // A redirected POST may be sent twice, or become a GET.
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .build()?;
        let base = provider.as_str().trim_end_matches('/');
        Ok(Self {
            http,
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
        let response = self
            .http
            .post(&self.charges)
            .header("idempotency-key", key)
            .json(&json!({"amount": amount, "currency": currency}))
            .send()
            .await
            .map_err(ProviderError::Unreachable)?;
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
    /// No answer came in time.
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
            Self::Failing { .. }
            | Self::KeyReused
            | Self::Refused { .. }
            | Self::WrongAmount { .. } => None,
        }
    }
}
