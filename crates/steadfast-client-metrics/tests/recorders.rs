//! Recorders that panic, and recorders that make calls themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, Ready, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use http::{Request, Response};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use steadfast_client_metrics::{ClientMetrics, ClientMetricsLayer};
use tower::{Layer, Service, service_fn};

/// Runs this code wherever a recorder's own would run.
#[derive(Clone)]
struct Runs(Arc<dyn Fn(&'static str) + Send + Sync>);

impl Runs {
    fn new(code: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(code))
    }
}

impl Recorder for Runs {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        (self.0)("describe a counter");
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        (self.0)("describe a histogram");
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        (self.0)("register a counter");
        Counter::from_arc(Arc::new(self.clone()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        (self.0)("register a histogram");
        Histogram::from_arc(Arc::new(self.clone()))
    }
}

impl CounterFn for Runs {
    fn increment(&self, _: u64) {
        (self.0)("increment");
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Runs {
    fn record(&self, _: f64) {
        (self.0)("record");
    }
}

const PLACES: [&str; 6] = [
    "describe a counter",
    "describe a histogram",
    "register a counter",
    "register a histogram",
    "increment",
    "record",
];

type Answer = Result<Response<()>, Infallible>;
type Transport = tower::util::ServiceFn<fn(Request<()>) -> Ready<Answer>>;

fn client(layer: &ClientMetricsLayer) -> ClientMetrics<Transport> {
    let transport: fn(Request<()>) -> Ready<Answer> = |_| ready(Ok(Response::new(())));
    layer.layer(service_fn(transport))
}

fn call(client: &mut ClientMetrics<Transport>, uri: &str) {
    let mut call = client.call(Request::get(uri).body(()).unwrap());
    let polled = std::pin::Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok(_))));
}

#[test]
fn a_recorder_that_panics_fails_no_call_wherever_it_does() {
    for place in PLACES {
        let recorder = Runs::new(move |at| assert_ne!(at, place));
        metrics::with_local_recorder(&recorder, || {
            let mut client = client(&ClientMetricsLayer::new());
            for _ in 0..3 {
                call(&mut client, "http://a/");
            }
        });
    }
}

#[test]
fn a_recorder_that_panics_while_another_panic_drops_a_call_does_not_end_the_process() {
    for place in PLACES {
        let panics = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&panics);
        let recorder = Runs::new(move |at| {
            if at == place {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("in the recorder");
            }
        });
        metrics::with_local_recorder(&recorder, || {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let mut client = client(&ClientMetricsLayer::new());
                let _call = client.call(Request::get("http://a/").body(()).unwrap());
                panic!("in the program");
            }));

            let panic = panicked.unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"in the program"));
        });
        assert_eq!(panics.load(Ordering::Relaxed), 1, "{place}");
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn a_recorder_may_make_a_call_through_the_same_layer_wherever_it_likes() {
    // If it hangs, it hangs there.
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        for place in PLACES {
            let layer = ClientMetricsLayer::new();
            let again = layer.clone();
            let recorder = Runs::new(move |at| {
                if at != place || IS_INSIDE.replace(true) {
                    return;
                }
                for uri in ["http://a/", "http://b/"] {
                    call(&mut client(&again), uri);
                }
                IS_INSIDE.set(false);
            });
            metrics::with_local_recorder(&recorder, || {
                for _ in 0..2 {
                    call(&mut client(&layer), "http://a/");
                }
            });
            done.send(place).unwrap();
        }
    });

    for place in PLACES {
        assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(place));
    }
}

#[test]
fn a_layer_describes_its_metrics_once() {
    let places = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&places);
    let recorder = Runs::new(move |at| told.lock().unwrap().push(at));
    metrics::with_local_recorder(&recorder, || {
        let layer = ClientMetricsLayer::new();
        for uri in ["http://a/", "http://b/", "/", "http://a/"] {
            call(&mut client(&layer), uri);
        }
    });

    let places = places.lock().unwrap();
    let times = |place| places.iter().filter(|each| **each == place).count();
    assert_eq!(PLACES.map(times), [1, 1, 3, 3, 4, 4]);
}
