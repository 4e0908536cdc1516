//! breaker B11: a breaker per key, and no more of them than there is room for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use steadfast_circuit_breaker::{
    BreakerConfig, BreakerKey, BreakerRegistry, Cause, CircuitBreakerLayer, Destination, Failure,
    Guarded, InvalidBreaker, OverHttp, Permit, Rejected, SafetyClass, State, Verdict,
};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

type Answer = Result<Response<Full<Bytes>>, Infallible>;

mod keys {
    use super::*;

    #[test]
    fn a_destination_is_scheme_host_and_port_whatever_else_is_in_the_uri() {
        let plain = of("https://api.test/");

        for same in [
            "https://api.test/orders/1?page=2",
            "https://API.Test/",
            "https://api.test:443/",
            "https://api.test:/",
            "https://name:password@api.test/",
            "https://name:81@api.test:443/",
        ] {
            assert_eq!(of(same), plain, "{same}");
            assert_eq!(of(same).to_string(), "https://api.test", "{same}");
            assert_eq!(hash(&of(same)), hash(&plain), "{same}");
        }
        for other in [
            "http://api.test/",
            "https://api.test:8443/",
            "https://api.test:80/",
            "https://other.test/",
            "https://api.test.evil.test/",
            "api.test",
        ] {
            assert_ne!(of(other), plain, "{other}");
        }
    }

    #[test]
    fn the_port_of_a_scheme_is_that_of_a_uri_without_one() {
        for (given, name) in [
            ("http://api.test:80/", "http://api.test"),
            ("ws://api.test:80/", "ws://api.test"),
            ("wss://api.test:443/", "wss://api.test"),
            ("http://api.test:443/", "http://api.test:443"),
            ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]"),
            ("http://[::1]:81/", "http://[::1]:81"),
            ("ftp://api.test:80/", "ftp://api.test:80"),
            ("api.test:443", "api.test:443"),
        ] {
            assert_eq!(of(given).to_string(), name);
        }
    }

    #[test]
    fn a_uri_without_authority_leaves_it_to_the_host_header() {
        let host = |host: &'static str| {
            let request = Request::builder().uri("/orders?x=1");
            let request = request.header(header::HOST, host).body(()).unwrap();
            Destination::of_request(&request).to_string()
        };

        assert_eq!(host("API.test"), "api.test");
        assert_eq!(host("api.test:8080"), "api.test:8080");
        assert_eq!(host("[::1]:80"), "[::1]:80");
        for invalid in [
            "",
            ":80",
            "name@api.test",
            "api.test/orders",
            "a b",
            "[::1",
            "[::1]x",
        ] {
            assert_eq!(host(invalid), "unknown", "{invalid}");
        }

        let request = Request::builder().uri("https://api.test/");
        let request = request.header(header::HOST, "evil.test").body(()).unwrap();
        assert_eq!(Destination::of_request(&request), of("https://api.test"));

        let opaque = HeaderValue::from_bytes(b"\xffapi.test").unwrap();
        let request = Request::builder().header(header::HOST, opaque).body(());
        assert_eq!(
            Destination::of_request(&request.unwrap()),
            Destination::UNKNOWN
        );
    }

    #[test]
    fn requests_without_a_host_and_hosts_that_cannot_be_share_a_key() {
        let nothing = Destination::of_request(&Request::new(()));
        let endless = format!("http://{}/", "a".repeat(Destination::MAX_HOST + 1));
        let longest = format!("http://{}/", "a".repeat(Destination::MAX_HOST));

        assert_eq!(nothing, Destination::UNKNOWN);
        assert_eq!(of(&endless), Destination::UNKNOWN);
        assert_ne!(of(&longest), Destination::UNKNOWN);
    }

    #[test]
    fn a_clone_is_equal_and_shares_nothing_with_the_request() {
        for uri in ["foo://API.test:81/", "https://api.test/", "/"] {
            let destination = of(uri);

            let clone = destination.clone();

            assert_eq!(clone, destination);
            assert_eq!(hash(&clone), hash(&destination));
            assert_eq!(clone.to_string(), destination.to_string());
            assert_eq!(clone.scheme(), destination.scheme());
            assert_eq!(clone.port(), destination.port());
        }

        let bytes = Bytes::from(b"https://api.test/secret".to_vec());
        let uri = Uri::from_maybe_shared(bytes.clone()).unwrap();
        let kept = Destination::of(&uri).clone();
        drop(uri);
        assert!(bytes.is_unique());
        drop(kept);
    }

    #[tokio::test]
    async fn closures_find_keys_in_requests_of_any_type() {
        let registry = BreakerRegistry::by(config(), |tenant: &u32| *tenant).unwrap();
        let inner = service_fn(|tenant: u32| ready(if tenant == 7 { Err("down") } else { Ok(()) }));
        let mut service = CircuitBreakerLayer::new(registry.clone(), verdict).layer(inner);

        for _ in 0..2 {
            service.ready().await.unwrap().call(7).await.unwrap_err();
        }

        let rejected = service.ready().await.unwrap().call(7).await.unwrap_err();
        assert_eq!(rejected.downcast_ref::<Rejected>().unwrap().breaker(), "7");
        service.ready().await.unwrap().call(8).await.unwrap();
        assert_eq!(registry.get(&7).unwrap().state(), State::Open);
    }

    #[tokio::test]
    async fn an_extractor_may_be_a_type_with_a_name() {
        #[derive(Debug)]
        struct PerMethod;
        impl<B> BreakerKey<Request<B>> for PerMethod {
            type Key = http::Method;
            fn key(&self, request: &Request<B>) -> http::Method {
                request.method().clone()
            }
        }
        let registry: BreakerRegistry<PerMethod, http::Method> =
            BreakerRegistry::with_extractor(config(), PerMethod).unwrap();
        let mut service = served(&registry);

        call(&mut service, "https://a.test/").await;
        call(&mut service, "https://b.test/").await;

        assert_eq!(registry.len(), 1);
        assert!(registry.get(&http::Method::GET).is_some());
    }
}

