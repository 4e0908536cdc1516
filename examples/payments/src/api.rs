//! The routes of the API.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, State, rejection::PathRejection},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Serialize;
use steadfast::{
    http::problem::Code,
    idempotency::{IdempotencyLayer, Operation},
    store::DynStore,
};

use crate::{
    account::{Account, authenticate},
    charges::{Charge, Charges, ChargesError},
    problem::Problem,
    provider_client::{ProviderClient, ProviderError},
    request::ChargeRequest,
    telemetry::{Metrics, count_surplus_charge, observe},
};

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) charges: Charges,
    pub(crate) provider: ProviderClient,
    pub(crate) metrics: Metrics,
}

/// `idempotency` covers the one route that has effects. As a route layer it claims nothing for a 404 or 405, and it stands inside
/// authentication, whose account is its scope.
pub(crate) fn routes(api: Arc<Api>, idempotency: IdempotencyLayer<DynStore>) -> Router {
    let charges = post(create).route_layer(idempotency).get(list);
    Router::new()
        .route("/v1/charges", charges)
        .route("/v1/charges/{id}", get(show))
        .route_layer(middleware::from_fn(authenticate))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
        .layer(middleware::from_fn(observe))
}

/// Runs once for each operation, and again if nobody knows how the last execution ended, or after the record's retention. What
/// was done by then is found: the charge in the table, whose id is derived from the operation, or else at the provider, which
/// knows the derived key. The table comes first, since the provider may forget a key.
async fn create(
    State(api): State<Arc<Api>>,
    Extension(account): Extension<Account>,
    operation: Operation,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let request = ChargeRequest::parse(&headers, &body)?;
    let id = format!("{ID_PREFIX}{}", operation.derive("id"));

    let charge = match api.charges.find(account.id(), &id).await? {
        Some(kept) => kept,
        None => make(&api, &account, &operation, id, &request).await?,
    };
    if !request.is_met_by(&charge) {
        return Err(key_used_before());
    }

    tracing::info!(
        charge = charge.id,
        execution = operation.execution(),
        "charged"
    );
    Ok((StatusCode::CREATED, Json(ChargeBody::from(&charge))).into_response())
}

/// Charges at the provider and keeps the charge. Another execution may have kept its own meanwhile: that one is returned.
async fn make(
    api: &Api,
    account: &Account,
    operation: &Operation,
    id: String,
    request: &ChargeRequest,
) -> Result<Charge, Problem> {
    let key = operation.derive("charge");
    let made = api
        .provider
        .charge(&key, request.amount, &request.currency)
        .await?;
    let charge = Charge {
        id,
        account: account.id().to_owned(),
        amount: request.amount,
        currency: request.currency.clone(),
        order: request.order.clone(),
        customer: request.customer.clone(),
        provider_id: made.id,
        created: made.at,
    };
    let kept = api.charges.keep(&charge).await?;
    if kept.provider_id != charge.provider_id {
        tracing::error!(
            charge = kept.id,
            kept = kept.provider_id,
            surplus = charge.provider_id,
            "the provider made two charges with one key"
        );
        count_surplus_charge();
        return Err(Problem::unavailable_for(
            Code::OutcomeUnknown,
            "the card provider made more than one charge with this key; send the same request with the same key again to learn which one stands",
        ));
    }
    Ok(kept)
}

async fn list(
    State(api): State<Arc<Api>>,
    Extension(account): Extension<Account>,
) -> Result<Response, Problem> {
    let page = api.charges.list(account.id()).await?;
    let body = ListBody {
        object: "list",
        data: page.charges.iter().map(ChargeBody::from).collect(),
        has_more: page.has_more,
    };
    Ok(Json(body).into_response())
}

async fn show(
    State(api): State<Arc<Api>>,
    Extension(account): Extension<Account>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let charge = match id {
        Ok(Path(id)) if is_charge_id(&id) => api.charges.find(account.id(), &id).await?,
        Ok(_) | Err(_) => None,
    };
    match charge {
        Some(charge) => Ok(Json(ChargeBody::from(&charge)).into_response()),
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-charge",
            "this account has no charge with this id",
        )),
    }
}

