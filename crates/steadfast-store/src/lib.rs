#![doc = include_str!("../README.md")]

mod capabilities;
mod dynamic;
mod error;
mod memory;
mod port;
mod reaper;
mod record;

pub use steadfast_core::idempotency::Transition;

pub use crate::{
    capabilities::{Capabilities, Sharing},
    dynamic::DynStore,
    error::{StoreError, StoreErrorKind},
    memory::{MemoryStore, MemoryStoreConfig},
    port::{Begin, Incident, Reaped, Resolution, Standing, Store, StoreId},
    reaper::{Reaper, ReaperConfig},
    record::{RecordSummary, Stage, StoredResponse},
};