mod sharing {
    use super::*;

    #[tokio::test]
    async fn a_destination_that_fails_is_left_alone_and_no_other() {
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let mut service = served(&registry);

        open(&mut service, "https://down.test/orders").await;

        let answer = call(&mut service, "https://DOWN.test:443/other?x").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
        let rejected = answer.extensions().get::<Rejected>().unwrap();
        assert_eq!(rejected.breaker(), "https://down.test");
        assert_eq!(call(&mut service, "https://up.test/").await.status(), 200);
        assert_eq!(
            call(&mut service, "http://down.test/up").await.status(),
            200
        );
    }

    #[tokio::test]
    async fn clones_and_services_of_a_layer_share_the_breakers() {
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let mut first = served(&registry);
        let mut second = first.clone();
        let mut third = served(&registry.clone());

        open(&mut first, "https://down.test/").await;

        for service in [&mut second, &mut third] {
            let answer = call(service, "https://down.test/").await;
            assert!(answer.extensions().get::<Rejected>().is_some());
        }
    }

    #[tokio::test]
    async fn the_service_is_ready_when_the_inner_one_is_though_a_breaker_is_open() {
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let inner = Counting(count);
        let mut service = CircuitBreakerLayer::http(registry.clone()).layer(inner);
        open(&mut service, "https://down.test/").await;
        let before = asked.load(Ordering::Relaxed);

        service.ready().await.unwrap();

        assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    }

