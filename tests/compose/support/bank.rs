use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::Request,
    middleware::{self, Next},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use steadfast::idempotency::Operation;
use tokio::sync::watch;

use super::eventually;

pub(crate) type BankBody = UnsyncBoxBody<Bytes, Infallible>;

/// The handler behind the layer. It counts what happens to it, and waits at its door when that is shut.
#[derive(Clone)]
pub(crate) struct Bank(Arc<Inner>);

struct Inner {
    door: watch::Sender<bool>,
    /// Starts of each request body.
    starts: Mutex<HashMap<Bytes, usize>>,
    finished: AtomicUsize,
    cut: AtomicUsize,
    /// How many runs will panic, from the first on.
    panics: AtomicUsize,
    /// Milliseconds of each run.
    work: AtomicU64,
    callers: AtomicUsize,
    left: AtomicUsize,
}

impl Bank {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            door: watch::Sender::new(true),
            starts: Mutex::default(),
            finished: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
            work: AtomicU64::new(0),
            callers: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        }))
    }

    /// Every run waits before its end until the door is opened.
    pub(crate) fn with_its_door_shut() -> Self {
        let bank = Self::new();
        bank.0.door.send_replace(false);
        bank
    }

    pub(crate) fn with_panics(panics: usize) -> Self {
        let bank = Self::new();
        bank.0.panics.store(panics, Ordering::SeqCst);
        bank
    }

    /// Every run takes so long.
    pub(crate) fn with_work(work: Duration) -> Self {
        let bank = Self::new();
        bank.0.work.store(work.as_millis() as u64, Ordering::SeqCst);
        bank
    }

    pub(crate) fn shut(&self) {
        self.0.door.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.0.door.send_replace(true);
    }

    pub(crate) fn started(&self) -> usize {
        self.0.starts.lock().unwrap().values().sum()
    }

    /// How often each request body was started with.
    pub(crate) fn starts(&self) -> HashMap<Bytes, usize> {
        self.0.starts.lock().unwrap().clone()
    }

    pub(crate) fn finished(&self) -> usize {
        self.0.finished.load(Ordering::SeqCst)
    }

    /// Runs that were dropped before their end.
    pub(crate) fn cut(&self) -> usize {
        self.0.cut.load(Ordering::SeqCst)
    }

    /// Requests that came to the outside of the layer.
    pub(crate) fn callers(&self) -> usize {
        self.0.callers.load(Ordering::SeqCst)
    }

    /// Requests that were dropped on the outside of the layer before their answer.
    pub(crate) fn left(&self) -> usize {
        self.0.left.load(Ordering::SeqCst)
    }

    pub(crate) async fn until_started(&self, runs: usize) {
        eventually("a handler starts", || self.started() >= runs).await;
    }

    /// Charges, for any body.
    pub(crate) async fn charge<B>(
        self,
        request: http::Request<B>,
    ) -> Result<Response<BankBody>, Infallible>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = request.into_parts();
        let order = body.collect().await.unwrap().to_bytes();
        let execution = head.extensions.get().map_or(0, Operation::execution);
        let run = {
            let mut starts = self.0.starts.lock().unwrap();
            *starts.entry(order.clone()).or_default() += 1;
            starts.values().sum::<usize>()
        };
        let mut guard = Run {
            counts: Arc::clone(&self.0),
            finished: false,
        };
        if run <= self.0.panics.load(Ordering::SeqCst) {
            panic!("deliberate");
        }
        let work = self.0.work.load(Ordering::SeqCst);
        if work > 0 {
            tokio::time::sleep(Duration::from_millis(work)).await;
        }
        self.0
            .door
            .subscribe()
            .wait_for(|open| *open)
            .await
            .unwrap();
        guard.finished = true;
        let order = String::from_utf8_lossy(&order);
        Ok(receipt(format!("{order} run={run} execution={execution}")))
    }

    /// The handler, as axum has it.
    pub(crate) fn route(&self) -> MethodRouter {
        let bank = self.clone();
        post(async move |request: Request| {
            let answer = bank.charge(request).await?;
            Ok::<_, Infallible>(answer.map(axum::body::Body::new))
        })
    }

    /// Watches callers on the outside of a layer.
    pub(crate) fn watch(&self, router: axum::Router) -> axum::Router {
        let counts = Arc::clone(&self.0);
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let caller = Caller {
                counts: Arc::clone(&counts),
                answered: false,
            };
            caller.counts.callers.fetch_add(1, Ordering::SeqCst);
            async move {
                let answer = next.run(request).await;
                caller.answered();
                answer
            }
        }))
    }
}

struct Run {
    counts: Arc<Inner>,
    finished: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        let count = if self.finished {
            &self.counts.finished
        } else {
            &self.counts.cut
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

struct Caller {
    counts: Arc<Inner>,
    answered: bool,
}

impl Caller {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.answered {
            self.counts.left.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// An answer with all that a replay must repeat, and some that it must not.
fn receipt(text: String) -> Response<BankBody> {
    let mut trailers = HeaderMap::new();
    trailers.insert(
        "checksum",
        HeaderValue::from_str(&text.len().to_string()).unwrap(),
    );
    trailers.append("note", HeaderValue::from_static("one"));
    trailers.append("note", HeaderValue::from_static("two"));
    let (first, second) = text.split_at(text.len() / 2);
    let frames = [
        Frame::data(Bytes::from(first.to_owned())),
        Frame::data(Bytes::from(second.to_owned())),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync();

    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::CREATED;
    let headers = answer.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/charges/1"));
    headers.append(header::LINK, HeaderValue::from_static("</a>; rel=one"));
    headers.append(header::LINK, HeaderValue::from_static("</b>; rel=two"));
    headers.insert("x-bytes", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    headers.insert(header::SET_COOKIE, HeaderValue::from_static("once=1"));
    answer
}
