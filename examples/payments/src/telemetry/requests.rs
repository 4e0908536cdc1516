use std::thread;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use metrics::{Label, Unit, counter, describe_counter, describe_histogram, histogram};
use tokio::time::Instant;
use tracing::{Instrument, Span};

const REQUESTS: &str = "http_server_requests_total";
const DURATION: &str = "http_server_request_duration_seconds";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Longer ones are not worth a place in every line of the log.
const LONGEST_ID: usize = 64;

/// The route of a path that there is none for: a path of a client's own making would be a series of its own, and may hold anything.
const UNMATCHED: &str = "unmatched";

/// The methods that make series of their own; whoever sends requests may invent others.
const METHODS: [&str; 9] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE",
];
const OTHER_METHOD: &str = "_OTHER";

/// Asked every few seconds, by machines.
const QUIET: [&str; 2] = ["/healthz", "/metrics"];

/// Puts the request into a span, logs how it ended, counts and times it, and answers with its id. No header, path or query is
/// logged, but for the id that a proxy may have given it.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut watched = Watched::begin(request.method(), route, &id);

    let span = watched.span.clone();
    let mut response = next.run(request).instrument(span).await;

    watched.end(&response);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The id that a proxy in front gave the request, if it can stand in a log as it is; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match headers.get(REQUEST_ID) {
        Some(id) if (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(is_plain) => {
            id.clone()
        }
        Some(_) | None => HeaderValue::try_from(format!("{:016x}", fastrand::u64(..)))
            .expect("hexadecimal digits make a header"),
    }
}

/// A request that is being answered. It counts when it is dropped, however it ended.
struct Watched {
    method: &'static str,
    route: Option<MatchedPath>,
    status: Option<StatusCode>,
    begun: Instant,
    span: Span,
}

impl Watched {
    fn begin(method: &Method, route: Option<MatchedPath>, id: &HeaderValue) -> Self {
        let known = METHODS.into_iter().find(|known| *known == method.as_str());
        let method = known.unwrap_or(OTHER_METHOD);
        let span = tracing::info_span!(
            "request",
            method,
            route = name(route.as_ref()),
            request_id = id.to_str().unwrap_or_default(),
        );
        Self {
            method,
            route,
            status: None,
            begun: Instant::now(),
            span,
        }
    }

    fn end(&mut self, response: &Response) {
        let status = response.status();
        self.status = Some(status);
        let took_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let replayed = response.headers().get(REPLAYED);
        let replayed = replayed.map(|value| value == "true");
        let status = status.as_u16();
        self.span.in_scope(|| {
            if QUIET.contains(&name(self.route.as_ref())) {
                tracing::debug!(status, took_us, "answered");
            } else {
                tracing::info!(status, replayed, took_us, "answered");
            }
        });
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let status = match self.status {
            Some(status) => status.as_str().to_owned(),
            None if thread::panicking() => "error".to_owned(),
            None => {
                // A charge goes on without its client, in this span.
                self.span.in_scope(|| tracing::info!("the client has left"));
                "cancelled".to_owned()
            }
        };
        let labels = vec![
            Label::new("method", self.method),
            Label::new("route", name(self.route.as_ref()).to_owned()),
        ];
        histogram!(DURATION, labels.clone()).record(self.begun.elapsed().as_secs_f64());
        let status = Label::new("status", status);
        counter!(REQUESTS, [labels, vec![status]].concat()).increment(1);
    }
}

fn name(route: Option<&MatchedPath>) -> &str {
    route.map_or(UNMATCHED, MatchedPath::as_str)
}

pub(super) fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "requests, by how they were answered");
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "from the head of a request to the head of its answer"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(given: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(REQUEST_ID, given.parse().unwrap());
        }
        request_id(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn an_id_of_a_proxy_is_kept_if_it_is_plain() {
        let longest = "a".repeat(LONGEST_ID);
        for given in ["7b1d-A.b_9", &longest] {
            assert_eq!(id(Some(given)), given);
        }
        let too_long = "a".repeat(LONGEST_ID + 1);
        for given in ["", "a b", "a\"b", "a=b", &too_long] {
            assert_ne!(id(Some(given)), given);
        }
    }

    #[test]
    fn a_request_without_an_id_gets_one_of_its_own() {
        assert_eq!(id(None).len(), 16);
        assert_ne!(id(None), id(None));
    }
}
