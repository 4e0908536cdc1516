//! One layer over one store that fails on command, a handler that is counted, and a client.

mod asked;
mod body;
mod client;
mod crowd;
pub(crate) mod grpc;
mod handler;
mod latch;
mod meter;
mod rival;
mod trace;
mod world;

pub(crate) use self::{
    asked::Asked,
    body::{Body, body, broken, channel, endless, with_trailers},
    client::{Answer, charge, keyed, poll_once, request},
    crowd::Crowd,
    handler::{Call, Handler, Inner, created},
    latch::Latch,
    meter::Meter,
    rival::Rival,
    trace::{Spans, Trace},
    world::{St, World, eventually, soon},
};

/// The error of an inner service, and of its bodies.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
