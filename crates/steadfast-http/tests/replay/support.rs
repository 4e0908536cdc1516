//! An original body that plays a script, and the means to poll one frame at a time.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use steadfast_http::BoxError;

/// A frame in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Item {
    pub(crate) fn data(data: &'static str) -> Self {
        Self::Data(Bytes::from_static(data.as_bytes()))
    }

    pub(crate) fn trailers(value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", value.parse().unwrap());
        Self::Trailers(trailers)
    }

    pub(crate) fn from_frame(frame: Frame<Bytes>) -> Self {
        match frame.into_data() {
            Ok(data) => Self::Data(data),
            Err(frame) => Self::Trailers(frame.into_trailers().unwrap()),
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    /// The bytes of its data.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }
}

/// What the original does when it is polled. After the last step it ends.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Yield(Item),
    Wait,
    Fail(&'static str),
    Panic,
}

/// How much the original tells before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tells {
    Nothing,
    AtLeast,
    Exactly,
}

/// An original body. It panics when it is polled after its end or its failure.
pub(crate) struct Original {
    steps: VecDeque<Step>,
    tells: Tells,
    /// Whether it says that it has ended before it is asked for another frame.
    tells_end: bool,
    is_over: bool,
    polls: Arc<AtomicUsize>,
}

/// What a test sees of an original that it gave away.
pub(crate) struct Watch {
    polls: Weak<AtomicUsize>,
}

impl Watch {
    /// How often it was polled.
    pub(crate) fn polls(&self) -> usize {
        let polls = self.polls.upgrade().expect("it was dropped");
        polls.load(Ordering::SeqCst)
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.polls.strong_count() == 0
    }
}

impl Original {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            tells: Tells::Exactly,
            tells_end: true,
            is_over: false,
            polls: Arc::default(),
        }
    }

    pub(crate) fn of(items: impl IntoIterator<Item = Item>) -> Self {
        Self::new(items.into_iter().map(Step::Yield))
    }

    pub(crate) fn telling(self, tells: Tells) -> Self {
        Self { tells, ..self }
    }

    pub(crate) fn telling_its_end(self, tells_end: bool) -> Self {
        Self { tells_end, ..self }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            polls: Arc::downgrade(&self.polls),
        }
    }
}

impl Body for Original {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.is_over, "the original was polled after its end");
        self.polls.fetch_add(1, Ordering::SeqCst);
        match self.steps.pop_front() {
            Some(Step::Yield(item)) => Poll::Ready(Some(Ok(item.into_frame()))),
            Some(Step::Wait) => Poll::Pending,
            Some(Step::Fail(error)) => {
                self.is_over = true;
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Step::Panic) => panic!("the original panicked"),
            None => {
                self.is_over = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.steps.iter().map(|step| match step {
            Step::Yield(item) => item.len(),
            Step::Wait | Step::Fail(_) | Step::Panic => 0,
        });
        let rest = rest.sum();
        match self.tells {
            Tells::Nothing => SizeHint::new(),
            Tells::AtLeast => {
                let mut hint = SizeHint::new();
                hint.set_lower(rest);
                hint
            }
            Tells::Exactly => SizeHint::with_exact(rest),
        }
    }
}

/// What one poll gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Item(Item),
    Failed(String),
    Ended,
    Waits,
}

impl Polled {
    pub(crate) fn data(data: &'static str) -> Self {
        Self::Item(Item::data(data))
    }

    pub(crate) fn superseded() -> Self {
        Self::Failed("request body was superseded by that of a further attempt".into())
    }
}

/// Somebody who waits for a body.
#[derive(Default)]
pub(crate) struct Task(AtomicUsize);

impl Task {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn wakes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn poll<B>(self: &Arc<Self>, body: &mut B) -> Polled
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let waker = Waker::from(Arc::clone(self));
        match Pin::new(body).poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(frame))) => Polled::Item(Item::from_frame(frame)),
            Poll::Ready(Some(Err(error))) => Polled::Failed(error.into().to_string()),
            Poll::Ready(None) => Polled::Ended,
            Poll::Pending => Polled::Waits,
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One poll by somebody who is not looked at.
pub(crate) fn poll<B>(body: &mut B) -> Polled
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    Task::new().poll(body)
}

/// Everything that comes before the end.
pub(crate) fn read<B>(body: &mut B) -> Vec<Item>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut items = Vec::new();
    loop {
        match poll(body) {
            Polled::Item(item) => items.push(item),
            Polled::Waits => {}
            Polled::Ended => return items,
            Polled::Failed(error) => panic!("the body failed: {error}"),
        }
    }
}

/// One poll that allocates nothing by itself, of a body that need not wait.
pub(crate) fn next<B>(body: &mut B) -> Option<Result<Frame<Bytes>, B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("the body waits"),
    }
}
