//! How many watches run at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tonic::Status;

use crate::account::Account;

/// Each watch looks at the table five times a second, whether or not anything happens.
const LIMIT: u32 = 20;

/// The watches that run, counted for each account.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches(Arc<Mutex<HashMap<String, u32>>>);

impl Watches {
    /// Counts one more, as long as what is returned lives; RESOURCE_EXHAUSTED if the account has enough.
    pub(crate) fn begin(&self, account: &Account) -> Result<Watching, Status> {
        let mut counts = self.lock();
        let count = counts.entry(account.id().to_owned()).or_default();
        if *count == LIMIT {
            return Err(Status::resource_exhausted(format!(
                "this account watches {LIMIT} orders already"
            )));
        }
        *count += 1;
        Ok(Watching {
            watches: self.clone(),
            account: account.id().to_owned(),
        })
    }

    fn end(&self, account: &str) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(account) {
            *count -= 1;
            if *count == 0 {
                counts.remove(account);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    watches: Watches,
    account: String,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watches.end(&self.account);
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn an_account_has_so_many_watches_and_another_when_one_ends() {
        let watches = Watches::default();
        let ours = Account::of_key("sk_ours");
        let begun = (0..LIMIT).map(|_| watches.begin(&ours).unwrap());
        let mut begun: Vec<_> = begun.collect();

        let refused = watches.begin(&ours).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(watches.begin(&Account::of_key("sk_theirs")).is_ok());
        begun.pop();
        begun.push(watches.begin(&ours).unwrap());
        assert!(watches.begin(&ours).is_err());
        drop(begun);
        assert!(watches.lock().is_empty());
    }
}
