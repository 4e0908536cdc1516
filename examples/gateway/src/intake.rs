//! What is refused before anybody else sees it: requests that two servers may read in two ways.

use std::borrow::Cow;

use http::{HeaderMap, Method, Request, StatusCode, Version, header, uri::Authority};
use percent_encoding::percent_decode_str;

use crate::{headers, problem::Problem};

/// Looks at the head of a request, and says which host it is for.
///
/// The host of a target in absolute form counts, and not `Host` (RFC 9112 section 3.2.2); neither decides where the request goes.
pub(crate) fn check<B>(request: &Request<B>) -> Result<Option<Authority>, Problem> {
    if [Method::CONNECT, Method::TRACE].contains(request.method()) {
        return Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "method-refused",
            "the gateway opens no tunnels and traces nothing",
        ));
    }
    if !headers::is_plain_or_chunked(request.headers()) {
        return Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "transfer-coding-refused",
            "the gateway knows no transfer coding but chunked, said once",
        ));
    }
    if leaves_its_place(request.uri().path()) {
        return Err(Problem::bad_request(
            "path-refused",
            "a segment of the path is `.` or `..`",
        ));
    }
    host(request)
}

/// Whether a segment is `.` or `..`, for a server that decodes a path before it looks, takes `\` for `/`, or cuts parameters off.
pub(crate) fn leaves_its_place(path: &str) -> bool {
    let path: Cow<'_, [u8]> = percent_decode_str(path).into();
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| {
            let name = segment.split(|byte| *byte == b';').next();
            matches!(name, Some(b"." | b".."))
        })
}

/// The path as a server reads it that decodes it, takes `\` for `/`, and passes over parameters and empty segments. The root is empty.
pub(crate) fn plain(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut plain = String::with_capacity(decoded.len());
    for segment in decoded.split(['/', '\\']) {
        let name = segment.split(';').next().unwrap_or_default();
        if !name.is_empty() {
            plain.push('/');
            plain.push_str(name);
        }
    }
    plain
}

/// The host that a request is for. Only HTTP/1.0 has requests for none.
fn host<B>(request: &Request<B>) -> Result<Option<Authority>, Problem> {
    let named = named_host(request.headers())?;
    let host = request.uri().authority().cloned().or(named.clone());
    let is_missing = match request.version() {
        Version::HTTP_10 => false,
        // Required of a target in absolute form too.
        Version::HTTP_11 => named.is_none(),
        _ => host.is_none(),
    };
    let has_user = |host: &Authority| host.as_str().contains('@');
    if is_missing || host.as_ref().is_some_and(has_user) {
        return Err(HOST_REFUSED);
    }
    Ok(host)
}

fn named_host(headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
    let mut named = headers.get_all(header::HOST).iter();
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(HOST_REFUSED),
        },
        (Some(_), Some(_)) => Err(HOST_REFUSED),
    }
}

const HOST_REFUSED: Problem = Problem::bad_request(
    "host-refused",
    "the request names no host, more than one, or none that can be",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_place_however_it_is_read() {
        for path in [
            "/a/..",
            "/../a",
            "/a/./b",
            "/a/%2e%2E/b",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a/%5c../b",
            "/a/..;x=1/b",
        ] {
            assert!(leaves_its_place(path), "{path}");
        }
        for path in [
            "/", "", "/a", "/a/...", "/a/..b", "/a/.b/c", "/a/b..", "/a;../b", "/a//b",
        ] {
            assert!(!leaves_its_place(path), "{path}");
        }
    }

    #[test]
    fn the_plain_path_has_names_only() {
        for path in [
            "/s/x",
            "//s///x/",
            "/%73/x",
            "/s;a=b/x;c",
            "/;/s/x",
            "/s%2Fx",
            "\\s\\x",
        ] {
            assert_eq!(plain(path), "/s/x", "{path}");
        }
        assert_eq!(plain("/"), "");
    }
}
