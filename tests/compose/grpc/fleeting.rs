//! What an answer says of its moment, its session or the way it came: the first caller gets it, and no record keeps it.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

/// One header of each kind that is never stored and can stand in HTTP/2. A `date` is there too: the server leaves it as it is.
pub(super) const FLEETING: [(&str, &str); 31] = [
    ("access-control-allow-origin", "https://shop.example"),
    ("age", "7"),
    ("alt-svc", "clear"),
    ("authentication-info", "nextnonce=\"n\""),
    ("baggage", "a=b"),
    ("clear-site-data", "\"cache\""),
    (DATE, "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("endpoint-load-metrics-bin", "AQI"),
    ("grpc-retry-pushback-ms", "10"),
    ("grpc-server-stats-bin", "AAAB"),
    ("grpc-tags-bin", "AAAB"),
    ("grpc-trace-bin", "AAAB"),
    ("nel", "{}"),
    ("proxy-authenticate", "Basic"),
    ("ratelimit", "\"default\";r=1"),
    ("report-to", "{}"),
    ("reporting-endpoints", "a=\"https://shop.example\""),
    ("retry-after", "1"),
    ("server-timing", "db;dur=1"),
    ("set-cookie", "a=b"),
    (
        "traceparent",
        "00-11111111111111111111111111111111-2222222222222222-00",
    ),
    ("tracestate", "a=b"),
    ("via", "1.1 shop"),
    ("www-authenticate", "Bearer"),
    ("x-amzn-trace-id", "Root=1"),
    ("x-b3-spanid", "2222222222222222"),
    ("x-b3-traceid", "11111111111111111111111111111111"),
    ("x-cloud-trace-context", "1/2"),
    ("x-correlation-id", "c"),
    ("x-ratelimit-remaining", "1"),
    ("x-request-id", "r"),
];

/// The server writes its own where an answer has none.
pub(super) const DATE: &str = "date";

/// The names of [`FLEETING`].
pub(super) fn names() -> BTreeSet<&'static str> {
    FLEETING.iter().map(|(name, _)| *name).collect()
}

/// Puts them into the head, and into the trailers if there are any.
pub(super) fn add<B>(response: Response<B>) -> Response<tonic::body::Body>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let (mut head, body) = response.into_parts();
    extend(&mut head.headers);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            extend(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(head, tonic::body::Body::new(body))
}

fn extend(headers: &mut HeaderMap) {
    for (name, value) in FLEETING {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
}
