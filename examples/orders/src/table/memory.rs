use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LIST_LIMIT, OrderRow};

/// Orders that are gone with the process, in the order they were placed.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<OrderRow>>>);

impl Memory {
    pub(super) fn place(&self, order: &OrderRow) -> OrderRow {
        let mut orders = self.lock();
        if let Some(kept) = orders.iter().find(|kept| kept.id == order.id) {
            return kept.clone();
        }
        orders.push(order.clone());
        order.clone()
    }

    pub(super) fn cancel(&self, account: &str, id: &str, operation: &str) -> Option<OrderRow> {
        let mut orders = self.lock();
        let order = orders
            .iter_mut()
            .find(|order| order.id == id && order.account == account)?;
        order
            .cancelled_by
            .get_or_insert_with(|| operation.to_owned());
        Some(order.clone())
    }

    pub(super) fn find(&self, account: &str, id: &str) -> Option<OrderRow> {
        self.lock()
            .iter()
            .find(|order| order.id == id && order.account == account)
            .cloned()
    }

    pub(super) fn list(&self, account: &str) -> Vec<OrderRow> {
        self.lock()
            .iter()
            .rev()
            .filter(|order| order.account == account)
            .take(LIST_LIMIT)
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OrderRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
