//! A caller that goes away at any await point. Before the claim nothing happened; from the claim on the operation goes on.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Operation, Promise},
    store::MemoryStore,
};
use steadfast_testkit::faults::{FOREVER, Faults, FaultyStore, Method};
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Count, PROMISES, layer, marker, poll_at_most, text, without_waiting};

const TICK: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

/// Frames that arrive one by one.
#[derive(Debug)]
struct Slowly {
    frames: Vec<&'static str>,
    pause: Pin<Box<Sleep>>,
}

impl Slowly {
    fn new(frames: &[&'static str]) -> Self {
        Self {
            frames: frames.iter().rev().copied().collect(),
            pause: Box::pin(sleep(TICK)),
        }
    }
}

impl Body for Slowly {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::ready!(self.pause.as_mut().poll(cx));
        self.pause = Box::pin(sleep(TICK));
        let frame = self.frames.pop();
        Poll::Ready(frame.map(|data| Ok(Frame::data(Bytes::from_static(data.as_bytes())))))
    }
}

fn request(key: &str) -> Request<Slowly> {
    Request::post("/charges")
        .header("idempotency-key", key)
        .body(Slowly::new(&["amount", "=5"]))
        .unwrap()
}

#[derive(Default)]
struct Runs {
    started: Count,
    finished: Count,
}

/// A handler with await points before and in its answer.
fn charge<B: Body + Send + 'static>(
    runs: Arc<Runs>,
) -> impl Service<Request<B>, Response = Response<Slowly>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    service_fn(move |request: Request<B>| {
        let runs = Arc::clone(&runs);
        async move {
            runs.started.add();
            sleep(TICK).await;
            assert!(request.extensions().get::<Operation>().is_some());
            sleep(TICK).await;
            runs.finished.add();
            Ok(Response::new(Slowly::new(&["char", "ged"])))
        }
    })
}

fn slow_store() -> (FaultyStore<MemoryStore>, Faults) {
    let store = FaultyStore::new(MemoryStore::default());
    let faults = store.faults();
    for method in Method::ALL {
        let _ = faults.on(method).delay(FOREVER, TICK);
    }
    (store, faults)
}

