//! What is counted of calls, and how long they took.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io,
    num::NonZeroUsize,
    pin::pin,
    task::Poll,
    time::Duration,
};

use allocation_counter::measure;
use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use steadfast_client_metrics::ClientMetricsLayer;
use steadfast_http::Deadline;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout_at},
};
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
fn wherever_a_call_is_dropped_it_is_counted_once() {
    const PAUSES: usize = 3;
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async {
            for _ in 0..PAUSES {
                tokio::task::yield_now().await;
            }
            Ok::<_, Infallible>(status(200))
        });
        let mut client = ClientMetricsLayer::new().layer(transport);
        for polls in 0..=PAUSES + 1 {
            let mut call = pin!(client.call(get("http://a/")));
            let mut left = polls;
            poll_fn(|cx| {
                while left > 0 && call.as_mut().poll(cx).is_pending() {
                    left -= 1;
                }
                Poll::Ready(())
            })
            .await;
            assert_eq!(left > 0, polls > PAUSES);
        }
    });

    seen.assert_counts([("GET a 200", 1), ("GET a cancelled", 4)]);
    assert_eq!(seen.durations["GET a"].len(), 5);
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
        ("GET _OTHER 200", 998),
        ("GET h0 200", 1001),
        ("GET h1 200", 1),
    ]);
}

#[test]
fn neither_spellings_nor_what_is_no_host_takes_a_place() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let layer = ClientMetricsLayer::new().with_max_hosts(NonZeroUsize::new(2).unwrap());
        let mut client = layer.layer(transport);
        for uri in ["http://a", "http://A:80/", "https://u:p@a:443", "https://A"] {
            client.call(get(uri)).await.unwrap();
        }
        for junk in ["a,b", "(c)", "[zz]", "", "a b", "%61"] {
            let request = Request::get("/").header("host", junk).body(()).unwrap();
            client.call(request).await.unwrap();
        }
        client.call(get("http://a:81")).await.unwrap();
        client.call(get("http://b")).await.unwrap();
    });

    seen.assert_counts([
        ("GET _OTHER 200", 1),
        ("GET _UNKNOWN 200", 6),
        ("GET a 200", 4),
        ("GET a:81 200", 1),
    ]);
}

#[test]
fn no_label_tells_a_secret_of_the_request() {
    const SECRET: &str = "sk-live-51bd";
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let mut client = ClientMetricsLayer::new().layer(transport);
        let requests = [
            Request::get(format!("https://user:{SECRET}@a/{SECRET}?key={SECRET}")),
            Request::get(format!("https://{SECRET}:{SECRET}@a/")),
            Request::get("/").header("host", format!("user:{SECRET}@a")),
            Request::get("/").header("host", format!("user:{SECRET}")),
            Request::get("/").header("host", format!("a/?key={SECRET}")),
            Request::get("http://a/").header("authorization", format!("Bearer {SECRET}")),
            Request::builder().method(SECRET).uri("http://a/"),
        ];
        for request in requests {
            client.call(request.body(()).unwrap()).await.unwrap();
        }
    });

    assert_eq!(seen.counts.values().sum::<u64>(), 7);
    for series in seen.counts.keys().chain(seen.durations.keys()) {
        assert!(!series.contains(SECRET), "{series}");
    }
}

#[test]
fn a_call_dropped_after_its_deadline_has_elapsed_and_one_before_is_cancelled() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
        let mut client = ClientMetricsLayer::new().layer(transport);
        let deadline = Instant::now() + Duration::from_secs(3);
        for wait in [2, 3, 1] {
            let mut request = get("http://a/");
            request.extensions_mut().insert(Deadline::at(deadline));
            let call = client.call(request);
            let until = deadline - Duration::from_secs(3) + Duration::from_secs(wait);
            timeout_at(until, call).await.unwrap_err();
        }
    });

    seen.assert_counts([("GET a cancelled", 1), ("GET a elapsed", 2)]);
}

#[test]
fn statuses_that_somebody_made_up_are_one() {
    let seen = recorded(|| async {
        let transport = service_fn(|request: Request<()>| async move {
            let code = request.uri().path().trim_start_matches('/');
            Ok::<_, Infallible>(status(code.parse().unwrap()))
        });
        let mut client = ClientMetricsLayer::new().layer(transport);
        for code in (200..1000).filter(|code| code % 100 > 60 || *code == 204) {
            client.call(get(&format!("http://a/{code}"))).await.unwrap();
        }
    });

    seen.assert_counts([("GET a 204", 1), ("GET a _OTHER", 312)]);
}

#[test]
fn a_client_of_one_destination_has_its_name() {
    let seen = recorded(|| async {
        let transport = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(status(200)) });
        let layer = ClientMetricsLayer::for_host("orders");
        // There is nothing to set.
        let mut client = layer.with_max_hosts(NonZeroUsize::MIN).layer(transport);
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
    let layer = ClientMetricsLayer::new().with_max_hosts(NonZeroUsize::MIN);
    let mut client = layer.layer(transport);
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        // A host with a name, spelled in two ways; one beyond the bound; and none.
        for uri in ["http://a/charges", "http://A:80/charges", "http://b/", "/"] {
            let request = get(uri);
            let mut call = || drop(runtime.block_on(client.call(request.clone())).unwrap());
            call();

            assert_eq!(measure(&mut call).count_total, 0, "{uri}");
        }
    });
}
