/// What a store can keep. A layer whose promise needs more refuses the store at construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// An acknowledged transition survives the process and a crash of its host.
    pub durable: bool,
    /// Who can share the store's records.
    pub sharing: Sharing,
    /// Every transition compares the owner in the same atomic step, and no acknowledged claim of a lost owner is forgotten:
    /// what at most once needs, for as long as the store lives.
    pub fenced: bool,
}

impl Capabilities {
    /// What a store can keep.
    #[must_use]
    pub const fn new(durable: bool, sharing: Sharing, fenced: bool) -> Self {
        Self {
            durable,
            sharing,
            fenced,
        }
    }
}

/// Who can share a store's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Sharing {
    /// The tasks of one process.
    Process,
    /// The processes of one host.
    Host,
    /// Processes anywhere.
    Network,
}
