//! How long the caller of a call waits, from the wire to the handler.

use std::time::Duration;

use steadfast::http::{Deadline, grpc};
use tokio::time::Instant;
use tonic::{Extensions, Request, Status};

/// Puts the moment at which the caller stops waiting into the extensions of a call, if it says when.
///
/// # Errors
///
/// Never.
pub fn read(mut request: Request<()>) -> Result<Request<()>, Status> {
    let timeout = grpc::timeout(request.metadata().as_ref());
    // Beyond what a clock can hold there is no deadline.
    if let Some(moment) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
        request.extensions_mut().insert(Deadline::at(moment));
    }
    Ok(request)
}

/// Refuses work that takes this long and cannot be finished while somebody waits for it.
///
/// # Errors
///
/// DEADLINE_EXCEEDED if less is left.
pub(crate) fn leaves(extensions: &Extensions, work_time: Duration) -> Result<(), Status> {
    match extensions.get::<Deadline>() {
        Some(deadline) if deadline.remaining(Instant::now()) <= work_time => {
            Err(Status::deadline_exceeded(format!(
                "this takes {work_time:?}, and less time is left; nothing was done"
            )))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(timeout: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            let timeout = timeout.parse().unwrap();
            request.metadata_mut().insert("grpc-timeout", timeout);
        }
        read(request).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn work_begins_only_if_the_time_that_is_left_is_enough_for_it() {
        let request = received(Some("300m"));
        let begins = |work_time| leaves(request.extensions(), work_time).is_ok();

        assert!(begins(Duration::from_millis(299)));
        assert!(!begins(Duration::from_millis(300)));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(begins(Duration::from_millis(199)));
        assert!(!begins(Duration::from_millis(200)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!begins(Duration::ZERO));
    }

    #[tokio::test]
    async fn without_a_timeout_that_can_be_read_nobody_stops_waiting() {
        for timeout in [None, Some("soon"), Some("99999999H")] {
            let request = received(timeout);

            let work_time = Duration::from_secs(3600);
            assert!(leaves(request.extensions(), work_time).is_ok());
        }
    }
}
