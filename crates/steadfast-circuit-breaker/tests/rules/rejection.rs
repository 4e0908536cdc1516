//! circuit-breaker B9.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use steadfast_circuit_breaker::{
    CircuitBreaker, CircuitBreakerLayer, Refusal, Rejected, State, Verdict,
};
use steadfast_http::{
    LocalRejection,
    classify::verdict_of_error,
    problem::{Code, Problem, ProblemBase},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Fault, NAME, Recorded, Reply, Site, Step, brittle, failure, get, millis, record, rejected,
    retry_after, rpc, secs, steady,
};

fn open(layer: fn(CircuitBreaker) -> CircuitBreakerLayer) -> Site {
    let site = Site::of(steady(), [Step::Hang], layer);
    site.trip();
    site
}

fn check_markers<B>(response: &Response<B>) {
    let extensions = response.extensions();
    let marker = extensions.get::<LocalRejection>().unwrap();
    assert_eq!(marker.code(), Code::CircuitOpen);
    let rejected: &Rejected = extensions.get().unwrap();
    assert_eq!(rejected.breaker(), NAME);
    assert_eq!(rejected.refusal(), Refusal::Open);
    assert_eq!(rejected.retry_after(), secs(30));
}

async fn json_of(response: Reply) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn http_is_answered_with_a_problem() {
    let response = open(CircuitBreakerLayer::http).get().await;

    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "30");
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    check_markers(&response);
    let problem: &Problem = response.extensions().get().unwrap();
    assert_eq!(problem.code(), Code::CircuitOpen);
    assert_eq!(problem.retry_after(), Some(secs(30)));
    let length = response.body().size_hint().exact().unwrap();

    let body = json_of(response).await;
    assert_eq!(body.to_string().len() as u64, length);
    assert_eq!(
        body,
        json!({
            "type": "https://docs.rs/steadfast/latest/steadfast/problems/#circuit-open",
            "title": "The circuit is open",
            "status": 503,
            "detail": "calls to the destination failed, and it is left alone for a while",
            "code": "circuit-open",
            "retryable": true,
        })
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_rounded_up_to_seconds_and_never_zero() {
    let site = open(CircuitBreakerLayer::http);
    for (passed, left) in [(0, 30), (1, 30), (998, 30), (1, 29), (28_000, 1), (999, 1)] {
        advance(millis(passed)).await;
        assert_eq!(retry_after(&site.get().await), left);
    }
    advance(millis(1)).await;
    let _probe = site.pending(get());
    assert_eq!(retry_after(&site.get().await), 1, "while it probes");
}

#[tokio::test(start_paused = true)]
async fn each_refusal_has_its_own_detail() {
    let site = open(CircuitBreakerLayer::http);
    let open = json_of(site.get().await).await;
    advance(secs(30)).await;
    let probe = site.pending(get());
    let probing = site.get().await;
    assert_eq!(rejected(&probing).unwrap().refusal(), Refusal::Probing);
    let probing = json_of(probing).await;
    drop(probe);
    site.breaker.force_open();
    let forced = site.get().await;
    assert_eq!(rejected(&forced).unwrap().refusal(), Refusal::Forced);
    let forced = json_of(forced).await;

    let details = [&open, &probing, &forced].map(|body| body["detail"].to_string());
    assert!(details.iter().all(|detail| detail.len() > 20));
    assert_ne!(details[0], details[1]);
    assert_ne!(details[0], details[2]);
    assert_ne!(details[1], details[2]);
}

async fn check_grpc(response: Reply) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "30000");
    assert!(response.headers().contains_key("grpc-message"));
    check_markers(&response);
    assert!(response.body().is_end_stream());
    let collected = response.into_body().collect().await.unwrap();
    assert!(collected.trailers().is_none());
    assert!(collected.to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn grpc_is_answered_by_its_head_alone_with_pushback() {
    let site = open(CircuitBreakerLayer::grpc);
    check_grpc(site.send(rpc()).await.unwrap()).await;
    check_grpc(site.send(get()).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_through_a_layer_for_http_is_answered_in_its_own_way() {
    let site = open(CircuitBreakerLayer::http);
    check_grpc(site.send(rpc()).await.unwrap()).await;
    assert_eq!(site.get().await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn the_type_of_a_problem_points_where_it_is_set() {
    let breaker = crate::support::breaker(brittle());
    let base = ProblemBase::new("https://example.test/problems");
    let layer = CircuitBreakerLayer::http(breaker.clone()).with_problem_base(base);
    let site = Site {
        layer,
        breaker,
        ..open(CircuitBreakerLayer::http)
    };
    site.trip();

    let body = json_of(site.get().await).await;

    assert_eq!(body["type"], "https://example.test/problems#circuit-open");
}

#[tokio::test(start_paused = true)]
async fn a_fallback_answers_and_the_rejection_is_still_counted_and_marked() {
    let recorded = Recorded::new();
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::http(breaker.clone()).with_fallback(|head, own| {
        assert_eq!(own.status(), 503);
        assert_eq!(own.headers()[header::RETRY_AFTER], "30");
        check_markers(&own);
        if head.uri.path() == "/things/1" {
            Response::new(Bytes::from_static(b"from the cache"))
        } else {
            own
        }
    });
    let site = Site {
        layer,
        breaker,
        ..open(CircuitBreakerLayer::http)
    };
    site.trip();

    let cached = site.get().await;
    assert_eq!(cached.status(), 200);
    check_markers(&cached);
    let body = cached.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "from the cache");

    let mut other = get();
    *other.uri_mut() = "http://destination.test/others".parse().unwrap();
    let own = site.send(other).await.unwrap();
    assert_eq!(own.status(), 503);
    check_markers(&own);
    assert_eq!(recorded.counter("rejections_total{refusal=open}"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_is_not_asked_for_calls_that_pass() {
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::http(breaker.clone())
        .with_fallback(|_, _| panic!("nothing was rejected"));
    let site = Site {
        layer,
        breaker,
        ..Site::http(steady(), [crate::support::broken(), crate::support::ok()])
    };

    assert_eq!(site.status().await, 503);
    assert_eq!(site.status().await, 200);
}

#[tokio::test(start_paused = true)]
async fn other_services_fail_with_an_error_that_says_why_and_how_long() {
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::new(breaker.clone(), |_: &Result<u8, Fault>| failure());
    let service = layer.layer(service_fn(|number: u8| async move { Ok(number) }));
    while breaker.state() == State::Closed {
        record(&breaker, failure());
    }

    let error = service.clone().oneshot(7).await.unwrap_err();

    let rejected: &Rejected = error.downcast_ref().unwrap();
    assert_eq!(rejected.breaker(), NAME);
    assert_eq!(rejected.refusal(), Refusal::Open);
    assert_eq!(rejected.retry_after(), secs(30));
    assert_eq!(error.to_string(), "circuit breaker destination is open");
    let marker = error.source().unwrap();
    let marker: &LocalRejection = marker.downcast_ref().unwrap();
    assert_eq!(marker.code(), Code::CircuitOpen);
    assert_eq!(verdict_of_error(&*error), Verdict::Ignored);
    breaker.force_open();
    let error = service.oneshot(7).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "circuit breaker destination was opened by hand"
    );
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_permit_is_the_same_one() {
    let site = open(CircuitBreakerLayer::http);
    let error = site.breaker.admit(None).unwrap_err();
    let response = site.get().await;
    assert_eq!(Some(&error), rejected(&response));

    advance(secs(30)).await;
    let _probe = site.breaker.admit(None).unwrap();
    let error = site.breaker.admit(None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "circuit breaker destination is probing its destination"
    );
    assert_eq!(verdict_of_error(&error), Verdict::Ignored);
}
