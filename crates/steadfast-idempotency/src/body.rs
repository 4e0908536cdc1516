use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body;
use steadfast_http::{
    BoxError,
    body::{Captured, Collected, Collector, Reservation, ended_by_limit},
    problem::Problem,
};
use steadfast_store::Store;
use tokio::time::timeout;

use crate::{refusal, shared::Shared};

/// How much of a refused body is read and thrown away, and for how long, so that its sender reads the refusal instead of a
/// reset connection.
const DISCARD_LIMIT: u64 = 16 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the whole request body, and says what is reserved for it. Until it is there nothing is claimed, and its sender may
/// leave.
pub(crate) async fn read<St, B>(
    shared: &Shared<St>,
    headers: &HeaderMap,
    body: B,
) -> Result<(Captured, Option<Reservation>), Problem>
where
    St: Store,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let config = &shared.settings.config;
    let mut collector =
        Collector::new(body, config.body_limit).with_reservation(shared.bodies.reservation());

    let problem = match timeout(config.body_timeout, collector.collect()).await {
        Err(_) => return Err(refusal::body_timeout()),
        Ok(Collected::Whole) => return Ok(collector.into_captured()),
        Ok(Collected::Failed(error)) => {
            tracing::debug!(%error, "the request body failed");
            if !ended_by_limit(&*error) {
                return Err(refusal::body_unreadable());
            }
            refusal::body_too_large_for_another()
        }
        Ok(Collected::OverLimit) => refusal::body_too_large(config.body_limit),
        Ok(Collected::PoolEmpty) => refusal::overloaded(config),
    };

    // Who asked for leave to send has not sent yet, and reading would give it.
    if !headers.contains_key(header::EXPECT) {
        // Whether all of it came or not, the refusal is the same.
        let _ = timeout(DISCARD_TIMEOUT, collector.discard(DISCARD_LIMIT)).await;
    }
    Err(problem)
}