/// It is well while its provider is not: it still gives the answers that it has, and a new process would call the provider no better.
async fn healthz(State(api): State<Arc<Api>>) -> Json<Health> {
    Json(Health {
        status: "ok",
        breaker: api.provider.circuit().as_str(),
    })
}

/// For a scraper: without a key, as the health check, since it tells of no account and of no charge.
async fn metrics(State(api): State<Arc<Api>>) -> ([(HeaderName, &'static str); 1], String) {
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4");
    ([content_type], api.metrics.render())
}

async fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        "there is nothing here",
    )
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no-such-method",
        "this path does not take this method",
    )
}

const ID_PREFIX: &str = "ch_";

/// Only what can be an id reaches the database.
fn is_charge_id(text: &str) -> bool {
    text.strip_prefix(ID_PREFIX)
        .is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    /// The state of the circuit breaker around the provider.
    breaker: &'static str,
}

#[derive(Serialize)]
struct ListBody<'a> {
    object: &'static str,
    data: Vec<ChargeBody<'a>>,
    has_more: bool,
}

/// A charge as clients see it.
#[derive(Serialize)]
struct ChargeBody<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    currency: &'a str,
    order: Option<&'a str>,
    customer: Option<&'a str>,
    status: &'static str,
    provider_id: &'a str,
    created: i64,
}

impl<'a> From<&'a Charge> for ChargeBody<'a> {
    fn from(charge: &'a Charge) -> Self {
        Self {
            id: &charge.id,
            object: "charge",
            amount: charge.amount,
            currency: &charge.currency,
            order: charge.order.as_deref(),
            customer: charge.customer.as_deref(),
            // A charge that did not succeed is never kept.
            status: "succeeded",
            provider_id: &charge.provider_id,
            created: charge.created,
        }
    }
}

/// The key outlived the record of its first use, and asks for something else.
fn key_used_before() -> Problem {
    Problem::key_reused(
        "an earlier charge was made with this key and another request; nothing was charged now, use a new key",
    )
}

/// A 503 says that the outcome is unknown: the next request with this key takes over at once.
impl From<ProviderError> for Problem {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::KeyReused => key_used_before(),
            ProviderError::LeftAlone { retry_after, took } => {
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                tracing::info!(took_us, ?retry_after, "the provider is left alone");
                Self::unavailable_for(
                    Code::CircuitOpen,
                    "the card provider was failing and is left alone for a while; an earlier call may have charged, so send the same request with the same key again",
                )
                .with_retry_after(retry_after)
            }
            ProviderError::Failing { retry_after, .. } => {
                no_answer(&error, retry_after.unwrap_or_default())
            }
            ProviderError::Elapsed | ProviderError::Unreachable(_) => {
                no_answer(&error, Duration::ZERO)
            }
            ProviderError::Refused { .. }
            | ProviderError::TooLarge
            | ProviderError::Unreadable(_)
            | ProviderError::WrongAmount { .. } => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "the provider cannot be understood"
                );
                Self::unavailable(
                    "provider-error",
                    "the card provider's answer cannot be understood; the charge may have been made, so send the same request with the same key again",
                )
            }
        }
    }
}

/// The client may come back after this time.
fn no_answer(error: &ProviderError, retry_after: Duration) -> Problem {
    tracing::warn!(
        error = error as &dyn Error,
        ?retry_after,
        "no answer from the provider"
    );
    Problem::unavailable(
        "provider-unavailable",
        "the card provider cannot be reached or is failing; the charge may have been made, so send the same request with the same key again",
    )
    .with_retry_after(retry_after)
}

impl From<ChargesError> for Problem {
    fn from(error: ChargesError) -> Self {
        tracing::error!(error = &error as &dyn Error, "the database failed");
        Self::unavailable(
            "database-unavailable",
            "the database cannot be used; send the same request again",
        )
    }
}
