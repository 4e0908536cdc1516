//! Where an upstream is.

use std::str::FromStr;

use http::{
    Uri,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use steadfast::circuit_breaker::Destination;

/// Scheme, host and port of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Always `http`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
}

impl Origin {
    /// The URI of this path there.
    pub(crate) fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and path make a URI")
    }

    /// By which its breaker is known.
    pub(crate) fn destination(&self) -> Destination {
        Destination::of(&self.uri(PathAndQuery::from_static("/")))
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        let parts = uri.into_parts();
        let path = parts
            .path_and_query
            .as_ref()
            .map_or("/", |path| path.as_str());
        match (parts.scheme, parts.authority) {
            (Some(scheme), Some(authority))
                if scheme == Scheme::HTTP && path == "/" && can_be_reached(&authority) =>
            {
                Ok(Self { scheme, authority })
            }
            _ => Err(format!("{text:?} is not like http://host:port")),
        }
    }
}

/// A host, and a port if there is one. `http` takes any number for a port.
fn can_be_reached(authority: &Authority) -> bool {
    let host = authority.host();
    match authority.as_str().strip_prefix(host) {
        Some("") => !host.is_empty(),
        Some(_) => !host.is_empty() && authority.port_u16().is_some_and(|port| port > 0),
        // There is a user before it.
        None => false,
    }
}
