//! A breaker for each destination, or for each of whatever else fails by itself.

mod key;
mod keyed;
mod slot;

use std::{
    fmt::{self, Display},
    hash::Hash,
    num::NonZeroUsize,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast_core::breaker::{BreakerConfig, InvalidBreaker, Rules, Transition};
use steadfast_http::Destination;
use tokio::time::Instant;

pub use self::key::{BreakerKey, PerDestination};
use self::{
    keyed::{Keyed, Place},
    slot::Slot,
};
use crate::{
    CircuitBreaker,
    admission::Held,
    notice::Hook,
    source::{Breakers, sealed::Sealed},
};

/// A breaker for each key, made when the key is first seen: by default for each [`Destination`]. A handle, whose clones share
/// everything.
///
/// Give it to a [`CircuitBreakerLayer`](crate::CircuitBreakerLayer) in place of a breaker. Which breaker a request is for is not
/// known before the request is there: the layer is ready when its inner service is, whatever the breakers say.
///
/// A request of a known key takes a lock that is shared with all others of its kind, and allocates nothing. One of a new key takes a
/// lock for itself, for a moment.
///
/// # Capacity
///
/// Whoever chooses the destination of a request chooses its key, and can choose more of them than there is memory for. The registry
/// keeps [1000](BreakerRegistry::DEFAULT_CAPACITY) breakers, or as many as [it is told](Self::with_capacity). With the default numbers each
/// costs about 2 KiB, and a quarter of one for each processor up to eight: 4 MiB for all, beside what a recorder of metrics keeps.
///
/// At the capacity, the breaker of a new key takes the place of another one that is not in use, has no handle outside, and has
/// nothing to say: closed, never open before, and without a failure in what it counts. What was not used for long goes first, by an
/// approximation: a queue, in which those that were used since their last turn get another one. A breaker that has something to say
/// may go once its key was not asked for in [ten minutes](BreakerRegistry::FORGET_AFTER), unless its open time is not over, or it was
/// commanded.
///
/// Where none of [64](BreakerRegistry::LOOKS) breakers may go, the request is one for the [overflow breaker](Self::overflow), which all such
/// requests of the next 100 ms share. It counts, and lets everything pass: who fills the registry with destinations that fail cannot stop the calls to
/// others.
///
/// # Names
///
/// In logs, metrics and rejections, a breaker has its key for a name. Exporters do not forget the labels that they have seen, even
/// if the breaker is gone. So there are as many names as the capacity, for the first keys, which they keep: multiply by about 16
/// series for each. The breakers of keys that come later are called `other`; there, the gauge of states is that of the last one which
/// changed. Hooks, and an event in the log, still tell of their keys. Keys that are not from outside are best: map those that are to
/// what is known.
pub struct BreakerRegistry<X = PerDestination, K = Destination> {
    shared: Arc<Shared<X, K>>,
}

struct Shared<X, K> {
    extractor: X,
    /// A std lock: it is held for a few steps and never over an await, and none of them runs what listens.
    keyed: RwLock<Keyed<K>>,
    origin: Instant,
    /// Until when there is no use in looking for room, in nanoseconds since the origin: or requests of new keys would keep those of
    /// known ones waiting, one look after the other.
    full_until: AtomicU64,
}

impl BreakerRegistry {
    /// 1000: more destinations than most programs have, and a few MiB.
    pub const DEFAULT_CAPACITY: usize = keyed::DEFAULT_CAPACITY;
    /// 10 minutes without a request: what was known of a destination by then says little of it.
    pub const FORGET_AFTER: Duration = slot::FORGET_AFTER;
    /// How many breakers are looked at for one that may go: 64, so that a new key costs microseconds at most.
    pub const LOOKS: usize = keyed::LOOKS;

    /// One for each [`Destination`]: scheme and authority of a request's URI, or else its `Host`.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn per_destination(config: BreakerConfig) -> Result<Self, InvalidBreaker> {
        Self::with_extractor(config, PerDestination)
    }
}

