use http::{HeaderMap, Request, request::Parts};
use steadfast_core::idempotency::{IdempotencyKey, KeyDigest};
use steadfast_http::{header::IDEMPOTENCY_KEY, problem::Problem};
use steadfast_store::StoreId;

use crate::{KeyRequirement, Operation, digest, refusal, shared::Settings, wire::Wire};

/// Whether a request names an operation, as far as its method, its path and its key tell.
pub(crate) enum Named {
    By(IdempotencyKey),
    /// The layer does not apply to it.
    No,
    /// It is answered at once.
    Refused(Problem),
}

/// Looks at a request without moving it: most that come here are not covered.
pub(crate) fn named<B>(settings: &Settings, request: &Request<B>) -> Named {
    let config = &settings.config;
    if !config
        .coverage
        .covers(request.method(), request.uri().path())
    {
        return Named::No;
    }
    match (key(request.headers()), config.key) {
        (Ok(Some(key)), _) => Named::By(key),
        (Ok(None), KeyRequirement::Optional) => Named::No,
        (Ok(None), KeyRequirement::Required) => Named::Refused(refusal::missing_key()),
        (Err(problem), _) => Named::Refused(problem),
    }
}

/// What becomes of a request that has a key.
pub(crate) enum Intake<B> {
    /// Another layer on the path holds its operation.
    Bypass(Request<B>),
    Keyed(Keyed<B>),
    /// It is answered at once, and nothing was claimed.
    Refused(Problem),
}

/// A request that names an operation.
pub(crate) struct Keyed<B> {
    pub(crate) key: KeyDigest,
    pub(crate) wire: Wire,
    pub(crate) parts: Parts,
    pub(crate) body: B,
}

/// Finds out whose key it is.
pub(crate) fn intake<B>(
    settings: &Settings,
    store: StoreId,
    wire: Wire,
    request: Request<B>,
    key: &IdempotencyKey,
) -> Intake<B> {
    let (parts, body) = request.into_parts();
    let principal = match settings.scope.principal(&parts) {
        Ok(principal) => principal,
        Err(refused) => return Intake::Refused(refusal::no_principal(refused)),
    };
    let scope = digest::scope(&settings.config.namespace, &principal);
    let key = digest::key(&scope, key);
    if let Some(operation) = parts.extensions.get::<Operation>()
        && operation.is_claimed_in(store, &key)
    {
        return Intake::Bypass(Request::from_parts(parts, body));
    }
    Intake::Keyed(Keyed {
        key,
        wire,
        parts,
        body,
    })
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
