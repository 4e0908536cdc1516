//! Which series a call counts for.

use std::{
    collections::HashMap,
    net::Ipv6Addr,
    num::NonZeroUsize,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
};

use http::Request;
use steadfast_http::Destination;

use crate::series::Host;

/// The host of calls that find no place. The host of a request is in lower case: none is called so.
pub(crate) const OTHER: &str = "_OTHER";

/// The host of calls that name none, or none that can be a name.
pub(crate) const UNKNOWN: &str = "_UNKNOWN";

/// The series of one layer.
#[derive(Debug)]
pub(crate) enum Hosts {
    /// One host, whatever the request says.
    Fixed(Arc<Host>),
    Named(Named),
}

/// The host that the request names.
#[derive(Debug)]
pub(crate) struct Named {
    max: NonZeroUsize,
    /// A std lock: it is held for a few steps, of which none is a recorder's. What is known stays.
    known: RwLock<HashMap<Destination, Arc<Host>>>,
    other: Arc<Host>,
    unknown: Arc<Host>,
    is_described: Arc<AtomicBool>,
}

impl Hosts {
    pub(crate) fn fixed(name: Arc<str>) -> Self {
        Self::Fixed(Host::new(name, Arc::default()))
    }

    pub(crate) fn named(max: NonZeroUsize) -> Self {
        let is_described = Arc::<AtomicBool>::default();
        let host = |name: &str| Host::new(Arc::from(name), Arc::clone(&is_described));
        Self::Named(Named {
            max,
            known: RwLock::default(),
            other: host(OTHER),
            unknown: host(UNKNOWN),
            is_described,
        })
    }

    /// The series of the host that a request goes to.
    pub(crate) fn of<B>(&self, request: &Request<B>) -> Arc<Host> {
        match self {
            Self::Fixed(host) => Arc::clone(host),
            Self::Named(named) => named.of(Destination::of_request(request).without_scheme()),
        }
    }
}

impl Named {
    fn of(&self, destination: Destination) -> Arc<Host> {
        if !destination.host().is_some_and(is_name) {
            return Arc::clone(&self.unknown);
        }
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(host) = known.get(&destination) {
                return Arc::clone(host);
            }
            if known.len() >= self.max.get() {
                return Arc::clone(&self.other);
            }
        }
        // Not the one that shares its bytes with the request.
        let kept = destination.clone();
        drop(destination);
        let name = Arc::from(kept.to_string());
        let host = Host::new(name, Arc::clone(&self.is_described));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.max.get() && !known.contains_key(&kept) {
            return Arc::clone(&self.other);
        }
        Arc::clone(known.entry(kept).or_insert(host))
    }
}

/// Letters, digits, and what stands between them; or an IPv6 address. URIs and `Host` headers may say more than names do.
fn is_name(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[track_caller]
    fn assert_host(uri: &str, header: Option<&str>, expected: &str) {
        let mut request = Request::get(uri);
        if let Some(host) = header {
            request = request.header(header::HOST, host);
        }
        let hosts = Hosts::named(NonZeroUsize::MIN);
        assert_eq!(hosts.of(&request.body(()).unwrap()).name(), expected);
    }

    #[test]
    fn a_host_is_that_of_the_uri_in_lower_case_without_the_port_of_its_scheme() {
        for (uri, expected) in [
            ("https://Provider.Example/charges?key=1", "provider.example"),
            ("https://provider.example:443/", "provider.example"),
            ("http://provider.example:80/", "provider.example"),
            ("http://provider.example:443/", "provider.example:443"),
            (
                "http://user:secret@provider_1.example/",
                "provider_1.example",
            ),
            ("http://127.0.0.1:3001/", "127.0.0.1:3001"),
            ("http://[::1]:3001/", "[::1]:3001"),
        ] {
            assert_host(uri, Some("another"), expected);
        }
    }

    #[test]
    fn a_uri_without_a_host_is_that_of_the_header() {
        assert_host(
            "/charges",
            Some("Provider.example:8080"),
            "provider.example:8080",
        );
        // The scheme is not known.
        assert_host(
            "/charges",
            Some("provider.example:80"),
            "provider.example:80",
        );
        assert_host("/charges", Some("[::1]"), "[::1]");
        assert_host("/charges", None, UNKNOWN);
    }

    #[test]
    fn what_can_be_no_host_is_unknown_and_what_is_no_port_is_left_out() {
        let long = "h".repeat(Destination::MAX_HOST + 1);
        for header in [
            "",
            "not a host",
            "user:secret@provider.example",
            "a,b=c;d",
            "a%20b",
            "[zz]",
            "[::1",
            "[fe80::1%25eth0]",
            &long,
        ] {
            assert_host("/", Some(header), UNKNOWN);
        }
        assert_host("http://a,b=c;d/", None, UNKNOWN);
        assert_host("/", Some("x:notaport"), "x");
        assert_host("/", Some("user:password"), "user");
    }

    #[test]
    fn no_host_of_a_request_is_called_as_those_without_a_name_are() {
        assert_host("http://_OTHER/", None, "_other");
        assert_host("/", Some("_UNKNOWN"), "_unknown");
    }
}
