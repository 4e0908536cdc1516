//! Beneath retries, above them, and one breaker around another (circuit-breaker B4, B6, B7; retry R12).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use steadfast::{
    circuit_breaker::{
        BreakerConfig, CircuitBreaker, CircuitBreakerLayer, Guarded, Reason, Rejected, State,
        Transition, When,
    },
    http::{Deadline, IdempotentRequest, LocalRejection, body::ReplayBody, problem::Code},
    retry::{
        Backoff, IdempotencyKeyLayer, Jitter, Retry, RetryConfig, RetryLayer, RetryOutcome,
        StoppedBy,
    },
};
use tokio::time::Instant;
use tonic::Status;
use tower::{Layer, ServiceBuilder, util::MapRequest};

use super::{
    answer, assert_rejected, assert_rejected_in_grpc, breaker, brief, configured, counted,
    echo::{Echo, EchoClient, Step as EchoStep, channel, saying},
    failures_in_a_row, get, grpc, http, hyper_client, post, recorded,
    script::{Script, Step, answers, says},
    send,
    servers::Till,
    trip, until_probed,
};
use crate::support::{Protocol, eventually, serve, within};

fn config() -> RetryConfig {
    let backoff = Backoff::constant(Duration::from_millis(1)).with_jitter(Jitter::None);
    RetryConfig::default().with_backoff(backoff)
}

fn retries(config: RetryConfig) -> RetryLayer {
    RetryLayer::http().with_config(config).unwrap()
}

type Body = Full<Bytes>;
type Transport = Client<HttpConnector, ReplayBody<Body>>;

fn retried(config: RetryConfig, layer: &CircuitBreakerLayer) -> Retry<Guarded<Transport>> {
    retries(config).layer(layer.layer(hyper_client(Protocol::Http1)))
}

fn marked<B>(mut request: Request<B>) -> Request<B> {
    request.extensions_mut().insert(IdempotentRequest);
    request
}

fn outcome(response: &Response<Bytes>) -> RetryOutcome {
    RetryOutcome::of(response.extensions()).unwrap()
}

/// A layer that counts its rejections.
fn counting(breaker: &CircuitBreaker) -> (CircuitBreakerLayer, Arc<AtomicUsize>) {
    let rejections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&rejections);
    let layer = http(breaker).with_fallback(move |_, rejection| {
        count.fetch_add(1, Ordering::SeqCst);
        rejection
    });
    (layer, rejections)
}

#[tokio::test]
async fn a_rejection_is_never_tried_again_and_never_reaches_the_destination() {
    let script = Script::serve([]).await;
    let breaker = breaker();
    trip(&breaker);
    let (layer, rejections) = counting(&breaker);
    let client = retried(config(), &layer);

    let requests = || {
        let url = script.url();
        [
            get(&url),
            post(&url, "amount=5"),
            marked(post(&url, "amount=5")),
        ]
    };
    for (n, request) in requests().into_iter().enumerate() {
        let response = answer(&client, request).await;
        assert_rejected(&response);
        assert_eq!(outcome(&response).attempts(), 1);
        assert_eq!(outcome(&response).stopped_by(), StoppedBy::Ignored);
        assert_eq!(rejections.load(Ordering::SeqCst), n + 1);
    }

    // Without a fallback of one's own.
    let client = retried(config(), &http(&breaker));
    for request in requests() {
        let response = answer(&client, request).await;
        assert_rejected(&response);
        assert_eq!(outcome(&response).attempts(), 1);
    }
    assert_eq!(script.requests(), 0);
}

