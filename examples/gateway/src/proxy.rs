//! What happens to a request.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use steadfast::{
    circuit_breaker::BreakerRegistry,
    core::verdict::{SafetyClass, Verdict},
    http::{LocalRejection, classify::verdict_of_error, grpc},
};
use tower::ServiceExt;

use crate::{
    Body,
    config::{Config, Route},
    failure::Failure,
    headers::{self, Sender},
    intake,
    problem::Problem,
    stack::{self, Stack},
    trailers::Checked,
    upload::{Fate, Upload},
};

/// Serves clients: each request goes to an upstream of its route.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Longer prefixes first.
    routes: Arc<[(Route, Stack)]>,
    max_body: usize,
    /// How long a client may hold up an attempt, so that upstreams have the rest of it.
    upload_patience: Duration,
    upstream_http2: bool,
}

impl Proxy {
    /// A proxy whose upstreams are guarded by these breakers.
    pub(crate) fn new(config: &Config, breakers: &BreakerRegistry) -> Result<Self, Failure> {
        let transport = stack::transport(config);
        for prefix in &config.trust_idempotency_key {
            if !config.routes.iter().any(|route| route.prefix == *prefix) {
                let what =
                    format!("no route is for \"{prefix}/\", on which keys are to be trusted");
                return Err(Failure::new(what));
            }
        }
        let mut routes: Vec<(Route, Stack)> = Vec::new();
        for route in &config.routes {
            if routes.iter().any(|(other, _)| other.prefix == route.prefix) {
                return Err(Failure::new(format!("two routes are for {}", route.name())));
            }
            let stack = stack::stack(route, config, breakers, transport.clone())
                .map_err(|error| Failure::because("the limits cannot work together", error))?;
            routes.push((route.clone(), stack));
        }
        routes.sort_by_key(|(route, _)| std::cmp::Reverse(route.prefix.len()));
        Ok(Self {
            routes: routes.into(),
            max_body: config.limits.max_body,
            upload_patience: config.limits.attempt_timeout.min(config.limits.deadline) / 2,
            upstream_http2: config.upstream_http2,
        })
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt that is under way, and with HTTP/1 its connection. Whether the upstream has acted on it is
    /// then unknown.
    pub async fn answer(self, client: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let is_grpc = grpc::is_grpc(request.headers());
        match self.forward(client, request).await {
            Ok(response) => response,
            Err(problem) if is_grpc => problem.into_grpc_response(),
            Err(problem) => problem.into_response(),
        }
    }

    async fn forward(
        &self,
        client: SocketAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let sender = Sender {
            client,
            version: request.version(),
            host: intake::check(&request)?,
        };
        let (route, stack) = self.find(request.uri().path())?;
        if request.body().size_hint().lower() > self.max_body as u64 {
            return Err(Problem::body_too_large());
        }
        let is_idempotent = request.method().is_idempotent();
        let fate = Arc::new(Fate::default());
        let request = self.outgoing(request, &sender, Arc::clone(&fate));
        match send(stack.clone(), request).await {
            Ok(response) => {
                fate.answered();
                incoming(response)
            }
            Err(_) if fate.is_too_large() => Err(Problem::body_too_large()),
            Err(_) if fate.is_too_slow() => Err(BODY_TIMEOUT),
            Err(error) => {
                let problem = problem_of(&error, is_idempotent);
                let (route, error) = (route.name(), &error as &dyn Error);
                if problem == BODY_UNREADABLE {
                    tracing::debug!(route, error, "a client broke off");
                } else {
                    tracing::warn!(route, error, "an upstream gave no answer");
                }
                Err(problem)
            }
        }
    }

    /// The route of this path, if it is that of the path's plain form too: an upstream may read it so.
    fn find(&self, path: &str) -> Result<&(Route, Stack), Problem> {
        let route_of = |path: &str| self.routes.iter().position(|(route, _)| route.holds(path));
        let found = route_of(path).ok_or(NO_ROUTE)?;
        if route_of(&intake::plain(path)) != Some(found) {
            return Err(PATH_OF_TWO_ROUTES);
        }
        Ok(&self.routes[found])
    }

    /// The request as the gateway sends it. Its URI is still the client's: the stack aims it.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        sender: &Sender,
        fate: Arc<Fate>,
    ) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        headers::of_request(&mut head.headers, sender, self.upstream_http2);
        head.version = Version::HTTP_11;
        // The connection of the client is in them, for upgrades, of which there are none.
        head.extensions.clear();
        let body = Upload::new(body, self.max_body, self.upload_patience, fate);
        Request::from_parts(head, body.boxed_unsync())
    }
}

/// Says that the future is `Send`, which the compiler does not find out of a body that holds a `dyn`.
fn send(
    stack: Stack,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, legacy::Error>> + Send {
    stack.oneshot(request)
}

/// The response as the gateway sends it.
fn incoming(mut response: Response<Body>) -> Result<Response<Body>, Problem> {
    // What a layer refused is the gateway's own word.
    if response.extensions().get::<LocalRejection>().is_none() {
        // Nobody has asked for another protocol, nor for a coding.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            || !headers::is_plain_or_chunked(response.headers())
        {
            return Err(UPSTREAM_FAILED);
        }
        let version = response.version();
        headers::of_response(response.headers_mut(), version);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| Checked::new(body).boxed_unsync()))
}

/// There is no response: who is to blame, and may the request be sent again?
fn problem_of(error: &(dyn Error + 'static), is_idempotent: bool) -> Problem {
    match verdict_of_error(error) {
        Verdict::Ignored => BODY_UNREADABLE,
        Verdict::Failure(failure) if failure.class() == SafetyClass::NotProcessed => {
            UPSTREAM_UNREACHABLE
        }
        Verdict::Failure(_) | Verdict::Success | _ => UPSTREAM_FAILED.with_retryable(is_idempotent),
    }
}

const NO_ROUTE: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "no-route",
    "the gateway has no route for this path",
);

const PATH_OF_TWO_ROUTES: Problem = Problem::bad_request(
    "path-refused",
    "the path is one of two routes, depending on how it is read",
);

const BODY_TIMEOUT: Problem = Problem::new(
    StatusCode::REQUEST_TIMEOUT,
    "body-timeout",
    "the request body did not arrive in time",
)
.with_retryable(true);

const BODY_UNREADABLE: Problem =
    Problem::bad_request("body-unreadable", "the request body failed before its end")
        .with_retryable(true);

const UPSTREAM_UNREACHABLE: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "upstream-unreachable",
    "the request could not be handed to a server, and nothing was executed",
)
.with_retryable(true);

const UPSTREAM_FAILED: Problem = Problem::new(
    StatusCode::BAD_GATEWAY,
    "upstream-failed",
    "a server took the request and gave no answer that can be passed on; whether it was executed is unknown",
);
