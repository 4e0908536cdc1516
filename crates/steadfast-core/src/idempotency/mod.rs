//! One client intent, named by its key: the key itself, its digests, the life of its record, and what an outcome means for it.

mod digest;
mod key;
mod lifecycle;
mod outcome;
mod promise;

pub use digest::{DigestPrefix, Fingerprint, KeyDigest, OwnerId, ScopeDigest};
pub use key::{IdempotencyKey, MalformedKey};
pub use lifecycle::{
    Begun, Claim, Claimant, Completed, Execution, Facts, Indeterminate, Life, Place, Reap, Running,
    StoreTime, Terms, Transition,
};
pub use outcome::Outcome;
pub use promise::{Promise, UnknownPromise};
