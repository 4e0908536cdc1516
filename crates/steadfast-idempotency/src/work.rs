use std::any::Any;

use http::{Response, request::Parts};
use steadfast_core::idempotency::{Fingerprint, KeyDigest, OwnerId, Promise};
use steadfast_http::body::{Captured, ReplyBody, Reservation};

use crate::{join::Lead, wire::Wire};

/// Which operation a request asks for, and what of it.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) key: KeyDigest,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) wire: Wire,
}

/// A request that waits for its execution, and the service that will run it.
pub(crate) struct Work<S> {
    pub(crate) ticket: Ticket,
    pub(crate) inner: S,
    pub(crate) parts: Parts,
    pub(crate) body: Captured,
    /// Held until the handler is done: it may hold the bytes as long.
    pub(crate) reservation: Option<Reservation>,
}

/// The names of one execution: its own, and the one that its record gets when it is abandoned.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    pub(crate) owner: OwnerId,
    pub(crate) successor: OwnerId,
}

impl Drawn {
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut bytes = [[0; 16]; 2];
        getrandom::fill(bytes.as_flattened_mut())?;
        let [owner, successor] = bytes.map(OwnerId::from_bytes);
        Ok(Self { owner, successor })
    }
}

/// How one try to execute ended.
pub(crate) enum End<S, RB, E> {
    /// This is the answer.
    Answered(Result<Response<ReplyBody<RB>>, E>),
    /// Another owner executes the operation; the request is given back, with those who joined it.
    Busy(Box<(Work<S>, Lead)>),
    /// The handler panicked.
    Panicked(Box<dyn Any + Send>),
    /// The operation was started here, and its record is another owner's by now. What there is of it is given back.
    Superseded {
        ticket: Ticket,
        promise: Promise,
        own: Own<RB>,
    },
}

/// What a superseded execution has to say.
pub(crate) enum Own<RB> {
    /// The handler answered.
    Answer(Box<Response<ReplyBody<RB>>>),
    /// The handler was started, and cancelled.
    Lost,
    /// The handler was never started.
    Unstarted,
}
