use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use http_body_util::BodyExt;
use steadfast_http::body::CapturedBody;
use steadfast_idempotency::Operation;
use tower::{ServiceExt, service_fn, util::BoxCloneService};

use super::{Body, BoxError, body};

/// The inner service of every test that does not bring its own.
pub(crate) type Inner =
    BoxCloneService<http::Request<CapturedBody<Body>>, Response<Body>, BoxError>;

type Reply = Result<Response<Body>, BoxError>;
type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// One call of the handler.
pub(crate) struct Call {
    /// 1 for the first that was started.
    pub(crate) number: u64,
    pub(crate) parts: Parts,
    pub(crate) body: CapturedBody<Body>,
}

impl Call {
    /// Reads the whole body. Not `collect`, whose future rustc does not see to be `Send` over a body whose error is a box.
    pub(crate) async fn read(mut self) -> (Bytes, Option<HeaderMap>) {
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(frame) = self.body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (bytes.into(), trailers)
    }
}

/// A handler whose calls are counted.
#[derive(Clone)]
pub(crate) struct Handler(Arc<Counted>);

struct Counted {
    started: AtomicU64,
    running: AtomicU64,
    finished: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    answer: Box<dyn Fn(Call) -> Answering + Send + Sync>,
}

impl Handler {
    pub(crate) fn new<F>(answer: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self(Arc::new(Counted {
            started: AtomicU64::new(0),
            running: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            operations: Mutex::default(),
            answer: Box::new(move |call| Box::pin(answer(call))),
        }))
    }

    /// Answers 201 with the number of the call in its body.
    pub(crate) fn counting() -> Self {
        Self::new(|call| async move { Ok(created(call.number)) })
    }

    /// Answers 201 with the number of the call once the latch is open.
    pub(crate) fn held(latch: &super::Latch) -> Self {
        let latch = latch.clone();
        Self::new(move |call| {
            let latch = latch.clone();
            async move {
                latch.pass().await;
                Ok(created(call.number))
            }
        })
    }

    /// Answers what this gives.
    pub(crate) fn answering(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::new(move |_| {
            let answer = answer();
            async move { Ok(answer) }
        })
    }

    /// How many calls were started.
    pub(crate) fn started(&self) -> u64 {
        self.0.started.load(Ordering::Relaxed)
    }

    /// How many calls run now.
    pub(crate) fn running(&self) -> u64 {
        self.0.running.load(Ordering::Relaxed)
    }

    /// How many calls came to their end; a cancelled one does not.
    pub(crate) fn finished(&self) -> u64 {
        self.0.finished.load(Ordering::Relaxed)
    }

    pub(crate) fn service(&self) -> Inner {
        let counted = Arc::clone(&self.0);
        let service = service_fn(move |request: http::Request<CapturedBody<Body>>| {
            let counted = Arc::clone(&counted);
            async move {
                let (parts, body) = request.into_parts();
                let number = counted.started.fetch_add(1, Ordering::Relaxed) + 1;
                if let Some(operation) = parts.extensions.get::<Operation>() {
                    counted.operations.lock().unwrap().push(operation.clone());
                }
                let _running = Running::new(&counted);
                let answer = (counted.answer)(Call {
                    number,
                    parts,
                    body,
                })
                .await;
                counted.finished.fetch_add(1, Ordering::Relaxed);
                answer
            }
        });
        service.boxed_clone()
    }

    /// The operation of the latest call.
    pub(crate) fn operation(&self) -> Operation {
        let operations = self.0.operations.lock().unwrap();
        operations.last().expect("a call was started").clone()
    }

    /// The most calls that one operation had.
    pub(crate) fn most_starts_of_an_operation(&self) -> usize {
        let operations = self.0.operations.lock().unwrap();
        operations
            .iter()
            .map(|one| {
                operations
                    .iter()
                    .filter(|other| other.key() == one.key())
                    .count()
            })
            .max()
            .unwrap_or(0)
    }
}

struct Running<'a>(&'a Counted);

impl<'a> Running<'a> {
    fn new(counted: &'a Counted) -> Self {
        counted.running.fetch_add(1, Ordering::Relaxed);
        Self(counted)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// 201 with the number of the call.
pub(crate) fn created(number: u64) -> Response<Body> {
    Response::builder()
        .status(201)
        .header("content-type", "text/plain")
        .body(body(Bytes::from(format!("charge {number}"))))
        .unwrap_or_else(|_| unreachable!("constant parts"))
}
