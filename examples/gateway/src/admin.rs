//! What operators see.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use steadfast::circuit_breaker::{BreakerRegistry, Destination, State};

use crate::{
    Body,
    config::Route,
    origin::Origin,
    problem::{Problem, whole},
};

/// Serves operators: `GET /healthz`.
#[derive(Clone, Debug)]
pub struct Admin {
    upstreams: Vec<Destination>,
    breakers: BreakerRegistry,
}

impl Admin {
    pub(crate) fn new(routes: &[Route], breakers: BreakerRegistry) -> Self {
        let origins = routes.iter().flat_map(|route| &route.upstreams);
        Self {
            upstreams: origins.map(Origin::destination).collect(),
            breakers,
        }
    }

    /// Answers one request.
    #[must_use]
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if request.uri().path() != "/healthz" {
            let detail = "there is only /healthz";
            return Problem::new(StatusCode::NOT_FOUND, "not-found", detail).into_response();
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let detail = "the state is only read";
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-refused", detail);
            let mut response = problem.into_response();
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let mut response = Response::new(whole(self.health().to_string()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// An open circuit is no illness of the gateway: it is `ok` as long as it answers.
    fn health(&self) -> Value {
        let states: Map<String, Value> = self
            .upstreams
            .iter()
            .map(|upstream| (upstream.to_string(), self.state(upstream)))
            .collect();
        json!({ "status": "ok", "breakers": states })
    }

    fn state(&self, upstream: &Destination) -> Value {
        let Some(breaker) = self.breakers.get(upstream) else {
            // It was not called yet.
            return json!({ "state": State::Closed.as_str(), "failures_in_a_row": 0, "open_for_ms": 0 });
        };
        let snapshot = breaker.snapshot();
        json!({
            "state": snapshot.state().as_str(),
            "failures_in_a_row": snapshot.consecutive_failures(),
            "open_for_ms": u64::try_from(snapshot.open_left().as_millis()).unwrap_or(u64::MAX),
        })
    }
}
