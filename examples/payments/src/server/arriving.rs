//! The body of a request, which has an end, whatever its client does.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use steadfast::http::BoxError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long a client may take for a body: some hundred bytes, that most send with the head. Longer than the idempotency layer waits,
/// which says so better.
const LIMIT: Duration = Duration::from_secs(15);

/// How much longer from the stop of the server on. Nothing has been done for the request yet: it can be sent to another process.
const LIMIT_AT_THE_END: Duration = Duration::from_secs(2);

/// Fails when its time is over.
pub(super) struct Arriving {
    body: Incoming,
    /// Ends with the body's time, and is none afterwards.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Arriving {
    /// The body as the service takes it.
    #[expect(clippy::new_ret_no_self, reason = "services take one type of body")]
    pub(super) fn new(body: Incoming, stop: CancellationToken) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        let over = async move {
            tokio::select! {
                () = sleep(LIMIT) => {}
                () = async {
                    stop.cancelled().await;
                    sleep(LIMIT_AT_THE_END).await;
                } => {}
            }
        };
        Body::new(Self {
            body,
            over: Some(Box::pin(over)),
        })
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(over) = &mut this.over {
            if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            ready!(over.as_mut().poll(cx));
            this.over = None;
        }
        Poll::Ready(Some(
            Err("the request's body did not arrive in time".into()),
        ))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
