use std::{any::Any, future::poll_fn};

use http::{Request, Response, request::Parts};
use steadfast_core::idempotency::{Fingerprint, KeyDigest, OwnerId, ScopeDigest};
use steadfast_http::body::{Captured, CapturedBody, ReplyBody};
use tower_service::Service;

/// Which operation a request asks for, and what of it.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) scope: ScopeDigest,
    pub(crate) key: KeyDigest,
    pub(crate) fingerprint: Fingerprint,
}

/// A request that waits for its execution, and the service that will run it.
pub(crate) struct Work<S> {
    pub(crate) ticket: Ticket,
    pub(crate) inner: S,
    pub(crate) parts: Parts,
    pub(crate) body: Captured,
}

impl<S> Work<S> {
    pub(crate) const fn new(inner: S, parts: Parts, body: Captured, ticket: Ticket) -> Self {
        Self {
            ticket,
            inner,
            parts,
            body,
        }
    }

    pub(crate) async fn ready<B>(&mut self) -> Result<(), S::Error>
    where
        S: Service<Request<CapturedBody<B>>>,
    {
        poll_fn(|cx| self.inner.poll_ready(cx)).await
    }

    /// Frees what the inner service reserved for a call that is not made yet.
    pub(crate) fn give_readiness_back(&mut self)
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
    }
}

/// The names of one execution: its own, and the one that its record gets when it is abandoned.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    pub(crate) owner: OwnerId,
    pub(crate) successor: OwnerId,
}

impl Drawn {
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut owner = [0; 16];
        let mut successor = [0; 16];
        getrandom::fill(&mut owner)?;
        getrandom::fill(&mut successor)?;
        Ok(Self {
            owner: OwnerId::from_bytes(owner),
            successor: OwnerId::from_bytes(successor),
        })
    }
}

/// How one try to execute ended.
pub(crate) enum End<S, RB, E> {
    /// This is the answer.
    Answered(Result<Response<ReplyBody<RB>>, E>),
    /// Another owner executes the operation; the request is given back.
    Busy(Work<S>),
    /// The handler panicked.
    Panicked(Box<dyn Any + Send>),
    /// The operation was started here, and its record is another owner's by now. What the handler answered is given back, if it
    /// did.
    Superseded {
        ticket: Ticket,
        own: Option<Response<ReplyBody<RB>>>,
    },
}
