//! Clients under load, and what they were told.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    client::{Client, of_amount},
    program::{PACE, eventually},
    provider::Ledger,
};

/// Clients that charge one amount after the other, each its own, and ask again until they have an answer.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicI64,
    failures: AtomicUsize,
    told: Mutex<Vec<Told>>,
}

/// What a client was told about its charge.
pub(crate) struct Told {
    amount: i64,
    body: Bytes,
    acknowledged: bool,
}

impl Told {
    fn key(&self) -> String {
        key(self.amount)
    }
}

fn key(amount: i64) -> String {
    format!("load-{amount}")
}

impl Load {
    /// So many clients, spread over the APIs.
    pub(crate) fn start(clients: usize, apis: &[Client]) -> Self {
        let shared = Arc::new(Shared::default());
        let mut load = JoinSet::new();
        for number in 0..clients {
            let apis = apis.to_vec();
            load.spawn(Arc::clone(&shared).run(apis, number));
        }
        Self {
            shared,
            clients: load,
        }
    }

    /// Waits for so many more answers.
    pub(crate) async fn answered(&self, more: usize) {
        let count = || self.shared.told.lock().unwrap().len();
        let goal = count() + more;
        eventually("progress under load", async || {
            (count() >= goal).then_some(())
        })
        .await;
    }

    /// Waits until so many more requests have failed.
    pub(crate) async fn failed(&self, more: usize) {
        let count = || self.shared.failures.load(Ordering::Relaxed);
        let goal = count() + more;
        eventually("a failure under load", async || {
            (count() >= goal).then_some(())
        })
        .await;
    }

    /// Lets each client finish its charge, and returns what they were told.
    pub(crate) async fn finish(self) -> Vec<Told> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        std::mem::take(&mut *self.shared.told.lock().unwrap())
    }
}

impl Shared {
    async fn run(self: Arc<Self>, apis: Vec<Client>, mut turn: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let amount = 1 + self.next.fetch_add(1, Ordering::Relaxed);
            loop {
                turn += 1;
                let api = &apis[turn % apis.len()];
                match api.try_charge(&key(amount), &of_amount(amount)).await {
                    Ok(answer) if answer.status == 201 => {
                        self.told.lock().unwrap().push(Told {
                            amount,
                            acknowledged: answer.is_acknowledged(),
                            body: answer.body,
                        });
                        break;
                    }
                    Ok(answer) => {
                        assert!(matches!(answer.status, 409 | 503), "{answer:?}");
                        assert!(answer.header("retry-after").is_some(), "{answer:?}");
                    }
                    Err(_) => {}
                }
                self.failures.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

/// Nothing was charged twice or in vain, and whoever asks again is told the same.
pub(crate) async fn check(told: &[Told], ledger: &Ledger, apis: &[Client]) {
    let mut charged: Vec<_> = ledger.charges.iter().map(|charge| charge.amount).collect();
    charged.sort_unstable();
    let mut answered: Vec<_> = told.iter().map(|told| told.amount).collect();
    answered.sort_unstable();
    assert_eq!(
        charged, answered,
        "each charge once, and each for an answer"
    );

    for (turn, told) in told.iter().enumerate() {
        let api = &apis[turn % apis.len()];
        let again = api
            .charge_until_answered(&told.key(), &of_amount(told.amount))
            .await;
        assert_eq!(again.status, 201);
        assert_eq!(again.body, told.body, "{}", told.key());
        if told.acknowledged {
            assert_eq!(again.replayed(), Some(true), "{}", told.key());
        }
    }
}
