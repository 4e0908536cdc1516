//! What a proxy changes in the heads of messages.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
    uri::Authority,
};

/// This gateway in `Via`, instead of its address.
const NAME: &str = "steadfast-gateway";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// RFC 9110 section 7.6.1, and what is between a client and a proxy.
const OF_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What RFC 9110 section 6.5.1 keeps out of trailers (framing, routing, authentication, modifiers of the request, the form of the
/// content), and by what upstreams know whom a request is for.
const NOT_IN_TRAILERS: [HeaderName; 33] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::EXPIRES,
    header::FORWARDED,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::RANGE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TRAILER,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HeaderName::from_static("idempotency-key"),
];

/// Whom a request comes from, and how.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) client: SocketAddr,
    pub(crate) version: Version,
    /// The host that it asked for.
    pub(crate) host: Option<Authority>,
}

/// Makes the headers of a request those of the gateway's own. What the client says of whom it forwards for is not passed on: anybody
/// can say it.
pub(crate) fn of_request(headers: &mut HeaderMap, sender: &Sender, to_http2: bool) {
    let takes_trailers = takes_trailers(headers);
    remove_those_of_the_connection(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if !to_http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    add_via(headers, sender.version);
    if !to_http2 {
        join_cookies(headers);
    }
    // hyper has answered it, with 100 when the body is first read.
    headers.remove(header::EXPECT);

    // The transport names the upstream.
    headers.remove(header::HOST);
    headers.remove(header::FORWARDED);
    let client = sender.client.ip().to_canonical().to_string();
    insert_text(headers, FORWARDED_FOR, &client);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    match &sender.host {
        Some(host) => insert_text(headers, FORWARDED_HOST, host.as_str()),
        None => _ = headers.remove(FORWARDED_HOST),
    }
}

/// Makes the headers of an upstream's response those of the gateway's own.
pub(crate) fn of_response(headers: &mut HeaderMap, version: Version) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112 section 6.3: the length is not that of the body.
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_those_of_the_connection(headers);
    add_via(headers, version);
}

/// Takes out of trailers what a recipient may take for a header.
pub(crate) fn of_trailers(trailers: &mut HeaderMap) {
    remove_those_of_the_connection(trailers);
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

/// Whether a body is coded for the connection in no other way than by chunks. hyper undoes no other coding, whatever the header says.
pub(crate) fn is_plain_or_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// HTTP/2 may split them over lines, of which HTTP/1.1 takes one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1 {
        let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
        headers.insert(header::COOKIE, joined.expect("values make a value"));
    }
}

fn remove_those_of_the_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = members(headers, &header::CONNECTION)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// RFC 9110 section 10.1.4. gRPC's servers ask for it.
fn takes_trailers(headers: &HeaderMap) -> bool {
    members(headers, &header::TE).any(|member| member.eq_ignore_ascii_case("trailers"))
}

/// RFC 9110 section 7.6.3.
fn add_via(headers: &mut HeaderMap, received: Version) {
    let protocol = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    let via = format!("{protocol} {NAME}");
    let via = via.parse().expect("a version and a name are a value");
    match headers.entry(header::VIA) {
        Entry::Occupied(mut others) => others.append(via),
        Entry::Vacant(none) => _ = none.insert(via),
    }
}

fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let value = text.parse().expect("an address or a host is a value");
    headers.insert(name, value);
}

/// The members of a list, over all lines of a header. What is not text is none.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}
