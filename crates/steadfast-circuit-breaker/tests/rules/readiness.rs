//! circuit-breaker B10.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http::{Request, Response};
use steadfast_circuit_breaker::{CircuitBreakerLayer, Guarded, Refusal, State};
use tokio::time::advance;
use tower::{
    Layer, Service,
    limit::{ConcurrencyLimit, ConcurrencyLimitLayer},
};

use crate::support::{
    Fault, Flow, Get, Script, Site, Step, get, no_context, ok, rejected, retry_after, secs, steady,
};

type Limited = Guarded<ConcurrencyLimit<Script>>;

/// Around a service that takes one call at a time, and panics if it was not ready.
fn limited(site: &Site) -> Limited {
    let limited = ConcurrencyLimitLayer::new(1).layer(site.script.clone());
    site.layer.layer(limited)
}

fn poll_ready<S: Service<Get>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut no_context())
}

fn is_ready<S: Service<Get>>(service: &mut S) -> bool {
    matches!(poll_ready(service), Poll::Ready(Ok(())))
}

#[tokio::test(start_paused = true)]
async fn closed_it_is_ready_when_the_inner_service_is() {
    let site = Site::http(steady(), [ok()]);
    let mut first = limited(&site);
    let mut second = first.clone();
    assert!(is_ready(&mut first));

    assert!(poll_ready(&mut second).is_pending());
    first.call(get()).await.unwrap();

    assert!(is_ready(&mut second));
    second.call(get()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn open_it_is_ready_without_the_inner_service() {
    let site = Site::http(steady(), [ok()]);
    let mut first = limited(&site);
    let mut second = first.clone();
    assert!(is_ready(&mut first));
    site.trip();

    assert!(is_ready(&mut second));
    let response = second.call(get()).await.unwrap();

    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Open);
    assert_eq!(retry_after(&response), 30);
    assert_eq!(site.script.calls(), 0);
}

/// The first trap: the inner service, which was not asked, would panic.
#[tokio::test(start_paused = true)]
async fn open_when_it_was_asked_and_closed_at_the_call_is_a_rejection_for_a_second() {
    let site = Site::http(steady(), [ok()]);
    let mut service = limited(&site);
    site.trip();
    assert!(is_ready(&mut service));
    site.breaker.force_closed();

    let response = service.call(get()).await.unwrap();

    assert!(rejected(&response).is_some());
    assert_eq!(response.status(), 503);
    assert_eq!(site.script.calls(), 0);
    assert_eq!(
        retry_after(&response),
        1,
        "it is closed: nothing is left of the open time"
    );
    assert!(is_ready(&mut service), "and the next call passes");
    assert_eq!(service.call(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn open_when_it_was_asked_and_over_at_the_call_is_a_rejection_for_a_second() {
    let site = Site::http(steady(), [ok()]);
    let mut service = limited(&site);
    site.trip();
    assert!(is_ready(&mut service));
    advance(secs(30)).await;

    let response = service.call(get()).await.unwrap();

    assert!(rejected(&response).is_some());
    assert_eq!(retry_after(&response), 1);
    assert_eq!(site.script.calls(), 0);
    assert_eq!(site.breaker.state(), State::Open, "no probe was taken");
    assert!(is_ready(&mut service));
    assert_eq!(service.call(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn asked_again_after_it_has_closed_it_asks_the_inner_service() {
    let site = Site::http(steady(), [ok()]);
    let mut service = limited(&site);
    site.trip();
    assert!(is_ready(&mut service));
    site.breaker.force_closed();

    assert!(is_ready(&mut service));

    let response = service.call(get()).await.unwrap();
    assert_eq!(rejected(&response), None);
}

/// The second trap: the inner service has reserved something for a call that never comes.
#[tokio::test(start_paused = true)]
async fn ready_when_it_was_asked_and_open_at_the_call_gives_back_what_was_reserved() {
    let site = Site::http(steady(), [ok()]);
    let mut service = limited(&site);
    let mut other = service.clone();
    assert!(is_ready(&mut service));
    site.trip();

    let response = service.call(get()).await.unwrap();
    assert!(rejected(&response).is_some());

    site.breaker.force_closed();
    assert!(is_ready(&mut other), "while the first is still there");
    assert_eq!(other.call(get()).await.unwrap().status(), 200);
    assert!(is_ready(&mut service));
    assert_eq!(service.call(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn ready_and_rejected_among_probes_gives_back_what_was_reserved() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let _probe = site.pending(get());
    let mut service = limited(&site);
    let mut other = service.clone();
    assert!(is_ready(&mut service));

    let response = service.call(get()).await.unwrap();

    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Probing);
    assert!(is_ready(&mut other));
}

/// The probe has all that the inner service allows, and those who come do not wait behind it.
#[tokio::test(start_paused = true)]
async fn half_open_without_room_it_is_ready_without_the_inner_service() {
    let site = Site::http(steady(), [Step::Hang]);
    site.recover().await;
    let mut probing = limited(&site);
    let mut other = probing.clone();
    assert!(is_ready(&mut probing));
    let probe = probing.call(get());

    assert!(is_ready(&mut other));
    let response = other.call(get()).await.unwrap();
    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Probing);
    assert_eq!(retry_after(&response), 1);

    advance(secs(30)).await;
    assert!(is_ready(&mut other));
    assert_eq!(site.breaker.state(), State::Open, "the probe tells nothing");
    let response = other.call(get()).await.unwrap();
    assert_eq!(rejected(&response).unwrap().refusal(), Refusal::Open);
    drop(probe);
}

/// A place in the queue becomes a permit when its turn comes, whether or not anybody looks.
#[tokio::test(start_paused = true)]
async fn a_service_that_waited_for_the_inner_one_and_found_it_open_keeps_no_place_there() {
    let site = Site::http(steady(), [ok()]);
    let mut first = limited(&site);
    let mut waiting = first.clone();
    let mut other = first.clone();
    assert!(is_ready(&mut first));
    assert!(poll_ready(&mut waiting).is_pending());
    site.trip();
    assert!(is_ready(&mut waiting));
    let response = waiting.call(get()).await.unwrap();
    assert!(rejected(&response).is_some());

    drop(first);
    site.breaker.force_closed();

    assert!(is_ready(&mut other), "while the one that waited is there");
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The third trap, which the docs name.
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_inner_service_is_not_woken_by_an_opening() {
    let site = Site::http(steady(), [ok()]);
    let mut first = limited(&site);
    let mut waiting = first.clone();
    assert!(is_ready(&mut first));
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(Service::<Get>::poll_ready(&mut waiting, &mut cx).is_pending());

    site.trip();
    assert!(!woken.0.load(Ordering::SeqCst));

    drop(first);
    assert!(woken.0.load(Ordering::SeqCst), "but by the inner service");
    assert!(is_ready(&mut waiting));
    let response = waiting.call(get()).await.unwrap();
    assert!(rejected(&response).is_some());
}

/// Notes how its instances are used.
struct Noted {
    number: usize,
    log: Arc<Mutex<Vec<String>>>,
    instances: Arc<AtomicUsize>,
    fails: bool,
}

impl Noted {
    fn new() -> (Self, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let noted = Self {
            number: 0,
            log: Arc::clone(&log),
            instances: Arc::new(AtomicUsize::new(1)),
            fails: false,
        };
        (noted, log)
    }

    fn note(&self, what: &str) {
        let line = format!("{what} {}", self.number);
        self.log.lock().unwrap().push(line);
    }
}

impl Clone for Noted {
    fn clone(&self) -> Self {
        Self {
            number: self.instances.fetch_add(1, Ordering::SeqCst),
            log: Arc::clone(&self.log),
            instances: Arc::clone(&self.instances),
            fails: self.fails,
        }
    }
}

impl<B> Service<Request<B>> for Noted {
    type Response = Response<Flow>;
    type Error = Fault;
    type Future = <Script as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.note("ready");
        Poll::Ready(if self.fails {
            Err(Fault::Strange)
        } else {
            Ok(())
        })
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.note("call");
        Script::new([ok()]).call(request)
    }
}

fn take(log: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

/// The fourth trap.
#[tokio::test(start_paused = true)]
async fn a_call_without_a_question_is_forwarded() {
    let site = Site::http(steady(), [ok()]);
    let (noted, log) = Noted::new();
    let mut service = site.layer.layer(noted);

    let response = service.call(get()).await.unwrap();

    assert_eq!(rejected(&response), None);
    assert_eq!(take(&log), ["call 0"]);

    site.trip();
    let response = service.call(get()).await.unwrap();
    assert!(rejected(&response).is_some());
    assert_eq!(take(&log), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_instance_that_was_asked_is_the_one_that_is_called() {
    let site = Site::http(steady(), [ok()]);
    let (noted, log) = Noted::new();
    let mut service = site.layer.layer(noted);

    for _ in 0..2 {
        assert!(is_ready(&mut service));
        assert!(is_ready(&mut service));
        service.call(get()).await.unwrap();
        assert_eq!(take(&log), ["ready 0", "ready 0", "call 0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_service_that_was_ready_and_rejected_is_replaced() {
    let site = Site::http(steady(), [ok()]);
    let (noted, _log) = Noted::new();
    let mut service = site.layer.layer(noted);
    site.breaker.force_open();

    assert!(is_ready(&mut service));
    service.call(get()).await.unwrap();
    service.call(get()).await.unwrap();
    assert_eq!(service.get_ref().number, 0, "it has reserved nothing");

    site.breaker.force_closed();
    assert!(is_ready(&mut service));
    site.breaker.force_open();
    service.call(get()).await.unwrap();
    assert_eq!(service.get_ref().number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_clone_starts_unasked() {
    let site = Site::http(steady(), [ok()]);
    let (noted, log) = Noted::new();
    let mut service = site.layer.layer(noted);
    assert!(is_ready(&mut service));

    let mut clone = service.clone();
    site.breaker.force_open();
    clone.call(get()).await.unwrap();
    assert_eq!(clone.get_ref().number, 1, "it was not ready: it stays");

    site.breaker.force_open();
    let mut rejecting = site.layer.layer(Noted::new().0);
    assert!(is_ready(&mut rejecting));
    let mut clone = rejecting.clone();
    site.breaker.force_closed();
    let response = clone.call(get()).await.unwrap();
    assert_eq!(rejected(&response), None, "it goes to the inner service");
    let response = rejecting.call(get()).await.unwrap();
    assert!(rejected(&response).is_some());
    take(&log);
}

#[tokio::test(start_paused = true)]
async fn the_inner_services_error_passes_and_counts_for_nothing() {
    let site = Site::http(steady(), [ok()]);
    let (noted, _log) = Noted::new();
    let mut service = site.layer.layer(Noted {
        fails: true,
        ..noted
    });
    assert_eq!(poll_ready(&mut service), Poll::Ready(Err(Fault::Strange)));
    assert_eq!(crate::support::run(&site.breaker), 0);

    site.trip();
    assert_eq!(poll_ready(&mut service), Poll::Ready(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn forced_open_and_waiting_for_probes_are_told_apart_before_the_call() {
    let site = Site::http(steady(), [ok()]);
    let (noted, log) = Noted::new();
    let mut service = site.layer.layer(noted);
    site.breaker.force_open();
    assert!(is_ready(&mut service));
    assert_eq!(take(&log), [""; 0]);

    site.breaker.disable();
    assert!(is_ready(&mut service));
    assert_eq!(take(&log), ["ready 0"]);

    site.breaker.observe_only();
    assert!(is_ready(&mut service.clone()));
    assert_eq!(take(&log), ["ready 1"]);

    site.breaker.force_closed();
    site.recover().await;
    assert!(is_ready(&mut service.clone()), "a probe needs it");
    assert_eq!(take(&log), ["ready 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_http_has_the_same_readiness() {
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::new(breaker.clone(), |_: &Result<u8, Infallible>| {
        steadfast_circuit_breaker::Verdict::Success
    });
    let inner = tower::service_fn(|number: u8| async move { Ok::<_, Infallible>(number) });
    let mut service = layer.layer(ConcurrencyLimitLayer::new(1).layer(inner));
    let mut other = service.clone();
    poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
    breaker.force_open();
    service.call(1).await.unwrap_err();
    breaker.force_closed();
    assert!(other.poll_ready(&mut no_context()).is_ready());

    breaker.force_open();
    let mut service = layer.layer(ConcurrencyLimitLayer::new(1).layer(inner));
    assert!(service.poll_ready(&mut no_context()).is_ready());
    breaker.force_closed();
    service.call(1).await.unwrap_err();
}