#[tokio::test]
async fn a_fallback_that_fails_is_not_tried_again_either() {
    let breaker = breaker();
    trip(&breaker);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let layer = http(&breaker).with_fallback(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Bytes::from("nothing in the cache"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });

    let response = answer(&retried(config(), &layer), get("http://127.0.0.1:1/")).await;

    assert_eq!(response.body(), "nothing in the cache");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_rejection_of_grpc_is_never_tried_again() {
    let echo = Echo::new([]);
    let breaker = breaker();
    trip(&breaker);
    let layer = RetryLayer::grpc().with_config(config()).unwrap();
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(layer)
        .layer(grpc(&breaker))
        .service(channel(echo.clone().serve().await));
    let started = Instant::now();

    let status = within(EchoClient::new(stack).say(saying("hello"))).await;

    // It did not wait for what the rejection pushes back with.
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_rejected_in_grpc(&status.unwrap_err());
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn each_attempt_counts_and_the_one_after_the_fifth_is_not_made() {
    let script = Script::serve(vec![answers(503); 5]).await;
    let breaker = breaker();
    let client = retried(config(), &http(&breaker));

    let first = answer(&client, get(&script.url())).await;
    assert_eq!(outcome(&first).attempts(), 3);
    assert_eq!(first.body(), "said");
    assert_eq!(failures_in_a_row(&breaker), 3);
    let second = answer(&client, get(&script.url())).await;

    assert_rejected(&second);
    assert_eq!(outcome(&second).stopped_by(), StoppedBy::Ignored);
    assert_eq!(script.requests(), 5);
}

#[tokio::test]
async fn attempts_of_grpc_count_each() {
    let unavailable = || EchoStep::Fail(Status::unavailable("closed"));
    let echo = Echo::new((0..5).map(|_| unavailable()));
    let breaker = breaker();
    let layer = RetryLayer::grpc().with_config(config()).unwrap();
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(layer)
        .layer(grpc(&breaker))
        .service(channel(echo.clone().serve().await));
    let mut client = EchoClient::new(stack);

    let first = within(client.say(saying("hello"))).await.unwrap_err();
    assert_eq!(first.message(), "closed");
    assert_eq!(failures_in_a_row(&breaker), 3);
    let second = within(client.say(saying("hello"))).await.unwrap_err();

    assert_rejected_in_grpc(&second);
    assert_eq!(echo.calls(), 5);
}

#[tokio::test]
async fn a_call_that_heals_at_its_third_attempt_has_failed_twice() {
    let script = Script::serve([answers(503), answers(503), answers(200)]).await;
    let breaker = breaker();

    let response = answer(&retried(config(), &http(&breaker)), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(counted(&breaker), (3, 2));
    assert_eq!(failures_in_a_row(&breaker), 0);
}

#[tokio::test]
async fn above_retries_a_call_counts_once() {
    let script = Script::serve([answers(503), answers(503), answers(200)]).await;
    let breaker = breaker();
    let inner: Retry<Transport> = retries(config()).layer(hyper_client(Protocol::Http1));
    let client = http(&breaker).layer(inner);

    let response = answer(&client, get(&script.url())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(counted(&breaker), (1, 0));

    let script = Script::serve(vec![answers(503); 15]).await;
    for _ in 0..5 {
        answer(&client, get(&script.url())).await;
    }
    assert_rejected(&answer(&client, get(&script.url())).await);
    assert_eq!(script.requests(), 15);
}

#[tokio::test]
async fn above_retries_an_attempt_that_took_too_long_counts() {
    let hang = || Step::AnswerEarly(String::new());
    let script = Script::serve((0..5).map(|_| hang())).await;
    let breaker = breaker();
    let config = config()
        .with_max_attempts(1)
        .with_attempt_timeout(Duration::from_millis(50));
    let inner: Retry<Transport> = retries(config).layer(hyper_client(Protocol::Http1));
    let client = http(&breaker).layer(inner);

    for _ in 0..5 {
        let response = answer(&client, get(&script.url())).await;
        let rejection: &LocalRejection = response.extensions().get().unwrap();
        assert_eq!(rejection.code(), Code::AttemptTimeout);
    }

    assert_eq!(breaker.state(), State::Open);
}

type Sent = Request<ReplayBody<Body>>;

/// Counts the calls that get through to the client within.
fn counted_client(
    calls: &Arc<AtomicUsize>,
) -> MapRequest<Transport, impl FnMut(Sent) -> Sent + Clone + use<>> {
    let calls = Arc::clone(calls);
    MapRequest::new(hyper_client(Protocol::Http1), move |request| {
        calls.fetch_add(1, Ordering::SeqCst);
        request
    })
}

/// Timers above the breaker that tell when the time of a request is over.
fn timers() -> [RetryConfig; 3] {
    let short = Duration::from_millis(50);
    [
        config().with_max_attempts(1).with_attempt_timeout(short),
        config().with_max_attempts(1).with_deadline(short),
        config().with_attempt_timeout(short),
    ]
}

#[tokio::test]
async fn a_destination_that_never_answers_opens_it_and_is_not_probed_for_ever() {
    for config in timers() {
        let script = Script::serve(vec![Step::AnswerEarly(String::new()); 50]).await;
        let breaker = configured(brief());
        let calls = Arc::default();
        let client = retries(config).layer(http(&breaker).layer(counted_client(&calls)));

        while breaker.state() == State::Closed {
            let response = answer(&client, get(&script.url())).await;
            assert!(response.status().is_server_error());
            assert!(calls.load(Ordering::SeqCst) <= 5);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 5);

        for probes in 1..=3 {
            until_probed(&breaker).await;
            while calls.load(Ordering::SeqCst) < 5 + probes {
                answer(&client, get(&script.url())).await;
            }
            // The first probe that ran out of time has failed.
            assert_eq!(breaker.state(), State::Open);
            assert_eq!(calls.load(Ordering::SeqCst), 5 + probes);
        }
    }
}

#[tokio::test]
async fn a_deadline_of_the_callers_own_tells_too() {
    let script = Script::serve(vec![Step::AnswerEarly(String::new()); 50]).await;
    let breaker = breaker();
    let client = retried(config(), &http(&breaker));

    for _ in 0..5 {
        let mut request = get(&script.url());
        let deadline = Deadline::at(Instant::now() + Duration::from_millis(500));
        request.extensions_mut().insert(deadline);
        let response = answer(&client, request).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    }

    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn callers_whose_deadlines_nobody_could_meet_do_not_close_the_way_to_all() {
    let script = Script::serve(vec![Step::AnswerEarly(String::new()); 20]).await;
    // More than a busy machine adds to the wait.
    let breaker = configured(BreakerConfig::default().with_least_wait(Duration::from_secs(30)));
    let client = retried(config(), &http(&breaker));

    for left in [1, 5, 20, 50].repeat(5) {
        let mut request = get(&script.url());
        let deadline = Deadline::at(Instant::now() + Duration::from_millis(left));
        request.extensions_mut().insert(deadline);
        let response = answer(&client, request).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn callers_that_leave_for_their_own_reasons_do_not_keep_it_probing_a_black_hole() {
    let script = Script::serve(vec![Step::AnswerEarly(String::new()); 1_000]).await;
    let config = brief().with_half_open_limit(Duration::from_millis(200));
    let breaker = configured(config);
    let transitions = recorded(&breaker);
    trip(&breaker);
    let client = retried(self::config(), &http(&breaker));
    let reasons = || -> Vec<_> {
        let transitions = transitions.lock().unwrap();
        transitions.iter().map(|t| t.reason()).collect()
    };

    for _ in 0..6_000 {
        if reasons().contains(&Reason::ProbesSilent) {
            break;
        }
        let call = answer(&client, get(&script.url()));
        if tokio::time::timeout(Duration::from_millis(20), call)
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    let expected = [
        Reason::ConsecutiveFailures,
        Reason::OpenTimeOver,
        Reason::ProbesSilent,
    ];
    assert_eq!(reasons()[..3], expected);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_followed_by_another_one_and_counts() {
    let script = Script::serve([Step::AnswerEarly("HTTP/1.1 200".to_owned()), answers(200)]).await;
    let breaker = breaker();
    let config = config().with_attempt_timeout(Duration::from_millis(500));

    let response = answer(&retried(config, &http(&breaker)), get(&script.url())).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(counted(&breaker), (2, 1));
    script.until_given_up().await;
}

#[tokio::test]
async fn the_inner_breakers_rejections_are_not_counted_by_the_outer_one() {
    let script = Script::serve(vec![answers(503); 2]).await;
    let inner = configured(BreakerConfig::default().with_consecutive_failures(2));
    let outer = breaker();
    let client: Guarded<Guarded<Client<HttpConnector, Body>>> = ServiceBuilder::new()
        .layer(http(&outer))
        .layer(http(&inner))
        .service(hyper_client(Protocol::Http1));

    for _ in 0..2 {
        answer(&client, get(&script.url())).await;
    }
    for _ in 0..10 {
        assert_rejected(&answer(&client, get(&script.url())).await);
    }

    assert_eq!((inner.state(), outer.state()), (State::Open, State::Closed));
    assert_eq!(counted(&outer), (2, 2));
    assert_eq!(script.requests(), 2);
}

#[tokio::test]
async fn the_inner_breakers_rejections_of_grpc_are_not_counted_by_the_outer_one() {
    let unavailable = || EchoStep::Fail(Status::unavailable("closed"));
    let echo = Echo::new((0..2).map(|_| unavailable()));
    let inner = configured(BreakerConfig::default().with_consecutive_failures(2));
    let outer = breaker();
    let stack = ServiceBuilder::new()
        .layer(grpc(&outer))
        .layer(grpc(&inner))
        .service(channel(echo.clone().serve().await));
    let mut client = EchoClient::new(stack);

    for _ in 0..2 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }
    for _ in 0..10 {
        let status = within(client.say(saying("hello"))).await.unwrap_err();
        assert_rejected_in_grpc(&status);
    }

    assert_eq!(outer.state(), State::Closed);
    assert_eq!(counted(&outer), (2, 2));
}

/// The probe of the outer one is refused by the inner one: that must not cost the outer one's place.
#[tokio::test]
async fn a_probe_that_the_inner_breaker_rejects_makes_room_for_another_one() {
    let script = Script::serve(vec![answers(200); 3]).await;
    let (inner, outer) = (breaker(), configured(brief()));
    let client: Guarded<Guarded<Client<HttpConnector, Body>>> =
        http(&outer).layer(http(&inner).layer(hyper_client(Protocol::Http1)));
    trip(&outer);
    inner.force_open();

    until_probed(&outer).await;
    for _ in 0..5 {
        answer(&client, get(&script.url())).await;
        assert_eq!(outer.state(), State::HalfOpen);
    }
    inner.force_closed();
    for _ in 0..3 {
        assert_eq!(answer(&client, get(&script.url())).await.status(), 200);
    }

    assert_eq!(outer.state(), State::Closed);
}

/// Over the wire nothing tells that a layer answered: a server that rejects is one that fails, and says for how long.
#[tokio::test]
async fn the_rejections_of_a_server_count_as_its_failures_and_their_wait_is_kept() {
    let till = Till::new(500);
    let of_server = breaker();
    let app = axum::Router::new().fallback_service(till.route().layer(http(&of_server)));
    let url = format!("http://{}/", serve(app).await);
    let of_client = configured(brief());
    let client: Guarded<Client<HttpConnector, Body>> =
        http(&of_client).layer(hyper_client(Protocol::Http1));
    trip(&of_server);

    for _ in 0..5 {
        let response = answer(&client, get(&url)).await;
        assert_eq!(response.status(), 503);
        assert!(response.extensions().get::<Rejected>().is_none());
    }

    assert_eq!(of_client.state(), State::Open);
    assert!(of_client.snapshot().open_left() > Duration::from_secs(10));
    assert_eq!(till.runs(), 0);
}

#[tokio::test]
async fn a_wait_that_a_retry_keeps_lengthens_the_open_time_as_well() {
    let failed = || Step::Answer(says(503, &["retry-after: 1"], "wait"));
    let script = Script::serve([failed(), answers(200)]).await;
    let config = BreakerConfig::default()
        .with_consecutive_failures(1)
        .with_open_for(Duration::from_millis(1))
        .with_open_jitter(0.0);
    let breaker = configured(config);

    let response = answer(
        &retried(self::config(), &http(&breaker)),
        get(&script.url()),
    )
    .await;

    // The retry came when the open time was over, and was the first probe.
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(outcome(&response).attempts(), 2);
    assert_eq!(breaker.state(), State::HalfOpen);
}

const TIME_OF_ATTEMPT: Duration = Duration::from_millis(500);

/// The time of an attempt is that to its head. Who reads on after it, and stops then, has what it wanted.
#[tokio::test]
async fn a_body_that_its_reader_drops_after_the_time_of_the_attempt_is_no_failure() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let script = Script::serve(vec![Step::AnswerEarly(endless.to_owned()); 5]).await;
    let breaker = breaker();
    let layer = http(&breaker).with_outcome_at(When::End);
    let client = retried(config().with_attempt_timeout(TIME_OF_ATTEMPT), &layer);

    for _ in 0..5 {
        let sent = Instant::now();
        let response = send(&client, get(&script.url())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        tokio::time::sleep_until(sent + TIME_OF_ATTEMPT + Duration::from_millis(50)).await;
        drop(response);
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(failures_in_a_row(&breaker), 0);
}

#[tokio::test]
async fn a_stream_that_its_caller_leaves_after_the_time_of_the_attempt_is_no_failure() {
    let echo = Echo::new([]);
    let breaker = breaker();
    let layer = RetryLayer::grpc()
        .with_config(config().with_attempt_timeout(TIME_OF_ATTEMPT))
        .unwrap();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(grpc(&breaker))
        .service(channel(echo.clone().serve().await));
    let mut client = EchoClient::new(stack);

    for _ in 0..5 {
        let sent = Instant::now();
        let says = futures_util::stream::once(std::future::ready(saying("hello")));
        let says = says.chain(futures_util::stream::pending());
        let answers = within(client.chat(says)).await.unwrap();
        let mut answers = answers.into_inner();
        assert!(within(answers.message()).await.unwrap().is_some());
        tokio::time::sleep_until(sent + TIME_OF_ATTEMPT + Duration::from_millis(50)).await;
        drop(answers);
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(failures_in_a_row(&breaker), 0);
}

/// A gateway hands on what a breaker of its client made up: that says nothing of the gateway's own route.
#[tokio::test]
async fn a_rejection_that_a_handler_hands_on_is_not_counted_by_the_breaker_of_its_route() {
    let (of_client, of_route) = (breaker(), breaker());
    let client: Guarded<Client<HttpConnector, Body>> =
        http(&of_client).layer(hyper_client(Protocol::Http1));
    let forward = axum::routing::get(async move || {
        let upstream = get("http://127.0.0.1:1/charges");
        let response = within(tower::ServiceExt::oneshot(client, upstream)).await;
        response.unwrap().map(axum::body::Body::new)
    });
    let app = axum::Router::new().fallback_service(forward.layer(http(&of_route)));
    let url = format!("http://{}/", serve(app).await);
    trip(&of_client);
    let outside: Client<HttpConnector, Body> = hyper_client(Protocol::Http1);

    for _ in 0..10 {
        assert_eq!(answer(&outside, get(&url)).await.status(), 503);
    }

    assert_eq!(of_route.state(), State::Closed);
    assert_eq!(counted(&of_route), (0, 0));
}

/// Callers of all kinds, some of which leave, while the destination goes down and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_herd_opens_it_and_finds_its_way_back() {
    const CALLERS: usize = 32;

    let till = Till::new(200);
    let app = axum::Router::new().fallback_service(till.route());
    let url = format!("http://{}/", serve(app).await);
    let breaker = configured(brief().with_half_open_limit(Duration::from_millis(500)));
    let client = retried(config(), &http(&breaker));
    let is_over = Arc::new(AtomicBool::new(false));

    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let (client, url, is_over) = (client.clone(), url.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let call = answer(&client, get(&url));
                    if n % 4 == 0 {
                        _ = tokio::time::timeout(Duration::from_millis(2), call).await;
                    } else {
                        call.await;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        till.answers(500);
        eventually("it opens", || breaker.state() != State::Closed).await;
        let runs = till.runs();
        until_probes_fail(&breaker).await;
        let runs = till.runs() - runs;
        // Those that were under way when it opened, and one probe or so for each open time.
        assert!(runs <= CALLERS + 50, "{runs}");
        till.answers(200);
        eventually("it closes", || breaker.state() == State::Closed).await;
    }
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        within(caller).await.unwrap();
    }
}

/// Waits until three probes have failed.
async fn until_probes_fail(breaker: &CircuitBreaker) {
    let transitions = recorded(breaker);
    let have_failed = || {
        let transitions = transitions.lock().unwrap();
        let failed = |transition: &&Transition| transition.reason() == Reason::ProbesFailed;
        transitions.iter().filter(failed).count() >= 3
    };
    eventually("probes fail", have_failed).await;
}

#[tokio::test]
async fn a_server_of_grpc_that_never_answers_opens_it_and_is_not_probed_for_ever() {
    let echo = Echo::new((0..50).map(|_| EchoStep::Hang));
    let breaker = configured(brief());
    let transitions = recorded(&breaker);
    let layer = RetryLayer::grpc()
        .with_config(
            config()
                .with_max_attempts(1)
                .with_attempt_timeout(Duration::from_millis(100)),
        )
        .unwrap();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(grpc(&breaker))
        .service(channel(echo.clone().serve().await));
    let mut client = EchoClient::new(stack);

    for _ in 0..5 {
        assert_eq!(breaker.state(), State::Closed);
        within(client.say(saying("hello"))).await.unwrap_err();
    }
    for _ in 0..3 {
        until_probed(&breaker).await;
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    assert_eq!(breaker.state(), State::Open);
    let transitions = transitions.lock().unwrap();
    let failed = |transition: &&Transition| transition.reason() == Reason::ProbesFailed;
    assert_eq!(transitions.iter().filter(failed).count(), 3);
}

/// The other side of standing above retries: the time of the call is the caller's, and its end says nothing of the destination.
#[tokio::test]
async fn above_retries_a_deadline_that_passes_says_nothing() {
    let script = Script::serve(vec![Step::AnswerEarly(String::new()); 6]).await;
    let breaker = breaker();
    let config = config().with_deadline(Duration::from_millis(50));
    let inner: Retry<Transport> = retries(config).layer(hyper_client(Protocol::Http1));
    let client = http(&breaker).layer(inner);

    for _ in 0..6 {
        let response = answer(&client, get(&script.url())).await;
        let rejection: &LocalRejection = response.extensions().get().unwrap();
        assert_eq!(rejection.code(), Code::DeadlinePassed);
    }

    assert_eq!(counted(&breaker), (0, 0));
}