    #[test]
    fn threads_that_see_a_key_first_at_one_moment_make_one_breaker() {
        for round in 0..50 {
            let registry = limited(1000);
            let barrier = Barrier::new(4);
            let hold = || {
                let mut service = guarded(&registry);
                barrier.wait();
                fail(&mut service, round);
            };

            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(hold);
                }
            });

            assert_eq!(registry.len(), 1);
            let breaker = registry.get(&round).unwrap();
            assert_eq!(breaker.state(), State::Open, "failures were counted apart");
        }
    }

    #[test]
    fn hooks_hear_of_breakers_that_are_there_and_of_those_that_come() {
        let registry = limited(1000);
        let mut service = guarded(&registry);
        fail(&mut service, 1);
        let heard = hear(&registry);

        for key in [1, 2, 2] {
            fail(&mut service, key);
        }

        assert_eq!(
            *heard.lock().unwrap(),
            [("1".into(), State::Open), ("2".into(), State::Open)]
        );
    }

    #[test]
    fn a_hook_may_use_the_registry() {
        let registry = limited(1000);
        let inside = registry.clone();
        registry.on_transition(move |_, _| {
            fail(&mut guarded(&inside), 9);
            inside.on_transition(|_, _| {});
        });

        let mut service = guarded(&registry);
        fail(&mut service, 1);
        fail(&mut service, 1);

        assert_eq!(registry.len(), 2);
    }
}

mod settings {
    use super::*;

    #[test]
    fn a_key_may_have_other_numbers() {
        let patient = config().with_consecutive_failures(4);
        let registry = limited(1000);
        let registry = registry.with_override(7, patient).unwrap();
        let mut service = guarded(&registry);

        for key in [7, 8, 7, 8, 7] {
            fail(&mut service, key);
        }

        assert_eq!(state(&registry, 7), Some(State::Closed));
        assert_eq!(state(&registry, 8), Some(State::Open));
        assert_eq!(*registry.get(&7).unwrap().config(), patient);
        fail(&mut service, 7);
        assert_eq!(state(&registry, 7), Some(State::Open));
    }

    #[test]
    fn numbers_of_a_destination_are_found_by_its_uri() {
        let patient = config().with_consecutive_failures(4);
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let registry = registry
            .with_override(of("https://slow.test"), patient)
            .unwrap();

        let mut service = served(&registry);
        now(call(&mut service, "https://SLOW.test:443/orders"));

        let breaker = registry.get(&of("https://slow.test")).unwrap();
        assert_eq!(*breaker.config(), patient);
    }

    #[test]
    fn numbers_that_cannot_work_are_refused() {
        let never = config()
            .without_failure_rate()
            .without_consecutive_failures();
        let zero = config().with_consecutive_failures(0);

        let refused = BreakerRegistry::per_destination(never).unwrap_err();
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let overridden = registry
            .with_override(of("https://a.test"), zero)
            .unwrap_err();

        assert_eq!(refused, InvalidBreaker::NeverOpens);
        assert!(matches!(overridden, InvalidBreaker::Zero { .. }));
    }
}

mod capacity {
    use super::*;

    #[test]
    fn what_is_idle_and_well_makes_room_the_longest_unused_first() {
        let registry = limited(3);
        let mut service = guarded(&registry);
        for key in [1, 2, 3, 1] {
            succeed(&mut service, key);
        }

        succeed(&mut service, 4);
        assert_eq!(keys(&registry), [1, 3, 4]);
        succeed(&mut service, 5);
        assert_eq!(keys(&registry), [1, 4, 5]);
    }

