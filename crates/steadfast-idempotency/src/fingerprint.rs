use std::{fmt, sync::Arc};

use axum::extract::OriginalUri;
use bytes::Bytes;
use http::{HeaderName, Uri, header, request::Parts};
use steadfast_core::idempotency::Fingerprint;

use crate::digest::Framed;

/// The recipe that this crate offers, as of its version.
const STANDARD: u8 = 1;

/// A recipe of the service's own.
const CUSTOM: u8 = 0;

type Material = dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync;

/// What of a request makes it the same request.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) headers: Vec<HeaderName>,
    pub(crate) material: Option<Arc<Material>>,
}

impl Recipe {
    pub(crate) fn fingerprint(&self, request: &Parts, body: &Bytes) -> Fingerprint {
        match &self.material {
            Some(material) => custom(&material(request, body)),
            None => standard(&self.headers, request, body),
        }
    }

    /// The fingerprint as a stored one of this version was made; `None` if no recipe of that version is known.
    pub(crate) fn fingerprint_as_of(
        &self,
        version: u8,
        request: &Parts,
        body: &Bytes,
    ) -> Option<Fingerprint> {
        match (version, &self.material) {
            (STANDARD, _) => Some(standard(&self.headers, request, body)),
            (CUSTOM, Some(material)) => Some(custom(&material(request, body))),
            _ => None,
        }
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe")
            .field("headers", &self.headers)
            .field("custom", &self.material.is_some())
            .finish()
    }
}

fn custom(material: &[u8]) -> Fingerprint {
    let digest = Framed::new("steadfast.fingerprint.custom")
        .part(material)
        .finish();
    Fingerprint::new(CUSTOM, digest)
}

fn standard(headers: &[HeaderName], request: &Parts, body: &Bytes) -> Fingerprint {
    let uri = original_uri(request);
    let mut framed = Framed::new("steadfast.fingerprint.1")
        .part(request.method.as_str().as_bytes())
        .part(uri.path().as_bytes());

    let mut query: Vec<_> = match uri.query() {
        Some(query) => query.split('&').filter(|pair| !pair.is_empty()).collect(),
        None => Vec::new(),
    };
    query.sort_unstable();
    framed = framed.part(&count(query.len()));
    for pair in query {
        framed = framed.part(pair.as_bytes());
    }

    framed = framed.part(&content_type_essence(request));
    for name in headers {
        let values = request.headers.get_all(name);
        framed = framed
            .part(name.as_str().as_bytes())
            .part(&count(values.iter().count()));
        for value in values {
            framed = framed.part(value.as_bytes());
        }
    }
    Fingerprint::new(STANDARD, framed.part(body).finish())
}

fn count(number: usize) -> [u8; 8] {
    (number as u64).to_be_bytes()
}

/// axum strips the prefix of a nested router from the URI and keeps the whole one aside.
fn original_uri(request: &Parts) -> &Uri {
    match request.extensions.get::<OriginalUri>() {
        Some(OriginalUri(uri)) => uri,
        None => &request.uri,
    }
}

/// The media type in lower case, without its parameters.
fn content_type_essence(request: &Parts) -> Vec<u8> {
    let Some(value) = request.headers.get(header::CONTENT_TYPE) else {
        return Vec::new();
    };
    let essence = value.as_bytes().split(|&byte| byte == b';').next();
    essence
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            headers: vec![HeaderName::from_static("api-version")],
            material: None,
        }
    }

    fn parts(method: &str, uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_static(value));
        }
        request.body(()).unwrap().into_parts().0
    }

    fn fingerprint(parts: &Parts, body: &'static str) -> Fingerprint {
        recipe().fingerprint(parts, &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn what_a_request_asks_for_is_in_it() {
        let base = fingerprint(&parts("POST", "/a?x=1", &[]), "body");

        let others = [
            fingerprint(&parts("PATCH", "/a?x=1", &[]), "body"),
            fingerprint(&parts("POST", "/b?x=1", &[]), "body"),
            fingerprint(&parts("POST", "/a?x=2", &[]), "body"),
            fingerprint(&parts("POST", "/a", &[]), "body"),
            fingerprint(&parts("POST", "/a?x=1&x=1", &[]), "body"),
            fingerprint(&parts("POST", "/a?x=1", &[]), "bodY"),
            fingerprint(
                &parts("POST", "/a?x=1", &[("content-type", "text/plain")]),
                "body",
            ),
            fingerprint(&parts("POST", "/a?x=1", &[("api-version", "2")]), "body"),
        ];

        for other in others {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn what_differs_between_attempts_is_not() {
        let first = parts(
            "POST",
            "/a?x=1&y=2",
            &[
                ("content-type", "application/json; charset=utf-8"),
                ("traceparent", "00-1"),
            ],
        );
        let second = parts(
            "POST",
            "http://host.example/a?y=2&x=1",
            &[
                ("content-type", "Application/JSON"),
                ("traceparent", "00-2"),
            ],
        );

        assert_eq!(fingerprint(&first, "{}"), fingerprint(&second, "{}"));
    }

    #[test]
    fn a_nested_router_does_not_hide_the_path() {
        let mut nested = parts("POST", "/charges", &[]);
        nested
            .extensions
            .insert(OriginalUri(Uri::from_static("/v1/charges?x=1")));

        assert_eq!(
            fingerprint(&nested, ""),
            fingerprint(&parts("POST", "/v1/charges?x=1", &[]), "")
        );
    }

    #[test]
    fn a_custom_recipe_replaces_the_standard_one_and_knows_its_records() {
        let own = Recipe {
            material: Some(Arc::new(|_: &Parts, body: &Bytes| body.to_vec())),
            ..recipe()
        };
        let request = parts("POST", "/a", &[]);
        let body = Bytes::from_static(b"body");

        let custom = own.fingerprint(&request, &body);
        assert_eq!(
            custom,
            own.fingerprint(&parts("POST", "/b", &[]), &body),
            "only the body counts"
        );

        let old = recipe().fingerprint(&request, &body);
        assert_eq!(
            own.fingerprint_as_of(old.version(), &request, &body),
            Some(old)
        );
        assert_eq!(
            recipe().fingerprint_as_of(custom.version(), &request, &body),
            None
        );
        assert_eq!(own.fingerprint_as_of(200, &request, &body), None);
    }
}
