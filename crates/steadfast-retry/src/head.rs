//! What is known of a request besides its body.

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use steadfast_http::IdempotentRequest;

use crate::{key::has_key, shared::Shared};

/// All of a request but its body.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
}

impl Head {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            extensions: request.extensions().clone(),
        }
    }

    pub(crate) fn with<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

/// What is known of the operation.
#[derive(Clone, Copy)]
pub(crate) struct Idempotence {
    by_method: bool,
    pub(crate) marked: bool,
}

impl Idempotence {
    pub(crate) fn of(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
        shared: &Shared,
    ) -> Self {
        let marked = extensions.get::<IdempotentRequest>().is_some()
            || shared.settings.trusts_key_header && has_key(headers);
        let by_method = if shared.is_grpc() {
            let methods = &shared.config().idempotent_grpc_methods;
            !methods.is_empty() && methods.contains(uri.path())
        } else {
            is_idempotent(method)
        };
        Self { by_method, marked }
    }

    pub(crate) const fn holds(self) -> bool {
        self.by_method || self.marked
    }
}

/// RFC 9110 section 9.2.2; and the method QUERY, of draft-ietf-httpbis-safe-method-w-body.
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "QUERY"
}
