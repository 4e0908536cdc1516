use http::{HeaderMap, Request, header, request::Parts};
use steadfast_core::idempotency::{IdempotencyKey, KeyDigest, ScopeDigest};
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
    pub(crate) scope: ScopeDigest,
    pub(crate) key: KeyDigest,
    pub(crate) parts: Parts,
    pub(crate) body: B,
}

pub(crate) fn intake<B>(settings: &Settings, store: StoreId, request: Request<B>) -> Intake<B> {
    let config = &settings.config;
    if !config.methods.contains(request.method()) || is_grpc(request.headers()) {
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
    let scope = digest::scope(&config.namespace, &principal);
    if let Some(operation) = parts.extensions.get::<Operation>()
        && operation.is_of(store, &scope)
    {
        return Intake::Bypass(Request::from_parts(parts, body));
    }

    Intake::Keyed(Keyed {
        scope,
        key: digest::key(&scope, &key),
        parts,
        body,
    })
}

/// A gRPC call keeps its outcome in trailers, and streams.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
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
