use std::sync::Arc;

use tokio::sync::watch;

use super::soon;

/// A door in a handler: it counts who comes, and lets them through once it is open.
#[derive(Clone)]
pub(crate) struct Latch {
    arrivals: Arc<watch::Sender<u64>>,
    open: Arc<watch::Sender<bool>>,
}

impl Latch {
    pub(crate) fn new() -> Self {
        Self {
            arrivals: Arc::new(watch::Sender::new(0)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }

    pub(crate) async fn pass(&self) {
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    pub(crate) async fn reached(&self) {
        let mut arrivals = self.arrivals.subscribe();
        soon(arrivals.wait_for(|arrivals| *arrivals > 0))
            .await
            .unwrap();
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}
