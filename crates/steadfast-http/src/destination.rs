use std::{
    fmt::{self, Write},
    hash::{Hash, Hasher},
    sync::Arc,
};

use http::{
    HeaderValue, Request, Uri, header,
    uri::{Authority, Scheme},
};

/// Where a request goes: scheme, host and port.
///
/// The case of a host does not matter, nor does a port that is the scheme's own, nor a name and password before the host. Path and
/// query are no part of it.
///
/// One that is made of a request shares its bytes, without an allocation, unless it is of a `Host` whose bytes nobody has shared yet:
/// that takes one. A clone has bytes of its own.
pub struct Destination {
    scheme: Option<Scheme>,
    host: Host,
    /// `None` if it is the scheme's own.
    port: Option<u16>,
}

enum Host {
    Unknown,
    Authority(Authority),
    /// The first so many bytes of it.
    Header(HeaderValue, usize),
    Own(Arc<str>),
}

impl Destination {
    /// 255 bytes: no host of a longer name can be found.
    pub const MAX_HOST: usize = 255;

    /// The destination of no known host.
    pub const UNKNOWN: Self = Self {
        scheme: None,
        host: Host::Unknown,
        port: None,
    };

    /// The destination of this URI; unknown if it has no host.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let Some(authority) = uri.authority() else {
            return Self::UNKNOWN;
        };
        let Some((_, port)) = split(after_user(authority.as_str())) else {
            return Self::UNKNOWN;
        };
        let scheme = uri.scheme().cloned();
        Self {
            port: port.filter(|&port| default_port(scheme.as_ref()) != Some(port)),
            scheme,
            host: Host::Authority(authority.clone()),
        }
    }

    /// The destination of this request: of its URI, or, where that is only a path, what is in `Host`, of which the scheme is not
    /// known.
    #[must_use]
    pub fn of_request<B>(request: &Request<B>) -> Self {
        if request.uri().authority().is_some() {
            return Self::of(request.uri());
        }
        match request.headers().get(header::HOST) {
            Some(host) => Self::of_header(host),
            None => Self::UNKNOWN,
        }
    }

    fn of_header(value: &HeaderValue) -> Self {
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(is_of_host));
        match text.and_then(split) {
            Some((host, port)) => Self {
                scheme: None,
                host: Host::Header(value.clone(), host.len()),
                port,
            },
            None => Self::UNKNOWN,
        }
    }

    /// The same host and port, of whatever scheme.
    #[must_use]
    pub fn without_scheme(self) -> Self {
        Self {
            scheme: None,
            ..self
        }
    }

    /// The scheme, if it is known.
    #[must_use]
    pub fn scheme(&self) -> Option<&str> {
        self.scheme.as_ref().map(Scheme::as_str)
    }

    /// The host, in the case in which it came; an IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.host {
            Host::Unknown => None,
            Host::Authority(authority) => {
                split(after_user(authority.as_str())).map(|(host, _)| host)
            }
            Host::Header(value, length) => value.to_str().ok()?.get(..*length),
            Host::Own(host) => Some(host),
        }
    }

    /// The port, unless it is that of the scheme, or not known.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

fn after_user(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// Host and port; `None` if that cannot be a host. A port that is no number is none, as for those who connect.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, rest) = text.split_at(end);
    if host.is_empty() || host.len() > Destination::MAX_HOST {
        return None;
    }
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok(),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some((host, port))
}

/// RFC 3986 section 3.2, without what stands before the host.
const fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'['
                | b']'
        )
}

fn default_port(scheme: Option<&Scheme>) -> Option<u16> {
    let is_any_of = |schemes: [&str; 2]| {
        schemes
            .iter()
            .any(|each| scheme.is_some_and(|scheme| scheme.as_str().eq_ignore_ascii_case(each)))
    };
    if is_any_of(["http", "ws"]) {
        Some(80)
    } else if is_any_of(["https", "wss"]) {
        Some(443)
    } else {
        None
    }
}

impl Clone for Destination {
    fn clone(&self) -> Self {
        let host = match (&self.host, self.host()) {
            (Host::Own(host), _) => Host::Own(Arc::clone(host)),
            (_, Some(host)) => Host::Own(host.to_ascii_lowercase().into()),
            (_, None) => Host::Unknown,
        };
        // Schemes other than http's two have the bytes of their request.
        let scheme = self
            .scheme
            .as_ref()
            .map(|scheme| Scheme::try_from(scheme.as_str()).unwrap_or_else(|_| scheme.clone()));
        Self {
            scheme,
            host,
            port: self.port,
        }
    }
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        let same_host = match (self.host(), other.host()) {
            (Some(host), Some(other)) => host.eq_ignore_ascii_case(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_host && self.port == other.port && self.scheme == other.scheme
    }
}

impl Eq for Destination {}

impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.host().unwrap_or_default().bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        self.port.hash(state);
        self.scheme.hash(state);
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(host) = self.host() else {
            return f.write_str("unknown");
        };
        if let Some(scheme) = &self.scheme {
            write!(f, "{scheme}://")?;
        }
        host.chars()
            .try_for_each(|each| f.write_char(each.to_ascii_lowercase()))?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

#[cfg(test)]
mod tests {
    use allocation_counter::measure;

    use super::*;

    fn of(uri: &str) -> Destination {
        Destination::of(&uri.parse().unwrap())
    }

    #[test]
    fn spellings_of_one_destination_are_equal_and_shown_alike() {
        for spelling in [
            "https://API.test/orders?key=1",
            "https://api.test:443",
            "https://user:password@api.test/",
        ] {
            assert_eq!(of(spelling), of("https://api.test"));
            assert_eq!(of(spelling).to_string(), "https://api.test");
        }
        assert_ne!(of("https://api.test"), of("http://api.test"));
        assert_ne!(of("https://api.test:80"), of("https://api.test"));
    }

    #[test]
    fn without_its_scheme_it_is_host_and_port() {
        let named = |uri| of(uri).without_scheme().to_string();

        assert_eq!(named("https://API.test:443/"), "api.test");
        assert_eq!(named("http://api.test:443/"), "api.test:443");
        assert_eq!(
            of("https://api.test").without_scheme(),
            of("http://api.test:80").without_scheme()
        );
        assert_eq!(of("/orders").without_scheme(), Destination::UNKNOWN);
    }

    #[test]
    fn only_the_first_look_at_a_host_header_may_allocate() {
        let of_uri = Request::get("https://user@api.test/orders").body(());
        let of_header =
            |host: HeaderValue| Request::get("/orders").header(header::HOST, host).body(());
        let fixed = of_header(HeaderValue::from_static("api.test"));
        let own = of_header(HeaderValue::from_str("api.test").unwrap());
        let looks = [of_uri, fixed, own].map(|request| {
            let request = request.unwrap();
            let look = || {
                let found = Destination::of_request(&request).without_scheme();
                assert_eq!(found.host(), Some("api.test"));
            };
            [measure(look), measure(look)].map(|cost| cost.count_total)
        });

        // `Bytes` that were made of a string are shared by their first clone.
        assert_eq!(looks, [[0, 0], [0, 0], [1, 0]]);
    }
}
