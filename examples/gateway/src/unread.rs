//! Gives up responses that the client does not read.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use steadfast::http::BoxError;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::{AbortOnDropHandle, task_tracker::TaskTrackerToken};

use crate::Body;

/// The body of a response, as long as the client reads it.
///
/// hyper does not ask for more while the client takes nothing, so that a limit beneath would never be looked at: a task looks instead.
/// In HTTP/2 it keeps even a body that has ended for as long as the client has no room for it.
/// What it gives up goes at once, with the stream at the upstream and its share of the connection's window.
pub(crate) struct Unread {
    sending: Arc<Mutex<Sending>>,
    patience: Duration,
    /// Over HTTP/1, only bodies that do not end with their first frame need it.
    watch: Option<AbortOnDropHandle<()>>,
}

struct Sending {
    /// With the mark that it is in flight; none if it was given up.
    body: Option<(Body, TaskTrackerToken)>,
    /// Since when the client has what came last, the head at first, and has not asked for more.
    since: Option<Instant>,
}

impl Unread {
    pub(crate) fn new(
        body: Body,
        token: TaskTrackerToken,
        patience: Duration,
        version: Version,
    ) -> Self {
        let may_wait = version == Version::HTTP_2 && !body.is_end_stream();
        let sending = Sending {
            body: Some((body, token)),
            since: Some(Instant::now()),
        };
        let mut unread = Self {
            sending: Arc::new(Mutex::new(sending)),
            patience,
            watch: None,
        };
        if may_wait {
            unread.watch();
        }
        unread
    }

    fn watch(&mut self) {
        let watch = watch(Arc::clone(&self.sending), self.patience);
        self.watch = Some(AbortOnDropHandle::new(tokio::spawn(watch)));
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
        let is_unread = sending.since.is_some() && goes_on;
        drop(sending);
        if is_unread && this.watch.is_none() {
            this.watch();
        }
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
