use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Charge, LIST_LIMIT};

/// Charges that are gone with the process, in the order they were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryCharges(Arc<Mutex<Vec<Charge>>>);

impl MemoryCharges {
    pub(super) fn keep(&self, charge: &Charge) -> Charge {
        let mut charges = self.lock();
        if let Some(kept) = charges.iter().find(|kept| kept.id == charge.id) {
            return kept.clone();
        }
        charges.push(charge.clone());
        charge.clone()
    }

    pub(super) fn find(&self, account: &str, id: &str) -> Option<Charge> {
        self.lock()
            .iter()
            .find(|charge| charge.id == id && charge.account == account)
            .cloned()
    }

    pub(super) fn list(&self, account: &str) -> Vec<Charge> {
        self.lock()
            .iter()
            .rev()
            .filter(|charge| charge.account == account)
            .take(LIST_LIMIT + 1)
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Charge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
