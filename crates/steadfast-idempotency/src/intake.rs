use http::{HeaderMap, Request, request::Parts};
use steadfast_core::idempotency::{IdempotencyKey, KeyDigest};
use steadfast_http::{header::IDEMPOTENCY_KEY, problem::Problem};
use steadfast_store::StoreId;

use crate::{KeyRequirement, Operation, digest, refusal, shared::Settings};

/// What becomes of a request, as far as its head tells.
pub(crate) enum Intake<B> {
    /// The layer does not apply to it.
    Bypass(Request<B>),
    /// It is answered at once, and nothing was claimed.
    Refuse(Problem),
    /// It names an operation.
    Keyed(Keyed<B>),
}

/// A request that names an operation.
pub(crate) struct Keyed<B> {
    pub(crate) key: KeyDigest,
    pub(crate) parts: Parts,
    pub(crate) body: B,
}

pub(crate) fn intake<B>(settings: &Settings, store: StoreId, request: Request<B>) -> Intake<B> {
    let config = &settings.config;
    if !config.methods.contains(request.method()) {
        return Intake::Bypass(request);
    }

    let key = match key(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => {
            return match config.key {
                KeyRequirement::Optional => Intake::Bypass(request),
                KeyRequirement::Required => Intake::Refuse(refusal::missing_key()),
            };
        }
        Err(problem) => return Intake::Refuse(problem),
    };

    let (parts, body) = request.into_parts();
    let principal = match settings.scope.principal(&parts) {
        Ok(principal) => principal,
        Err(refused) => return Intake::Refuse(refusal::no_principal(refused)),
    };
    let key = digest::key(&digest::scope(&config.namespace, &principal), &key);
    if let Some(operation) = parts.extensions.get::<Operation>()
        && operation.is_claimed_in(store, &key)
    {
        return Intake::Bypass(Request::from_parts(parts, body));
    }

    Intake::Keyed(Keyed { key, parts, body })
}

fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(refusal::two_keys());
    }
    IdempotencyKey::parse(line.as_bytes())
        .map(Some)
        .map_err(refusal::malformed_key)
}
