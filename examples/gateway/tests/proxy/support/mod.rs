mod client;
mod gateway;
mod raw;
mod upstream;

use std::time::Duration;

pub(crate) use self::{
    client::{Answer, Connection, Protocol, empty, text},
    gateway::Gateway,
    raw::Raw,
    upstream::{Reply, Upstream, dead, says},
};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until the condition holds, for a minute at most.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never happened: {what}");
}

/// Fails where it does not come within a minute.
pub(crate) async fn within<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, event)
        .await
        .expect("it never came")
}