    #[test]
    fn where_all_were_used_one_of_them_goes_and_a_new_key_is_guarded() {
        let registry = limited(3);
        let mut service = guarded(&registry);
        for key in [1, 2, 3, 1, 2, 3] {
            succeed(&mut service, key);
        }

        succeed(&mut service, 4);

        assert_eq!(registry.len(), 3);
        assert!(registry.get(&4).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_a_permit_a_handle_or_a_failure_stays() {
        let registry = limited(4);
        let mut service = guarded(&registry);
        let handle = {
            succeed(&mut service, 1);
            registry.get(&1).unwrap()
        };
        succeed(&mut service, 2);
        let permit: Permit = registry.get(&2).unwrap().admit(None).unwrap();
        fail(&mut service, 3);
        let call = service.call(Call { key: 4, ends: None });

        for key in 10..200 {
            succeed(&mut service, key);
        }
        assert_eq!(keys(&registry), [1, 2, 3, 4]);

        drop((handle, permit, call));
        succeed(&mut service, 10);
        assert_eq!(keys(&registry), [1, 2, 3, 4], "it was full a moment ago");
        tokio::time::advance(Duration::from_millis(100)).await;
        for key in 10..200 {
            succeed(&mut service, key);
        }
        assert_eq!(keys(&registry).first(), Some(&3));
        assert_eq!(registry.len(), 4);
    }

    #[test]
    fn a_rate_that_has_failures_in_it_stays_though_a_success_ended_their_run() {
        let registry = limited(2);
        let mut service = guarded(&registry);
        fail(&mut service, 1);
        succeed(&mut service, 1);

        for key in 10..20 {
            succeed(&mut service, key);
        }

        assert_eq!(keys(&registry), [1, 19]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_survives_a_hundred_thousand_other_keys_and_the_rest_is_bounded() {
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let mut service = served(&registry);
        open(&mut service, "https://down.test/").await;

        for number in 0..100_000 {
            let answer = call(&mut service, &format!("https://h{number}.test/")).await;
            assert_eq!(answer.status(), 200);
        }

        assert_eq!(registry.len(), BreakerRegistry::DEFAULT_CAPACITY);
        let answer = call(&mut service, "https://down.test/").await;
        assert!(answer.extensions().get::<Rejected>().is_some());
        assert_eq!(registry.len(), BreakerRegistry::DEFAULT_CAPACITY);
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_that_all_fail_neither_fill_memory_nor_stop_calls_to_others() {
        let registry = limited(100);
        let heard = hear(&registry);
        let mut service = guarded(&registry);

        for key in 0..10_000 {
            fail(&mut service, key);
            fail(&mut service, key);
        }

        assert_eq!(registry.len(), 100);
        assert_eq!(state(&registry, 99), Some(State::Open));
        assert_eq!(registry.overflow().state(), State::ObserveOnly);
        succeed(&mut service, 20_000);
        assert!(registry.get(&20_000).is_none());
        let told = heard.lock().unwrap();
        assert!(
            told.contains(&("overflow".into(), State::Open)),
            "it tells that it would have opened"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn overflow_guards_all_as_one_if_it_is_told_to() {
        let registry = limited(1);
        registry.overflow().force_closed();
        let mut service = guarded(&registry);
        fail(&mut service, 1);

        fail(&mut service, 2);
        fail(&mut service, 3);

        assert!(is_rejected(&mut service, 4));
        assert_eq!(registry.overflow().name(), "overflow");
        assert!(!is_rejected(&mut service, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_long_ago_makes_room_and_what_is_commanded_does_not() {
        let registry = limited(4);
        let mut service = guarded(&registry);
        for key in [1, 1, 2, 3, 4, 4] {
            fail(&mut service, key);
        }
        registry.get(&3).unwrap().force_open();
        let almost = BreakerRegistry::FORGET_AFTER - Duration::from_secs(1);
        tokio::time::advance(almost).await;
        fail(&mut service, 9);
        assert_eq!(keys(&registry), [1, 2, 3, 4]);

        tokio::time::advance(almost).await;
        // Key 4 probes, and is open again.
        fail(&mut service, 4);
        tokio::time::advance(Duration::from_secs(10)).await;
        for key in 10..30 {
            succeed(&mut service, key);
        }

        assert_eq!(keys(&registry), [3, 4, 28, 29]);
    }

    #[test]
    fn a_breaker_that_is_gone_is_in_no_state() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            let registry = limited(2);
            let mut service = guarded(&registry);
            for _ in 0..2 {
                fail(&mut service, 1);
            }
            assert_eq!(registry.get(&1).unwrap().state(), State::Open);

            drop((service, registry));
        });

        let gauges: Vec<_> = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .filter_map(|(_, _, _, value)| match value {
                DebugValue::Gauge(state) => Some(state.0),
                DebugValue::Counter(_) | DebugValue::Histogram(_) => None,
            })
            .collect();
        assert_eq!(gauges, [0.0; State::ALL.len()]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_opened_before_stays_although_it_is_closed() {
        let registry = limited(2);
        let mut service = guarded(&registry);
        fail(&mut service, 1);
        fail(&mut service, 1);
        registry.get(&1).unwrap().force_closed();

        for key in 10..20 {
            succeed(&mut service, key);
        }

        assert_eq!(keys(&registry), [1, 19]);
    }
}

mod names {
    use super::*;

    #[test]
    fn metrics_have_no_more_names_than_the_capacity_and_hooks_hear_every_key() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let registry = limited(3);
        let heard = hear(&registry);

        metrics::with_local_recorder(&recorder, || {
            let mut service = guarded(&registry);
            for key in (0..100).chain([0]) {
                succeed(&mut service, key);
            }
            fail(&mut service, 50);
            fail(&mut service, 50);
        });

        let snapshot = snapshotter.snapshot().into_vec();
        let labels = snapshot.iter().flat_map(|(key, ..)| key.key().labels());
        let mut names: Vec<&str> = labels
            .filter(|label| label.key() == "breaker")
            .map(metrics::Label::value)
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["0", "1", "2", "other"]);
        assert_eq!(registry.get(&0).unwrap().name(), "0", "it keeps its name");
        assert_eq!(*heard.lock().unwrap(), [("50".into(), State::Open)]);
    }
}

mod cost {
    use super::*;

    #[test]
    fn a_known_key_costs_no_allocation() {
        let registry = BreakerRegistry::per_destination(config()).unwrap();
        let mut guarded = served(&registry);
        let mut bare = service_fn(respond);
        for request in [absolute as fn() -> Request<()>, with_host] {
            now(guarded.call(request())).unwrap();
            let direct = allocations(|| drop(now(bare.call(request()))));

            let through = allocations(|| drop(now(guarded.call(request()))));

            assert_eq!(through, direct);
        }
    }

    #[test]
    fn a_breaker_of_a_key_costs_what_the_docs_say() {
        let registry = limited(1000);
        let mut service = guarded(&registry);
        succeed(&mut service, 1);

        let grown = measure(|| {
            for key in 2..=500 {
                succeed(&mut service, key);
            }
        });

        let threads = thread::available_parallelism().unwrap().get().min(8);
        let each = usize::try_from(grown.bytes_current).unwrap() / 499;
        let documented = 2048 + threads * 512;
        assert!(each <= documented, "{each} bytes, documented {documented}");
        assert!(
            each > documented / 2,
            "{each} bytes, documented {documented}"
        );
    }

    fn absolute() -> Request<()> {
        Request::builder()
            .uri("https://name@API.test:443/orders?page=1")
            .body(())
            .unwrap()
    }

    fn with_host() -> Request<()> {
        let host = HeaderValue::from_static("API.test:8080");
        Request::builder()
            .uri("/orders")
            .header(header::HOST, host)
            .body(())
            .unwrap()
    }

    fn allocations(work: impl FnOnce()) -> u64 {
        let AllocationInfo { count_total, .. } = measure(work);
        count_total
    }
}

/// Two failures in a row open it.
fn config() -> BreakerConfig {
    BreakerConfig::default()
        .with_consecutive_failures(2)
        .with_open_jitter(0.0)
}

fn of(uri: &str) -> Destination {
    Destination::of(&uri.parse::<Uri>().unwrap())
}

fn hash(destination: &Destination) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(destination)
}

// HTTP: hosts that begin with "down" fail.

fn respond(request: Request<()>) -> Ready<Answer> {
    let is_up = request.uri().path() == "/up"
        || !Destination::of_request(&request)
            .host()
            .unwrap_or_default()
            .to_ascii_lowercase()
            .starts_with("down");
    let mut response = Response::new(Full::default());
    if !is_up {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    ready(Ok(response))
}

type Http<X, K> = Guarded<
    tower::util::ServiceFn<fn(Request<()>) -> Ready<Answer>>,
    OverHttp,
    BreakerRegistry<X, K>,
>;

fn served<X, K>(registry: &BreakerRegistry<X, K>) -> Http<X, K> {
    let inner = service_fn(respond as fn(Request<()>) -> Ready<Answer>);
    CircuitBreakerLayer::http(registry.clone()).layer(inner)
}

async fn call<S, B>(service: &mut S, uri: &str) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let request = Request::builder().uri(uri).body(()).unwrap();
    service.ready().await.unwrap().call(request).await.unwrap()
}

/// Lets the destination fail until its breaker is open.
async fn open<S, B>(service: &mut S, uri: &str)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    for _ in 0..2 {
        assert_eq!(call(service, uri).await.status(), StatusCode::BAD_GATEWAY);
    }
}

/// Counts how often it is asked whether it is ready.
#[derive(Clone)]
struct Counting(Arc<AtomicUsize>);

impl Service<Request<()>> for Counting {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        respond(request)
    }
}

// Not HTTP: a call says which key it is of, and how it ends.

struct Call {
    key: u32,
    /// `None` is never.
    ends: Option<Result<(), &'static str>>,
}

type Keyed = BreakerRegistry<fn(&Call) -> u32, u32>;

fn limited(capacity: usize) -> Keyed {
    let key: fn(&Call) -> u32 = |call| call.key;
    let registry = BreakerRegistry::by(config(), key).unwrap();
    registry.with_capacity(NonZeroUsize::new(capacity).unwrap())
}

fn guarded(registry: &Keyed) -> impl Service<Call, Response = (), Error = BoxError> + use<> {
    let inner =
        service_fn(|call: Call| poll_fn(move |_| call.ends.map_or(Poll::Pending, Poll::Ready)));
    CircuitBreakerLayer::new(registry.clone(), verdict).layer(inner)
}

fn verdict(result: &Result<(), &'static str>) -> Verdict {
    match result {
        Ok(()) => Verdict::Success,
        Err(_) => Verdict::Failure(Failure::new(SafetyClass::Transient, Cause::Fault)),
    }
}

fn succeed(service: &mut impl Service<Call, Response = (), Error = BoxError>, key: u32) {
    now(service.call(Call {
        key,
        ends: Some(Ok(())),
    }))
    .unwrap();
}

/// A call that fails by itself, or is rejected.
fn fail(service: &mut impl Service<Call, Response = (), Error = BoxError>, key: u32) {
    now(service.call(Call {
        key,
        ends: Some(Err("down")),
    }))
    .unwrap_err();
}

fn is_rejected(
    service: &mut impl Service<Call, Response = (), Error = BoxError>,
    key: u32,
) -> bool {
    let result = now(service.call(Call {
        key,
        ends: Some(Ok(())),
    }));
    result.is_err_and(|error| error.is::<Rejected>())
}

fn state(registry: &Keyed, key: u32) -> Option<State> {
    registry.get(&key).map(|breaker| breaker.state())
}

fn keys(registry: &Keyed) -> Vec<u32> {
    let mut keys: Vec<u32> = registry
        .breakers()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    keys.sort_unstable();
    keys
}

/// What a hook is told: of which key, and the state.
fn hear(registry: &Keyed) -> Arc<Mutex<Vec<(String, State)>>> {
    let heard = Arc::<Mutex<Vec<_>>>::default();
    let told = Arc::clone(&heard);
    registry.on_transition(move |name, transition| {
        told.lock()
            .unwrap()
            .push((name.to_owned(), transition.to()));
    });
    heard
}

/// The output of a future that waits for nothing.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}
