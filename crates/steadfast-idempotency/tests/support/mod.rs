//! One layer over one store that fails on command, a handler that is counted, and a client.

mod body;
mod client;
mod handler;
mod latch;
mod rival;
mod trace;
mod world;

pub(crate) use self::{
    body::{Body, body, broken, channel, endless, with_trailers},
    client::{Answer, charge, keyed, poll_once, request},
    handler::{Call, Handler, Inner, created},
    latch::Latch,
    rival::Rival,
    trace::{Spans, Trace},
    world::{St, World, eventually, soon},
};

/// The error of an inner service, and of its bodies.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
