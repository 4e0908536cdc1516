//! Where a call goes, in the words of a label.

use http::{HeaderMap, Uri, header, uri::Authority};

/// The host of a request that names none.
pub(crate) const UNKNOWN: &str = "unknown";

/// A name in the domain name system has at most 253 characters (RFC 1035 section 2.3.4, less what its wire form adds), a port five
/// digits and its colon.
const MAX_LEN: usize = 259;

/// The host that a request goes to, as it is written there: by that it is looked up, without an allocation.
pub(crate) fn written<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let of_uri = uri.authority().map(Authority::as_str);
    let of_header = || {
        headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
    };
    let authority = of_uri.or_else(of_header).unwrap_or(UNKNOWN);
    // What stands before it may be a password.
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => host,
        None => authority,
    };
    if host.len() <= MAX_LEN { host } else { UNKNOWN }
}

/// What a host that is written so is called.
pub(crate) fn label(written: &str) -> String {
    match written.parse::<Authority>() {
        Ok(host) => host.as_str().to_ascii_lowercase(),
        // A `Host` header may say anything.
        Err(_) => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn assert_host(uri: &str, header: Option<&str>, expected: &str) {
        let mut headers = HeaderMap::new();
        if let Some(host) = header {
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        assert_eq!(label(written(&uri.parse().unwrap(), &headers)), expected);
    }

    #[test]
    fn a_host_is_that_of_the_uri_in_lower_case_with_the_port_that_is_written() {
        assert_host(
            "https://Provider.Example/charges?key=1",
            None,
            "provider.example",
        );
        assert_host("http://127.0.0.1:3001/", Some("other"), "127.0.0.1:3001");
        assert_host("http://[::1]:3001/", None, "[::1]:3001");
    }

    #[test]
    fn user_information_is_left_out() {
        assert_host(
            "http://user:secret@provider.example/",
            None,
            "provider.example",
        );
        assert_host(
            "/",
            Some("user:secret@provider.example"),
            "provider.example",
        );
    }

    #[test]
    fn a_uri_without_a_host_is_that_of_the_header() {
        assert_host(
            "/charges",
            Some("Provider.example:8080"),
            "provider.example:8080",
        );
        assert_host("/charges", None, UNKNOWN);
    }

    #[test]
    fn a_host_that_cannot_be_one_is_unknown() {
        assert_host("/", Some("not a host"), UNKNOWN);
        assert_host("/", Some(&"h".repeat(MAX_LEN + 1)), UNKNOWN);
        assert_host("/", Some(""), UNKNOWN);
    }
}
