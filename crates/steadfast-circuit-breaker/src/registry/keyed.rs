//! The breakers that are kept, and which of them makes room for another.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    num::NonZeroUsize,
    sync::Arc,
};

use steadfast_core::breaker::Rules;
use tokio::time::Instant;

use super::slot::{Look, Slot};
use crate::{admission::Held, notice::Hook};

pub(super) const DEFAULT_CAPACITY: usize = 1000;
pub(super) const LOOKS: usize = 64;

/// The name of the breaker for what finds no place.
pub(super) const OVERFLOW: &str = "overflow";
/// The name of breakers that come after the last name was given.
const OTHER: &str = "other";

/// The maps hash with the hasher of std, whose keys nobody outside knows: whoever chooses the keys cannot make them collide.
pub(super) struct Keyed<K> {
    slots: HashMap<K, Slot>,
    /// Each key of the slots once. Its front has the next turn.
    turns: VecDeque<K>,
    capacity: usize,
    rules: Rules,
    overrides: HashMap<K, Rules>,
    hooks: Vec<Hook>,
    /// The names that were given, no more than the capacity.
    names: HashSet<Arc<str>>,
    overflow: Option<Slot>,
}

/// Where the breaker of a key may be.
pub(super) enum Place {
    /// There is one.
    Taken(Held),
    /// There is none, and room for this one. What made room for it is to be dropped under no lock: somebody may listen to it.
    Free {
        plan: Box<Plan>,
        evicted: Option<Slot>,
    },
    /// There is none, and no room.
    None,
}

/// What a breaker is made from, which takes too long to be done under a lock.
pub(super) struct Plan {
    name: Arc<str>,
    rules: Rules,
}

impl Plan {
    pub(super) fn slot(&self, label: Arc<str>, now: Instant) -> Slot {
        Slot::new(Arc::clone(&self.name), label, self.rules, now)
    }
}

impl<K: Clone + Eq + Hash> Keyed<K> {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            slots: HashMap::new(),
            turns: VecDeque::new(),
            capacity: DEFAULT_CAPACITY,
            rules,
            overrides: HashMap::new(),
            hooks: Vec::new(),
            names: HashSet::new(),
            overflow: None,
        }
    }

    pub(super) const fn set_capacity(&mut self, capacity: NonZeroUsize) {
        self.capacity = capacity.get();
    }

    pub(super) fn set_override(&mut self, key: K, rules: Rules) {
        self.overrides.insert(key, rules);
    }

    pub(super) fn add_hook(&mut self, hook: &Hook) {
        for slot in self.slots.values().chain(&self.overflow) {
            slot.add_hook(hook);
        }
        self.hooks.push(Arc::clone(hook));
    }

    /// Makes room for the breaker of this key, if there is none yet.
    pub(super) fn prepare(&mut self, key: &K, label: &Arc<str>, now: Instant) -> Place {
        if let Some(slot) = self.slots.get(key) {
            return Place::Taken(slot.hold());
        }
        let Ok(evicted) = self.make_room(now) else {
            return Place::None;
        };
        let rules = *self.overrides.get(key).unwrap_or(&self.rules);
        let name = self.name(label);
        let plan = Box::new(Plan { name, rules });
        Place::Free { plan, evicted }
    }

    /// Keeps the breaker of this key. Others may have been faster: gives it back if there is one, or no room any more.
    pub(super) fn keep(
        &mut self,
        key: &K,
        slot: Slot,
        now: Instant,
    ) -> (Option<Held>, Option<Slot>) {
        if let Some(known) = self.slots.get(key) {
            return (Some(known.hold()), Some(slot));
        }
        let Ok(evicted) = self.make_room(now) else {
            return (None, Some(slot));
        };
        let held = slot.hold_unused();
        self.tell_hooks(&slot);
        self.turns.push_back(key.clone());
        self.slots.insert(key.clone(), slot);
        (Some(held), evicted)
    }

    /// Keeps this breaker for what finds no place, if there is none yet.
    ///
    /// Gives it back if there is one.
    pub(super) fn keep_overflow(&mut self, slot: Slot) -> Option<Slot> {
        if self.overflow.is_some() {
            return Some(slot);
        }
        self.tell_hooks(&slot);
        self.overflow = Some(slot);
        None
    }

    fn tell_hooks(&self, slot: &Slot) {
        for hook in &self.hooks {
            slot.add_hook(hook);
        }
    }

    fn make_room(&mut self, now: Instant) -> Result<Option<Slot>, Full> {
        if self.slots.len() < self.capacity {
            return Ok(None);
        }
        self.evict(now).map(Some).ok_or(Full)
    }

    /// Takes out a breaker that may go: the first in the queue that was not used since its last turn, or else the first that was.
    fn evict(&mut self, now: Instant) -> Option<Slot> {
        let mut second_best = None;
        for _ in 0..LOOKS.min(self.turns.len()) {
            let key = self.turns.pop_front()?;
            let look = self.slots.get_mut(&key).map(|slot| slot.look(now));
            match look {
                // None has no breaker.
                Some(Look::Unused) | None => {
                    self.turns.extend(second_best);
                    return self.slots.remove(&key);
                }
                Some(Look::Used) if second_best.is_none() => second_best = Some(key),
                Some(Look::Used | Look::Needed) => self.turns.push_back(key),
            }
        }
        self.slots.remove(&second_best?)
    }

    /// What the breaker of this key is called. A breaker that comes again is called what it was.
    fn name(&mut self, label: &Arc<str>) -> Arc<str> {
        if let Some(name) = self.names.get(label) {
            return Arc::clone(name);
        }
        if self.names.len() >= self.capacity {
            return Arc::from(OTHER);
        }
        self.names.insert(Arc::clone(label));
        Arc::clone(label)
    }

    #[inline]
    pub(super) fn find(&self, key: &K) -> Option<&Slot> {
        self.slots.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Slot)> {
        self.slots.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn overflow(&self) -> Option<&Slot> {
        self.overflow.as_ref()
    }

    pub(super) const fn rules(&self) -> Rules {
        self.rules
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Nothing that was looked at may go.
struct Full;