impl<X, K> BreakerRegistry<X, K>
where
    K: Clone + Eq + Hash + Display + Send + Sync + 'static,
{
    /// One for each of what `key` returns: the tenant, the shard, the method. The registry keeps clones of keys, and their `Display`
    /// as names: long ones count.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn by<Req>(config: BreakerConfig, key: X) -> Result<Self, InvalidBreaker>
    where
        X: Fn(&Req) -> K,
    {
        Self::with_extractor(config, key)
    }

    /// One for each key that `extractor` finds, which may be of a type that has a name.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn with_extractor(config: BreakerConfig, extractor: X) -> Result<Self, InvalidBreaker> {
        let keyed = RwLock::new(Keyed::new(Rules::new(config)?));
        let shared = Arc::new(Shared {
            extractor,
            keyed,
            origin: Instant::now(),
            full_until: AtomicU64::new(0),
        });
        Ok(Self { shared })
    }

    /// The most breakers that it keeps, here and in all clones. Default [1000](BreakerRegistry::DEFAULT_CAPACITY). Those that are there already stay.
    #[must_use]
    pub fn with_capacity(self, capacity: NonZeroUsize) -> Self {
        self.write().set_capacity(capacity);
        self
    }

    /// Other numbers for one key, here and in all clones. A breaker that is there already keeps its own.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn with_override(self, key: K, config: BreakerConfig) -> Result<Self, InvalidBreaker> {
        let rules = Rules::new(config)?;
        self.write().set_override(key, rules);
        Ok(self)
    }

    /// Calls `hook` with the name of the key and each transition of each breaker from now on, of those also that are not there yet,
    /// as [`CircuitBreaker::on_transition`] does for one.
    pub fn on_transition(&self, hook: impl Fn(&str, &Transition) + Send + Sync + 'static) {
        let hook: Hook = Arc::new(hook);
        self.write().add_hook(&hook);
    }

    /// The breaker of a key, if there is one. As long as the handle is there, the breaker is; after that, what was set by it may go
    /// with the breaker: hooks and subscriptions, but no command.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<CircuitBreaker> {
        self.read().find(key).map(Slot::handle)
    }

    /// All breakers but the one for overflow, in no order. As long as a handle is there, its breaker is.
    #[must_use]
    pub fn breakers(&self) -> Vec<(K, CircuitBreaker)> {
        let keyed = self.read();
        let breakers = keyed.iter();
        breakers
            .map(|(key, slot)| (key.clone(), slot.handle()))
            .collect()
    }

    /// The breaker of requests for which there is no place in the registry. It [only observes](CircuitBreaker::observe_only), until
    /// it is told otherwise: [closed by hand](CircuitBreaker::force_closed), it guards them all as one. It has the numbers that are
    /// no key's own, and the name `overflow`.
    #[must_use]
    pub fn overflow(&self) -> CircuitBreaker {
        if let Some(slot) = self.read().overflow() {
            return slot.handle();
        }
        let name = Arc::<str>::from(keyed::OVERFLOW);
        let rules = self.read().rules();
        let slot = Slot::new(Arc::clone(&name), name, rules, Instant::now());
        let handle = slot.handle();
        let left_over = self.write().keep_overflow(slot);
        let Some(left_over) = left_over else {
            // Under no lock: a subscriber is told of it.
            handle.observe_only();
            return handle;
        };
        drop(left_over);
        match self.read().overflow() {
            Some(slot) => slot.handle(),
            None => handle,
        }
    }

    /// How many breakers there are, without the one for overflow.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long a registry that was found full is taken for full.
    const RETRY_AFTER: Duration = Duration::from_millis(100);

    #[inline]
    fn hold_known(&self, key: &K) -> Option<Held> {
        self.read().find(key).map(Slot::hold)
    }

    #[cold]
    fn hold_new(&self, key: &K) -> Held {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.shared.origin);
        let full_until = Duration::from_nanos(self.shared.full_until.load(Ordering::Relaxed));
        if since < full_until {
            return self.hold_overflow();
        }
        let label = Arc::<str>::from(key.to_string());
        let place = self.write().prepare(key, &label, now);
        let slot = match place {
            Place::Taken(held) => return held,
            Place::None => {
                let until = since.saturating_add(Self::RETRY_AFTER).as_nanos();
                let until = u64::try_from(until).unwrap_or(u64::MAX);
                self.shared.full_until.store(until, Ordering::Relaxed);
                return self.hold_overflow();
            }
            Place::Free { plan, evicted } => {
                drop(evicted);
                plan.slot(label, now)
            }
        };
        let (held, left_over) = self.write().keep(key, slot, now);
        drop(left_over);
        held.unwrap_or_else(|| self.hold_overflow())
    }

    fn hold_overflow(&self) -> Held {
        if let Some(slot) = self.read().overflow() {
            return slot.hold();
        }
        let capacity = self.read().capacity();
        tracing::warn!(
            breaker = keyed::OVERFLOW,
            capacity,
            "all circuit breakers that are kept are in use or needed: calls of other keys are not guarded"
        );
        self.overflow().lanes.hold()
    }

    #[inline]
    fn read(&self) -> RwLockReadGuard<'_, Keyed<K>> {
        // What a key's own code has left half done when it panicked, is at worst a breaker that is not found, or stays.
        let keyed = self.shared.keyed.read();
        keyed.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keyed<K>> {
        let keyed = self.shared.keyed.write();
        keyed.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Req, X, K> Breakers<Req> for BreakerRegistry<X, K>
where
    X: BreakerKey<Req, Key = K>,
    K: Clone + Eq + Hash + Display + Send + Sync + 'static,
{
    #[inline]
    fn hold(&self, request: &Req) -> Held {
        let key = self.shared.extractor.key(request);
        self.hold_known(&key).unwrap_or_else(|| self.hold_new(&key))
    }

    /// Nobody knows yet which breaker will be asked.
    #[inline]
    fn would_admit(&self) -> bool {
        true
    }
}

impl<X, K> Sealed for BreakerRegistry<X, K> {}

impl<X, K> Clone for BreakerRegistry<X, K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<X, K> fmt::Debug for BreakerRegistry<X, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerRegistry").finish_non_exhaustive()
    }
}
