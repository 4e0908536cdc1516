//! Gives up responses that the client does not read.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use steadfast::http::BoxError;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::{AbortOnDropHandle, task_tracker::TaskTrackerToken};

use crate::Body;

/// The body of a response, as long as the client reads it.
///
/// hyper does not ask for more while the client takes nothing, so that a limit beneath would never be looked at: a task looks instead.
/// What it gives up goes at once, with the stream at the upstream and its share of the connection's window.
pub(crate) struct Unread {
    sending: Arc<Mutex<Sending>>,
    patience: Duration,
    /// Only bodies that do not end with their first frame need it.
    watch: Option<AbortOnDropHandle<()>>,
}

struct Sending {
    /// With the mark that it is in flight; none if it was given up.
    body: Option<(Body, TaskTrackerToken)>,
    /// Since when the client has what came last, and has not asked for more.
    since: Option<Instant>,
}

impl Unread {
    pub(crate) fn new(body: Body, token: TaskTrackerToken, patience: Duration) -> Self {
        let sending = Sending {
            body: Some((body, token)),
            since: None,
        };
        Self {
            sending: Arc::new(Mutex::new(sending)),
            patience,
            watch: None,
        }
    }
}

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut sending = lock(&this.sending);
        let Some((body, _)) = &mut sending.body else {
            return Poll::Ready(Some(Err("the client read nothing for too long".into())));
        };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        let goes_on = !body.is_end_stream();
        sending.since = matches!(frame, Poll::Ready(Some(Ok(_)))).then(Instant::now);
        if sending.since.is_some() && goes_on && this.watch.is_none() {
            let watch = watch(Arc::clone(&this.sending), this.patience);
            this.watch = Some(AbortOnDropHandle::new(tokio::spawn(watch)));
        }
        drop(sending);
        frame
    }

    fn is_end_stream(&self) -> bool {
        let sending = lock(&self.sending);
        sending
            .body
            .as_ref()
            .is_some_and(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let sending = lock(&self.sending);
        sending
            .body
            .as_ref()
            .map_or_else(SizeHint::default, |(body, _)| body.size_hint())
    }
}

async fn watch(sending: Arc<Mutex<Sending>>, patience: Duration) {
    loop {
        let since = lock(&sending).since;
        sleep_until(since.unwrap_or_else(Instant::now) + patience).await;
        let mut sending = lock(&sending);
        if since.is_some() && sending.since == since {
            sending.body = None;
            return;
        }
    }
}

fn lock(sending: &Mutex<Sending>) -> MutexGuard<'_, Sending> {
    sending.lock().unwrap_or_else(PoisonError::into_inner)
}
