use bytes::Bytes;
use http::{HeaderMap, Response};
use steadfast_http::{
    grpc,
    problem::{Problem, ProblemBase},
};

/// The protocol in which a request is refused. What is done with it does not depend on this: the client chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Grpc,
    Http,
}

impl Wire {
    /// That of the request with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if grpc::is_grpc(headers) {
            Self::Grpc
        } else {
            Self::Http
        }
    }

    pub(crate) fn refusal(self, problem: Problem, base: &ProblemBase) -> Response<Bytes> {
        match self {
            Self::Grpc => problem.into_grpc_response(),
            Self::Http => problem.into_response(base),
        }
    }
}
