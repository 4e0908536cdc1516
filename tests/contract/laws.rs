//! The laws themselves. A layer obeys them with every request that it lets through to the service within.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use steadfast::http::BoxError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tower::{Layer, Service, ServiceExt};

/// A body that is not more than a server's: neither `Clone` nor `Sync` is asked of it.
pub(crate) type Payload = http_body_util::combinators::UnsyncBoxBody<Bytes, Oops>;

pub(crate) fn payload(bytes: &'static str) -> Payload {
    use http_body_util::BodyExt;

    Full::new(Bytes::from_static(bytes.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A layer, and requests that it lets through: the `n`th is another operation than those before it.
#[derive(Clone)]
pub(crate) struct Subject<L> {
    pub(crate) layer: L,
    pub(crate) request: fn(n: u32) -> Request<Payload>,
}

/// What the laws ask of a layer's type.
pub(crate) trait Lawful:
    Layer<
        Probe,
        Service: Service<
            Request<Payload>,
            Response: Answer,
            Error: Passed,
            Future: Send + 'static,
        > + Clone
                     + Send
                     + Sync
                     + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<L> Lawful for L where
    L: Layer<
            Probe,
            Service: Service<
                Request<Payload>,
                Response: Answer,
                Error: Passed,
                Future: Send + 'static,
            > + Clone
                         + Send
                         + Sync
                         + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

pub(crate) trait Answer: Send {
    fn code(&self) -> StatusCode;
}

impl<B: Send> Answer for Response<B> {
    fn code(&self) -> StatusCode {
        self.status()
    }
}

/// The probe's error on the other side of a layer.
pub(crate) trait Passed: fmt::Debug + Send {
    fn oops(self) -> Oops;
}

impl Passed for Oops {
    fn oops(self) -> Oops {
        self
    }
}

/// For layers that may fail by themselves.
impl Passed for BoxError {
    fn oops(self) -> Oops {
        *self.downcast().unwrap()
    }
}

/// The service within. Its readiness is a permit, which belongs to the instance that was polled: a clone has none.
pub(crate) struct Probe {
    book: Arc<Book>,
    permits: PollSemaphore,
    ready: Option<OwnedSemaphorePermit>,
}

/// What a probe and its clones saw.
pub(crate) struct Book {
    permits: Arc<Semaphore>,
    calls: AtomicUsize,
    unready_calls: AtomicUsize,
    call_fails: AtomicBool,
    readiness_fails: AtomicBool,
}

impl Probe {
    pub(crate) fn with_permits(permits: usize) -> (Self, Arc<Book>) {
        let permits = Arc::new(Semaphore::new(permits));
        let book = Arc::new(Book {
            permits: Arc::clone(&permits),
            calls: AtomicUsize::new(0),
            unready_calls: AtomicUsize::new(0),
            call_fails: AtomicBool::new(false),
            readiness_fails: AtomicBool::new(false),
        });
        let probe = Self {
            book: Arc::clone(&book),
            permits: PollSemaphore::new(permits),
            ready: None,
        };
        (probe, book)
    }
}

impl Book {
    /// From now on the probe answers with an error.
    pub(crate) fn fail_calls(&self) {
        self.call_fails.store(true, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// From now on the probe is never ready, and says so by an error.
    pub(crate) fn fail_readiness(&self) {
        self.readiness_fails.store(true, Ordering::SeqCst);
    }

    pub(crate) fn add(&self, permits: usize) {
        self.permits.add_permits(permits);
    }

    /// The permits that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    pub(crate) fn unready_calls(&self) -> usize {
        self.unready_calls.load(Ordering::SeqCst)
    }

    /// Waits until so many permits are free; fails after a minute of paused time.
    async fn until_free(&self, permits: usize) {
        for _ in 0..600 {
            if self.permits.available_permits() == permits {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{} permits are free, and not {permits}",
            self.permits.available_permits()
        );
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            book: Arc::clone(&self.book),
            permits: self.permits.clone(),
            ready: None,
        }
    }
}

impl<B: Send + 'static> Service<Request<B>> for Probe {
    type Response = Response<Full<Bytes>>;
    type Error = Oops;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Oops>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Oops>> {
        if self.book.readiness_fails.load(Ordering::SeqCst) {
            return Poll::Ready(Err(Oops::Readiness));
        }
        if self.ready.is_none() {
            self.ready = std::task::ready!(self.permits.poll_acquire(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.book.calls.fetch_add(1, Ordering::SeqCst);
        let permit = self.ready.take();
        if permit.is_none() {
            self.book.unready_calls.fetch_add(1, Ordering::SeqCst);
        }
        let fails = self.book.call_fails.load(Ordering::SeqCst);
        Box::pin(async move {
            let _permit = permit;
            let _request = request;
            tokio::time::sleep(Duration::from_millis(1)).await;
            if fails {
                return Err(Oops::Call);
            }
            Ok(Response::new(Full::from("done")))
        })
    }
}

/// The probe's own error, to be recognised on the other side of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oops {
    Call,
    Readiness,
}

impl fmt::Display for Oops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oops")
    }
}

impl Error for Oops {}

pub(crate) async fn only_a_readied_instance_is_called(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(1);
    let mut service = subject.layer.layer(probe);

    for n in 0..5 {
        let service = service.ready().await.unwrap();
        let answer = service.call((subject.request)(n)).await.unwrap();
        assert_eq!(answer.code(), StatusCode::OK);
    }

    assert_eq!((book.calls(), book.unready_calls()), (5, 0));
    drop(service);
    book.until_free(1).await;
}

pub(crate) async fn a_clone_has_a_readiness_of_its_own(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(2);
    let mut one = subject.layer.layer(probe);
    one.ready().await.unwrap();

    let mut another = one.clone();
    another.ready().await.unwrap();
    let second = another.call((subject.request)(1));
    let first = one.call((subject.request)(2));

    assert_eq!(second.await.unwrap().code(), StatusCode::OK);
    assert_eq!(first.await.unwrap().code(), StatusCode::OK);
    assert_eq!((book.calls(), book.unready_calls()), (2, 0));
}

pub(crate) async fn many_clones_work_at_once(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(3);
    let service = subject.layer.layer(probe);

    let calls = (0..50).map(|n| {
        let service = service.clone();
        tokio::spawn(service.oneshot((subject.request)(n)))
    });
    for call in futures_util::future::join_all(calls).await {
        assert_eq!(call.unwrap().unwrap().code(), StatusCode::OK);
    }

    assert_eq!((book.calls(), book.unready_calls()), (50, 0));
    book.until_free(3).await;
}

pub(crate) async fn it_is_ready_when_the_service_within_is(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(0);
    let mut service = subject.layer.layer(probe);

    assert!(service.ready().now_or_never().is_none());

    book.add(1);
    service.ready().now_or_never().unwrap().unwrap();
    book.fail_readiness();
    let failure = service.ready().await.map(|_| ()).unwrap_err();
    assert_eq!(failure.oops(), Oops::Readiness);
}

pub(crate) async fn an_error_within_passes_unchanged(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(1);
    book.fail_calls();

    let answer = subject
        .layer
        .layer(probe)
        .oneshot((subject.request)(1))
        .await;

    let error = match answer {
        Ok(answer) => panic!("an error became {}", answer.code()),
        Err(error) => error,
    };
    assert_eq!(error.oops(), Oops::Call);
    book.until_free(1).await;
}

pub(crate) async fn a_readied_instance_that_is_dropped_gives_its_permit_back(
    subject: Subject<impl Lawful>,
) {
    let (probe, book) = Probe::with_permits(1);
    let mut service = subject.layer.layer(probe);
    service.ready().await.unwrap();
    assert_eq!(book.permits.available_permits(), 0);

    drop(service);

    assert_eq!(book.permits.available_permits(), 1);
}

/// Dropped before its first poll, between two polls, and when it is done: no permit is lost, and no call goes on for ever.
pub(crate) async fn a_dropped_call_loses_no_permit(subject: Subject<impl Lawful>) {
    let (probe, book) = Probe::with_permits(1);
    let mut service = subject.layer.layer(probe);

    for n in 0..20 {
        let call = service.ready().await.unwrap().call((subject.request)(n));
        let _ = crate::support::poll_at_most(call, n as usize).await;
    }

    assert_eq!(book.unready_calls(), 0);
    drop(service);
    book.until_free(1).await;
}

/// However often a layer calls a service that fails.
pub(crate) async fn a_failing_service_is_called_only_when_it_is_ready(
    subject: Subject<impl Lawful>,
) {
    let (probe, book) = Probe::with_permits(1);
    book.fail_calls();
    let mut service = subject.layer.layer(probe);

    for n in 0..5 {
        let service = service.ready().await.unwrap();
        let answer = service.call((subject.request)(n)).await;
        assert_eq!(answer.map(|_| ()).unwrap_err().oops(), Oops::Call);
    }

    assert!(book.calls() >= 5);
    assert_eq!(book.unready_calls(), 0);
    drop(service);
    book.until_free(1).await;
}

/// At any await: also between two attempts, and while the service becomes ready for another one.
pub(crate) async fn a_dropped_call_of_a_failing_service_loses_no_permit(
    subject: Subject<impl Lawful>,
) {
    let (probe, book) = Probe::with_permits(1);
    book.fail_calls();
    let mut service = subject.layer.layer(probe);

    for n in 0..20 {
        let call = service.ready().await.unwrap().call((subject.request)(n));
        let _ = crate::support::poll_at_most(call, n as usize).await;
    }

    assert_eq!(book.unready_calls(), 0);
    drop(service);
    book.until_free(1).await;
}

/// Every law for one subject, each as a test of its own.
macro_rules! laws {
    ($subject:ident) => {
        mod $subject {
            $crate::laws::laws!(@each super::$subject(),
                only_a_readied_instance_is_called,
                a_clone_has_a_readiness_of_its_own,
                many_clones_work_at_once,
                it_is_ready_when_the_service_within_is,
                an_error_within_passes_unchanged,
                a_readied_instance_that_is_dropped_gives_its_permit_back,
                a_dropped_call_loses_no_permit,
                a_failing_service_is_called_only_when_it_is_ready,
                a_dropped_call_of_a_failing_service_loses_no_permit,
            );
        }
    };
    (@each $subject:expr, $($law:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $law() {
                $crate::laws::$law($subject).await;
            }
        )*
    };
}
pub(crate) use laws;