#[tokio::test(start_paused = true)]
async fn whenever_the_caller_leaves_the_operation_runs_once_and_whole_or_not_at_all() {
    for promise in PROMISES {
        let mut before_claim = 0;
        let mut after_claim = 0;
        for polls in 0.. {
            let (store, faults) = slow_store();
            let layer = layer(promise, store);
            let runs = Arc::new(Runs::default());
            let service = layer.layer(charge(Arc::clone(&runs)));

            let call = service.clone().oneshot(request("k"));
            let done = poll_at_most(call, polls).await.is_some();
            layer.handle().drain(LONG).await.unwrap();

            let started = runs.started.get();
            assert_eq!(runs.finished.get(), started, "{polls} polls: cut short");
            assert_eq!(
                faults.calls(Method::Begin),
                started as u64,
                "{polls} polls: claimed and not run"
            );
            match started {
                0 => before_claim += 1,
                1 => after_claim += 1,
                more => panic!("{polls} polls: {more} runs"),
            }

            let retry = service.oneshot(request("k")).await.unwrap();
            let expected = if started == 1 { "true" } else { "false" };
            assert_eq!(marker(retry.headers()), Some(expected), "{polls} polls");
            assert_eq!(text(retry).await, "charged");
            assert_eq!(runs.started.get(), 1, "{polls} polls: run again");
            if done {
                break;
            }
        }
        // Three frames' ends, then the claim, the handler, its answer and the completion: each was left once.
        assert!(before_claim >= 3, "{before_claim}");
        assert!(after_claim >= 6, "{after_claim}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_under_way_when_the_caller_leaves_is_run() {
    for promise in PROMISES {
        let store = FaultyStore::new(MemoryStore::default());
        let gate = store.faults().on(Method::Begin).hold_after(1);
        let layer = layer(promise, store);
        let runs = Arc::new(Runs::default());
        let service = layer.layer(charge(Arc::clone(&runs)));

        let call = tokio::spawn(service.clone().oneshot(request("k")));
        gate.reached().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        gate.open();
        layer.handle().drain(LONG).await.unwrap();

        assert_eq!(runs.finished.get(), 1);
        let retry = service.oneshot(request("k")).await.unwrap();
        assert_eq!(marker(retry.headers()), Some("true"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_whose_caller_left_while_it_was_stored() {
    for promise in PROMISES {
        let store = FaultyStore::new(MemoryStore::default());
        let gate = store.faults().on(Method::Complete).hold_before(1);
        let layer = layer(promise, store);
        let runs = Arc::new(Runs::default());
        let service = layer.layer(charge(Arc::clone(&runs)));

        let call = tokio::spawn(service.clone().oneshot(request("k")));
        gate.reached().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        gate.open();
        layer.handle().drain(LONG).await.unwrap();

        let retry = service.oneshot(request("k")).await.unwrap();
        assert_eq!(marker(retry.headers()), Some("true"));
        assert_eq!(runs.started.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_counts_as_one_with_its_caller_and_without() {
    let store = FaultyStore::new(MemoryStore::default());
    let gate = store.faults().on(Method::Complete).hold_before(1);
    let layer = layer(Promise::AtMostOnce, store);
    let handle = layer.handle();
    let service = layer.layer(charge(Arc::default()));

    let call = tokio::spawn(service.oneshot(request("k")));
    gate.reached().await;
    assert_eq!(handle.running(), 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());

    assert_eq!(handle.running(), 1);
    let undrained = handle.drain(TICK).await.unwrap_err();
    assert_eq!(undrained.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_leaves_gives_its_place_up_and_changes_nothing() {
    for promise in PROMISES {
        let store = FaultyStore::new(MemoryStore::default());
        let faults = store.faults();
        let gate = faults.on(Method::Complete).hold_before(1);
        let config = IdempotencyConfig::default()
            .with_max_waiting(1)
            .with_wait(LONG);
        // Two processes: a duplicate of the other asks the store.
        let [here, elsewhere] =
            [store.clone(), store].map(|store| configured(layer(promise, store), config.clone()));
        let runs = Arc::new(Runs::default());
        let service = here.layer(charge(Arc::clone(&runs)));
        let first = tokio::spawn(service.clone().oneshot(request("k")));
        gate.reached().await;
        let service = elsewhere.layer(charge(Arc::clone(&runs)));

        for waiters in 1..=3 {
            let waiter = tokio::spawn(service.clone().oneshot(request("k")));
            faults.called(Method::LookUp, waiters).await;
            // The one place is taken.
            let refused = service.clone().oneshot(request("k")).await.unwrap();
            assert_eq!(refused.status(), 409);
            waiter.abort();
            assert!(waiter.await.unwrap_err().is_cancelled());
            faults.answered(Method::LookUp, waiters).await;
        }

        let waiter = tokio::spawn(service.clone().oneshot(request("k")));
        faults.called(Method::LookUp, 4).await;
        gate.open();
        let answers = (
            first.await.unwrap().unwrap(),
            waiter.await.unwrap().unwrap(),
        );
        assert_eq!(marker(answers.0.headers()), Some("false"));
        assert_eq!(marker(answers.1.headers()), Some("true"));
        assert_eq!(runs.started.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_by_what_runs_and_by_nothing_else() {
    for promise in PROMISES {
        let store = FaultyStore::new(MemoryStore::default());
        let gate = store.faults().on(Method::Complete).hold_before(1);
        let layer = configured(layer(promise, store), without_waiting().with_max_running(1));
        let runs = Arc::new(Runs::default());
        let service = layer.layer(charge(Arc::clone(&runs)));

        // Left while its body was on its way.
        for _ in 0..3 {
            let call = service.clone().oneshot(request("left-early"));
            let left = poll_at_most(call, 2).await;
            assert!(left.is_none(), "{left:?}");
            assert_eq!(layer.handle().running(), 0);
        }

        let call = tokio::spawn(service.clone().oneshot(request("left-late")));
        gate.reached().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        let refused = service.clone().oneshot(request("other")).await.unwrap();
        assert_eq!(refused.status(), 503);
        assert!(text(refused).await.contains("overloaded"));

        gate.open();
        layer.handle().drain(LONG).await.unwrap();
        let other = service.oneshot(request("other")).await.unwrap();
        assert_eq!(text(other).await, "charged");
    }
}

#[test]
fn work_that_its_runtime_cut_is_left_to_its_lease() {
    for promise in PROMISES {
        let store = MemoryStore::default();
        let layer = configured(layer(promise, store), without_waiting());
        let starts = Arc::new(Count::default());
        let started = Arc::new(tokio::sync::Notify::new());
        let (counted, notified) = (Arc::clone(&starts), Arc::clone(&started));
        let service = layer.layer(service_fn(move |_| {
            counted.add();
            notified.notify_one();
            std::future::pending::<Result<Response<http_body_util::Full<Bytes>>, Infallible>>()
        }));
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };

        let first = runtime();
        first.block_on(async {
            let call = service.clone().oneshot(request("k"));
            tokio::select! {
                _ = call => panic!("the handler never ends"),
                () = started.notified() => {}
            }
        });
        assert!(layer.handle().running() > 0);
        drop(first);

        assert_eq!(layer.handle().running(), 0);
        let retry = runtime().block_on(async { service.oneshot(request("k")).await.unwrap() });
        assert_eq!(retry.status(), 409);
        assert_eq!(starts.get(), 1);
    }
}

fn configured<St: steadfast::store::Store>(
    layer: IdempotencyLayer<St>,
    config: IdempotencyConfig,
) -> IdempotencyLayer<St> {
    layer.with_config(config).unwrap()
}
