//! A fake card provider with its own ledger and a fault switch. Everything is in memory.

mod faults;
mod ledger;
mod server;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use self::{
    faults::{Effect, Faults},
    ledger::{Ledger, Order, Refused},
};

pub use self::server::serve;

/// The provider: one ledger and one fault switch, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Provider(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    ledger: Ledger,
    faults: Faults,
}

impl Provider {
    /// Its routes. [`serve`] serves them: a server that does not know of lost responses would send them.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/charges", post(charge))
            .route("/ledger", get(show_ledger))
            .route("/faults", put(set_faults))
            .with_state(self.clone())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a response that must not reach the caller.
#[derive(Clone, Copy, Debug)]
struct Lost;

#[derive(Deserialize)]
struct ChargeBody {
    amount: i64,
    currency: String,
}

async fn charge(State(provider): State<Provider>, headers: HeaderMap, body: Bytes) -> Response {
    let (effect, mut response) = {
        let mut books = provider.books();
        books.ledger.count_call();
        let effect = books.faults.strike();
        let response = match effect {
            Effect::Refuse => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "the provider is down",
            ),
            Effect::None | Effect::Delay(_) | Effect::Lose => {
                let dedupe = books.faults.dedupe;
                match make(&mut books.ledger, &headers, &body, dedupe) {
                    Ok(made) => made,
                    Err(refused) => refused,
                }
            }
        };
        (effect, response)
    };
    match effect {
        Effect::Delay(latency) => tokio::time::sleep(latency).await,
        Effect::Lose => {
            response.extensions_mut().insert(Lost);
        }
        Effect::None | Effect::Refuse => {}
    }
    response
}

/// Makes the charge, or finds the one with this key.
#[expect(
    clippy::result_large_err,
    reason = "both are the response that is sent"
)]
fn make(
    ledger: &mut Ledger,
    headers: &HeaderMap,
    body: &[u8],
    dedupe: bool,
) -> Result<Response, Response> {
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| {
            refuse(
                StatusCode::BAD_REQUEST,
                "malformed_key",
                "the key is not text",
            )
        })?),
    };
    let body: ChargeBody = serde_json::from_slice(body).map_err(|error| {
        refuse(
            StatusCode::BAD_REQUEST,
            "invalid_charge",
            &error.to_string(),
        )
    })?;
    if body.amount < 1 {
        return Err(refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_charge",
            "the amount must be positive",
        ));
    }

    let order = Order {
        key,
        amount: body.amount,
        currency: &body.currency,
    };
    match ledger.charge(order, now(), dedupe) {
        Ok(charge) => Ok((StatusCode::CREATED, Json(charge)).into_response()),
        Err(Refused::KeyReused) => Err(refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
            "the key belongs to another charge",
        )),
        Err(Refused::NoRandomness(error)) => {
            tracing::error!(%error, "the provider has no randomness");
            Err(refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the charge could not be named",
            ))
        }
    }
}

async fn show_ledger(State(provider): State<Provider>) -> Response {
    Json(&provider.books().ledger).into_response()
}

async fn set_faults(State(provider): State<Provider>, body: Bytes) -> Response {
    let faults = match serde_json::from_slice::<Faults>(&body) {
        Ok(faults) => faults,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "invalid_faults",
                &error.to_string(),
            );
        }
    };
    if let Err(message) = faults.check() {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, "invalid_faults", message);
    }
    provider.books().faults = faults;
    Json(faults).into_response()
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    (status, Json(body)).into_response()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the provider stands for another company, whose clock is its own"
)]
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock stands after 1970")
        .as_secs()
}
