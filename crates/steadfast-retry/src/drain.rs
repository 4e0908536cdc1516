//! What becomes of a response that nobody will see.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use http_body::Body;
use tokio::time::timeout;

/// Reads a short body to its end, so that its connection can be used again. A long one, or one that does not come, is dropped.
pub(crate) async fn drain<RB: Body>(body: RB, time: Duration) {
    if body.size_hint().lower() > MAX_DRAINED {
        return;
    }
    let drained = async {
        let mut body = pin!(body);
        let mut read = 0;
        while read <= MAX_DRAINED {
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    let data = frame.into_data();
                    let bytes = data.map_or(0, |data| bytes::Buf::remaining(&data) as u64);
                    read += bytes.max(LEAST_FRAME);
                }
                Some(Err(_)) | None => return,
            }
        }
    };
    if time.is_zero() {
        // Even the shortest timer lasts until its next tick.
        let mut drained = pin!(drained);
        return poll_fn(|cx| {
            let _ = drained.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
    // Out of time, it is dropped: that is all that there is to do.
    let _ = timeout(time.min(DRAIN_TIME), drained).await;
}

/// About what the answer to a failed call holds, and what a connection's buffers hold anyway.
const MAX_DRAINED: u64 = 16 << 10;

/// What a frame counts for at least: a body may consist of empty ones, and be there all at once.
const LEAST_FRAME: u64 = 64;

/// What is on its way arrives within it.
const DRAIN_TIME: Duration = Duration::from_millis(20);
