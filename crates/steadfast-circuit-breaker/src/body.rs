use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use steadfast_core::verdict::Verdict;
use steadfast_http::{
    BoxError,
    body::ReplyBody,
    classify::{GrpcRules, verdict_of_error},
};

use crate::admission::Pass;

pin_project! {
    /// The body of a response that passed the layer: the destination's own, or one that the layer made up.
    ///
    /// Where the outcome of the call comes with it, it tells the breaker.
    pub struct ResponseBody<B> {
        #[pin]
        body: ReplyBody<B>,
        // Boxed, as few responses have one.
        watch: Option<Box<Watch>>,
    }
}

impl<B> ResponseBody<B> {
    /// The destination's own.
    #[inline]
    pub(crate) const fn passed(body: B) -> Self {
        Self {
            body: ReplyBody::untouched(body),
            watch: None,
        }
    }

    /// The destination's own, which tells what the call came to.
    pub(crate) fn watched(body: B, watch: Watch) -> Self
    where
        B: Body,
    {
        let mut watch = Box::new(watch);
        if watch.pass.run(|| body.is_end_stream()) {
            // Nobody may ask for what is not there.
            watch.ended();
        }
        Self {
            body: ReplyBody::untouched(body),
            watch: Some(watch),
        }
    }

    pub(crate) fn own(body: Bytes) -> Self {
        Self {
            body: ReplyBody::captured(body.into()),
            watch: None,
        }
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(watch) = this.watch else {
            return this.body.poll_frame(cx);
        };
        let polled = watch.pass.run(|| this.body.as_mut().poll_frame(cx));
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => watch.ended(),
            Poll::Ready(Some(Err(error))) => watch.end(verdict_of_error(&**error)),
            Poll::Ready(Some(Ok(frame))) => {
                let is_end = watch.pass.run(|| this.body.is_end_stream());
                watch.saw(frame, is_end);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Waits for the outcome of a call whose head was good.
pub(crate) struct Watch {
    pass: Pass,
    /// In gRPC the trailers decide.
    rules: Option<GrpcRules>,
    is_over: bool,
}

impl Watch {
    pub(crate) const fn for_end(pass: Pass) -> Self {
        Self::new(pass, None)
    }

    pub(crate) const fn for_trailers(pass: Pass, rules: GrpcRules) -> Self {
        Self::new(pass, Some(rules))
    }

    const fn new(mut pass: Pass, rules: Option<GrpcRules>) -> Self {
        pass.answered();
        Self {
            pass,
            rules,
            is_over: false,
        }
    }

    fn saw(&mut self, frame: &Frame<Bytes>, is_end: bool) {
        if let Some(rules) = &self.rules
            && let Some(trailers) = frame.trailers_ref()
        {
            return self.end(rules.verdict_of_trailers(Some(trailers)));
        }
        // Who sends a body on drops it here, and does not ask for an end that it knows of.
        if is_end {
            self.ended();
        }
    }

    fn ended(&mut self) {
        self.end(match &self.rules {
            Some(rules) => rules.verdict_of_trailers(None),
            None => Verdict::Success,
        });
    }

    fn end(&mut self, verdict: Verdict) {
        if !self.is_over {
            self.is_over = true;
            self.pass.end(self.pass.judge(verdict));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The caller has what it wanted. In gRPC, nobody knows.
        if self.rules.is_none() && !self.is_over && !self.pass.has_panicked() {
            self.end(Verdict::Success);
        }
    }
}
