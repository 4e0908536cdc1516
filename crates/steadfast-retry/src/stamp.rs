//! Until when a call may take, as requests tell it.

use http::Request;
use steadfast_http::{Deadline, grpc};
use tokio::time::Instant;

use crate::{limit::Limit, shared::Shared};

/// Tells what is beneath until when the attempt may take: layers by the extension, a gRPC server by `grpc-timeout`.
pub(crate) fn stamp<B>(request: &mut Request<B>, limit: Limit, shared: &Shared, now: Instant) {
    let deadline = limit.deadline();
    request.extensions_mut().insert(deadline);
    if shared.is_grpc() {
        let timeout = grpc::timeout_value(deadline.remaining(now));
        request.headers_mut().insert(grpc::TIMEOUT, timeout);
    }
}

/// Until when the caller waits: by the extension of its request, and by `grpc-timeout`.
pub(crate) fn deadline_of<B>(
    request: &Request<B>,
    shared: &Shared,
    now: Instant,
) -> Option<Deadline> {
    let header = || -> Option<Deadline> {
        let timeout = grpc::timeout(request.headers())?;
        now.checked_add(timeout).map(Deadline::at)
    };
    let configured = shared.config().deadline_from(now);
    let extension = request.extensions().get().copied();
    let header = if shared.is_grpc() { header() } else { None };
    [configured, extension, header].into_iter().flatten().min()
}

/// Whether [`deadline_of`] may find something in the request.
pub(crate) fn names_a_deadline<B>(request: &Request<B>, shared: &Shared) -> bool {
    request.extensions().get::<Deadline>().is_some()
        || shared.is_grpc() && request.headers().contains_key(grpc::TIMEOUT)
}
