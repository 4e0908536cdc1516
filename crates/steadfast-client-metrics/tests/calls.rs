//! What is counted of calls, and how long they took.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, pending},
    io,
    num::NonZeroUsize,
    time::Duration,
};

use allocation_counter::measure;
use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use steadfast_client_metrics::ClientMetricsLayer;
use tokio::{runtime::Builder, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

const REQUESTS: &str = "http_client_requests_total";
const DURATION: &str = "http_client_request_duration_seconds";

/// Runs in virtual time, with a recorder of its own.
fn recorded<F: Future>(run: impl FnOnce() -> F) -> Seen {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(run())
    });
    Seen::of(&snapshotter)
}

/// Series by name and labels.
#[derive(Debug, Default)]
struct Seen {
    counts: BTreeMap<String, u64>,
    durations: BTreeMap<String, Vec<f64>>,
}

impl Seen {
    fn of(snapshotter: &Snapshotter) -> Self {
        let mut seen = Self::default();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let labels = key.key().labels().map(|label| label.value().to_owned());
            let series = labels.collect::<Vec<_>>().join(" ");
            match (key.key().name(), value) {
                (REQUESTS, DebugValue::Counter(count)) => {
                    seen.counts.insert(series, count);
                }
                (DURATION, DebugValue::Histogram(values)) => {
                    let values = values.into_iter().map(f64::from).collect();
                    seen.durations.insert(series, values);
                }
                (name, value) => panic!("{name} is {value:?}"),
            }
        }
        seen
    }

    #[track_caller]
    fn assert_counts<const N: usize>(&self, expected: [(&str, u64); N]) {
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|(key, count)| (key.as_str(), *count))
            .collect();
        assert_eq!(counts, expected);
    }
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

fn status(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

#[test]
fn a_call_is_counted_by_method_host_and_status_and_timed_to_its_head() {
    let seen = recorded(|| async {
        let transport = service_fn(|request: Request<()>| async move {
            sleep(Duration::from_millis(250)).await;
            Ok::<_, Infallible>(status(if request.method() == "GET" { 200 } else { 503 }))
        });
        let mut client = ClientMetricsLayer::new().layer(transport);
        for _ in 0..2 {
            client
                .call(get("http://Provider.example/charges?card=4242"))
                .await
                .unwrap();
        }
        let post = Request::post("http://provider.example:8080/")
            .body(())
            .unwrap();
        client.call(post).await.unwrap();
    });

    seen.assert_counts([
        ("GET provider.example 200", 2),
        ("POST provider.example:8080 503", 1),
    ]);
    assert_eq!(seen.durations["GET provider.example"], [0.25, 0.25]);
    assert_eq!(seen.durations["POST provider.example:8080"], [0.25]);
}

#[test]
fn a_call_without_a_response_is_an_error() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async {
            Err::<Response<()>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        });
        ClientMetricsLayer::new()
            .layer(transport)
            .call(get("http://a/"))
            .await
            .unwrap_err();
    });

    seen.assert_counts([("GET a error", 1)]);
    assert_eq!(seen.durations["GET a"].len(), 1);
}

#[test]
fn a_call_that_is_dropped_is_cancelled_whether_or_not_it_was_polled() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
        let mut client = ClientMetricsLayer::new().layer(transport);
        drop(client.call(get("http://a/")));
        let waiting = client.call(get("http://a/"));
        tokio::time::timeout(Duration::from_secs(3), waiting)
            .await
            .unwrap_err();
    });

    seen.assert_counts([("GET a cancelled", 2)]);
    assert_eq!(seen.durations["GET a"], [0.0, 3.0]);
}

#[test]
fn a_call_that_panics_is_cancelled() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async {
            if true {
                panic!("in the transport");
            }
            Ok::<_, Infallible>(status(200))
        });
        let call = ClientMetricsLayer::new()
            .layer(transport)
            .oneshot(get("http://a/"));
        tokio::task::LocalSet::new()
            .run_until(async { tokio::task::spawn_local(call).await.unwrap_err() })
            .await;
    });

    seen.assert_counts([("GET a cancelled", 1)]);
}

#[test]
fn hosts_beyond_the_bound_count_for_one_that_is_other() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let layer = ClientMetricsLayer::new().with_max_hosts(NonZeroUsize::new(2).unwrap());
        for host in 0..1000 {
            let mut client = layer.layer(transport);
            client.call(get(&format!("http://h{host}/"))).await.unwrap();
            client.call(get("http://h0/")).await.unwrap();
        }
    });

    seen.assert_counts([
        ("GET h0 200", 1001),
        ("GET h1 200", 1),
        ("GET other 200", 998),
    ]);
}

#[test]
fn a_client_of_one_destination_has_its_name() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let mut client = ClientMetricsLayer::new()
            .with_host("orders")
            .layer(transport);
        client.call(get("/shop.Orders/Place")).await.unwrap();
        client.call(get("http://10.0.0.7:50051/")).await.unwrap();
    });

    seen.assert_counts([("GET orders 200", 2)]);
}

#[test]
fn methods_that_somebody_made_up_are_one() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let mut client = ClientMetricsLayer::new().layer(transport);
        for method in ["BREW", "WHEN", "get"] {
            let request = Request::builder()
                .method(method)
                .uri("http://a/")
                .body(())
                .unwrap();
            client.call(request).await.unwrap();
        }
    });

    seen.assert_counts([("_OTHER a 200", 3)]);
}

#[test]
fn a_series_that_is_known_is_counted_without_an_allocation() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
    let mut client = ClientMetricsLayer::new().layer(transport);
    let mut request = Request::new(());
    *request.uri_mut() = http::Uri::from_static("http://provider.example/charges");
    let mut call = || {
        drop(runtime.block_on(client.call(request.clone())).unwrap());
    };
    call();

    assert_eq!(measure(&mut call).count_total, 0);
}
