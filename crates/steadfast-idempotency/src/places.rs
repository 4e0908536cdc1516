use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use steadfast_core::idempotency::KeyDigest;

use crate::metrics::{Counted, Metrics};

/// The places of those who wait for an execution, so many for each key and so many in all, and of those who wait for a claim.
pub(crate) struct Places {
    most: usize,
    most_per_key: usize,
    most_for_claims: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    for_claims: usize,
    by_key: HashMap<KeyDigest, usize>,
}

impl Places {
    pub(crate) fn new(most: usize, most_per_key: usize, most_for_claims: usize) -> Self {
        Self {
            most,
            most_per_key,
            most_for_claims,
            taken: Arc::default(),
        }
    }

    /// A place to wait for the execution of this key, unless too many wait already.
    pub(crate) fn take(&self, key: &KeyDigest, metrics: &Metrics) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let of_key = taken.by_key.get(key).copied().unwrap_or(0);
        if taken.all >= self.most || of_key >= self.most_per_key {
            return None;
        }
        taken.all += 1;
        taken.by_key.insert(*key, of_key + 1);
        Some(self.place(Some(*key), metrics))
    }

    /// A place to wait for a claim, unless too many wait already.
    pub(crate) fn take_for_claim(&self, metrics: &Metrics) -> Option<Place> {
        let mut taken = lock(&self.taken);
        if taken.for_claims >= self.most_for_claims {
            return None;
        }
        taken.for_claims += 1;
        Some(self.place(None, metrics))
    }

    fn place(&self, key: Option<KeyDigest>, metrics: &Metrics) -> Place {
        Place {
            key,
            taken: Arc::clone(&self.taken),
            _counted: metrics.waiting(),
        }
    }
}

/// Held while a request waits.
pub(crate) struct Place {
    /// None: it is for a claim.
    key: Option<KeyDigest>,
    taken: Arc<Mutex<Taken>>,
    _counted: Counted,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let Some(key) = self.key else {
            taken.for_claims -= 1;
            return;
        };
        taken.all -= 1;
        if let Some(of_key) = taken.by_key.get_mut(&key) {
            *of_key -= 1;
            if *of_key == 0 {
                taken.by_key.remove(&key);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_key_and_in_all_and_given_back() {
        let metrics = Metrics::new("default");
        let places = Places::new(3, 2, 1);
        let [one, another] = [1, 2].map(|byte| KeyDigest::from_bytes([byte; 32]));

        let first = places.take(&one, &metrics);
        let second = places.take(&one, &metrics);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(&one, &metrics).is_none());
        let third = places.take(&another, &metrics);
        assert!(third.is_some());
        assert!(places.take(&another, &metrics).is_none());

        drop((first, third));
        assert!(places.take(&one, &metrics).is_some());
        drop(second);
        assert!(lock(&places.taken).by_key.is_empty());
    }

    #[test]
    fn who_waits_for_a_claim_takes_no_place_of_the_others() {
        let metrics = Metrics::new("default");
        let places = Places::new(1, 1, 1);

        let for_claim = places.take_for_claim(&metrics);
        assert!(for_claim.is_some() && places.take_for_claim(&metrics).is_none());
        let key = KeyDigest::from_bytes([1; 32]);
        assert!(places.take(&key, &metrics).is_some());

        drop(for_claim);
        assert!(places.take_for_claim(&metrics).is_some());
    }
}
