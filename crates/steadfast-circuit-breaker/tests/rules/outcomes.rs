//! circuit-breaker B7.

use std::{future::pending, io};

use http::{Response, StatusCode};
use steadfast_circuit_breaker::{
    Cause, CircuitBreaker, CircuitBreakerLayer, Failure, SafetyClass, State, Verdict,
};
use steadfast_http::{
    classify::{GrpcRules, HttpRules},
    grpc,
    problem::Code,
};
use tokio::time::{error::Elapsed, timeout};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::support::{
    Answer, Fault, Flow, Get, Recorded, Site, Step, answer, failure, get, local, outcomes,
    poll_body, record, rpc, run, secs, steady, streamed, throttled, trailers, trailers_only,
    with_field,
};

/// What the layer takes this step for, and the run of failures after it, of two before.
async fn outcome(
    layer: fn(CircuitBreaker) -> CircuitBreakerLayer,
    step: Step,
) -> (Vec<(String, u64)>, u32) {
    let recorded = Recorded::new();
    let site = Site::of(steady(), [step], layer);
    for _ in 0..2 {
        record(&site.breaker, failure());
    }
    let before = recorded.outcome("failure");

    if let Ok(mut response) = site.send(get()).await {
        while let std::task::Poll::Ready(Some(_)) = poll_body(response.body_mut()) {}
    }

    let mut told = recorded.outcomes();
    for (word, count) in &mut told {
        if word == "failure" {
            *count -= before;
        }
    }
    told.retain(|(_, count)| *count > 0);
    (told, run(&site.breaker))
}

/// The word, and the run of failures after two and this one.
const SUCCESS: (&str, u32) = ("success", 0);
const FAILURE: (&str, u32) = ("failure", 3);
const THROTTLED: (&str, u32) = ("throttled", 2);
const IGNORED: (&str, u32) = ("ignored", 2);

async fn check(
    layer: fn(CircuitBreaker) -> CircuitBreakerLayer,
    step: Step,
    (word, run): (&str, u32),
    why: &str,
) {
    let told = outcome(layer, step).await;
    assert_eq!(told, (outcomes([(word, 1)]), run), "{why}");
}

#[tokio::test(start_paused = true)]
async fn each_status_has_its_outcome() {
    for (status, expected) in [
        (200, SUCCESS),
        (204, SUCCESS),
        (302, SUCCESS),
        (304, SUCCESS),
        (400, SUCCESS),
        (401, SUCCESS),
        (404, SUCCESS),
        (408, FAILURE),
        (409, SUCCESS),
        (413, SUCCESS),
        (425, SUCCESS),
        (429, THROTTLED),
        (500, FAILURE),
        (501, FAILURE),
        (502, FAILURE),
        (503, FAILURE),
        (504, FAILURE),
        (599, FAILURE),
    ] {
        let plain = Step::Answer(answer(status));
        check(
            CircuitBreakerLayer::http,
            plain,
            expected,
            &status.to_string(),
        )
        .await;
        let hinted = Step::Answer(with_field(answer(status), "retry-after", "5"));
        check(CircuitBreakerLayer::http, hinted, expected, "hinted").await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_error_of_a_transport_is_a_failure() {
    for fault in [
        Fault::Refused,
        Fault::Reset,
        Fault::TimedOut,
        Fault::Strange,
    ] {
        for layer in [CircuitBreakerLayer::http, CircuitBreakerLayer::grpc] {
            check(layer, Step::Fail(fault), FAILURE, &fault.to_string()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_layers_made_up_is_ignored_unless_an_attempt_took_too_long() {
    for code in Code::ALL.iter().copied() {
        let expected = if code == Code::AttemptTimeout {
            FAILURE
        } else {
            IGNORED
        };
        let why = code.as_str();
        for status in [code.status().as_u16(), 200] {
            let step = Step::Answer(local(status, code));
            check(CircuitBreakerLayer::http, step.clone(), expected, why).await;
            check(CircuitBreakerLayer::grpc, step, expected, why).await;
        }
        let grpc = with_field(local(200, code), "content-type", "application/grpc");
        let grpc = with_field(grpc, "grpc-status", "14");
        check(CircuitBreakerLayer::grpc, Step::Answer(grpc), expected, why).await;
    }
    for (code, expected) in [
        (Code::CircuitOpen, IGNORED),
        (Code::AttemptTimeout, FAILURE),
    ] {
        let step = Step::Fail(Fault::Local(code));
        check(CircuitBreakerLayer::http, step, expected, "an error").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_rejections_of_a_breaker_beneath_are_ignored() {
    let beneath = Site::http(steady(), [Step::Hang]);
    beneath.trip();
    let recorded = Recorded::new();
    let breaker = crate::support::breaker(steady());
    for _ in 0..10 {
        let both = CircuitBreakerLayer::http(breaker.clone()).layer(beneath.service());
        assert_eq!(both.oneshot(get()).await.unwrap().status(), 503);
    }
    let grpc = CircuitBreakerLayer::grpc(breaker.clone()).layer(beneath.service());
    grpc.oneshot(rpc()).await.unwrap();

    assert_eq!(recorded.outcomes(), outcomes([("ignored", 11)]));
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn tokios_timeout_beneath_is_a_failure() {
    async fn slow(_: Get) -> Result<Response<Flow>, Elapsed> {
        timeout(secs(1), pending()).await
    }
    let breaker = crate::support::breaker(steady());
    let service = CircuitBreakerLayer::http(breaker.clone()).layer(service_fn(slow));

    service.oneshot(get()).await.unwrap_err();

    assert_eq!(run(&breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn boxed_errors_and_views_of_the_users_own_are_looked_into() {
    async fn boxed(_: Get) -> Result<Response<Flow>, BoxError> {
        Err(Fault::Local(Code::CircuitOpen).into())
    }
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::http(breaker.clone()).with_boxed_errors();
    layer
        .layer(service_fn(boxed))
        .oneshot(get())
        .await
        .unwrap_err();
    assert_eq!(run(&breaker), 0, "ignored");

    #[derive(Debug)]
    struct Holder(io::Error);
    struct Within;
    impl steadfast_http::classify::ErrorView<Holder> for Within {
        fn view(error: &Holder) -> &(dyn std::error::Error + 'static) {
            &error.0
        }
    }
    async fn held(_: Get) -> Result<Response<Flow>, Holder> {
        Err(Holder(io::ErrorKind::TimedOut.into()))
    }
    let layer = CircuitBreakerLayer::http(breaker.clone()).with_error_view::<Within>();
    let error = layer
        .layer(service_fn(held))
        .oneshot(get())
        .await
        .unwrap_err();
    assert_eq!(error.0.kind(), io::ErrorKind::TimedOut);
    assert_eq!(run(&breaker), 1);
}

const GRPC: [(grpc::Code, (&str, u32)); 17] = [
    (grpc::Code::Ok, SUCCESS),
    (grpc::Code::Cancelled, IGNORED),
    (grpc::Code::Unknown, FAILURE),
    (grpc::Code::InvalidArgument, SUCCESS),
    (grpc::Code::DeadlineExceeded, FAILURE),
    (grpc::Code::NotFound, SUCCESS),
    (grpc::Code::AlreadyExists, SUCCESS),
    (grpc::Code::PermissionDenied, SUCCESS),
    (grpc::Code::ResourceExhausted, THROTTLED),
    (grpc::Code::FailedPrecondition, SUCCESS),
    (grpc::Code::Aborted, SUCCESS),
    (grpc::Code::OutOfRange, SUCCESS),
    (grpc::Code::Unimplemented, SUCCESS),
    (grpc::Code::Internal, FAILURE),
    (grpc::Code::Unavailable, FAILURE),
    (grpc::Code::DataLoss, FAILURE),
    (grpc::Code::Unauthenticated, SUCCESS),
];

#[tokio::test(start_paused = true)]
async fn each_grpc_code_has_its_outcome_in_the_head_and_in_trailers() {
    for (code, expected) in GRPC {
        let number = code.as_u32();
        let head = Step::Answer(trailers_only(number));
        check(CircuitBreakerLayer::grpc, head, expected, code.as_str()).await;
        let body = streamed([crate::support::Piece::Text("a"), trailers(number)]);
        let step = Step::Answer(body);
        check(CircuitBreakerLayer::grpc, step, expected, code.as_str()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_answers_a_grpc_call_is_taken_by_its_status() {
    for (status, expected) in [
        (503, FAILURE),
        (502, FAILURE),
        (429, THROTTLED),
        (404, SUCCESS),
        (200, FAILURE),
    ] {
        let step = Step::Answer(answer(status));
        check(
            CircuitBreakerLayer::grpc,
            step,
            expected,
            &status.to_string(),
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_leaves_the_run_and_counts_in_the_rate() {
    let breaker = crate::support::breaker(steady());
    for verdict in [failure(), throttled(), failure()] {
        record(&breaker, verdict);
    }
    assert_eq!(run(&breaker), 2);
    let counts = breaker.snapshot().failures().unwrap();
    assert_eq!((counts.calls, counts.failures), (3, 3));

    for _ in 0..16 {
        record(&breaker, throttled());
    }
    assert_eq!(breaker.state(), State::Closed);
    record(&breaker, throttled());
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_call_counts_nowhere() {
    let breaker = crate::support::breaker(steady());
    record(&breaker, failure());
    record(&breaker, Verdict::Ignored);

    assert_eq!(run(&breaker), 1);
    assert_eq!(breaker.snapshot().failures().unwrap().calls, 1);
}

async fn run_after(layer: CircuitBreakerLayer, breaker: &CircuitBreaker, answer: Answer) -> u32 {
    let site = Site {
        layer,
        breaker: breaker.clone(),
        script: crate::support::Script::new([Step::Answer(answer)]),
    };
    let mut response = site.get().await;
    while let std::task::Poll::Ready(Some(_)) = poll_body(response.body_mut()) {}
    run(breaker)
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_statuses_and_codes_can_be_set() {
    let breaker = crate::support::breaker(steady());
    let http = || CircuitBreakerLayer::http(breaker.clone());
    let rules = HttpRules::default()
        .add_transient(StatusCode::NOT_FOUND)
        .add_transient(StatusCode::ACCEPTED)
        .without_transient(StatusCode::REQUEST_TIMEOUT);
    let set = || http().with_http_rules(rules.clone());
    assert_eq!(run_after(set(), &breaker, answer(404)).await, 1);
    assert_eq!(run_after(set(), &breaker, answer(202)).await, 2);
    assert_eq!(run_after(set(), &breaker, answer(408)).await, 0);
    assert_eq!(run_after(http(), &breaker, answer(408)).await, 1);

    let rules = GrpcRules::default().add_transient(grpc::Code::Aborted);
    let set = || CircuitBreakerLayer::grpc(breaker.clone()).with_grpc_rules(rules.clone());
    assert_eq!(run_after(set(), &breaker, trailers_only(10)).await, 2);
    let body = || streamed([trailers(10)]);
    assert_eq!(run_after(set(), &breaker, body()).await, 3);
    let default = CircuitBreakerLayer::grpc(breaker.clone());
    assert_eq!(run_after(default, &breaker, body()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_has_the_last_word_on_heads_and_errors() {
    let breaker = crate::support::breaker(steady());
    let layer =
        CircuitBreakerLayer::http(breaker.clone()).with_classifier(
            |outcome, verdict| match outcome {
                Ok(head) if head.status() == 200 && head.headers().contains_key("x-degraded") => {
                    Failure::new(SafetyClass::Permanent, Cause::Fault).into()
                }
                Ok(_) => verdict,
                Err(error) if error.to_string() == "Strange" => Verdict::Ignored,
                Err(_) => verdict,
            },
        );
    let site = Site {
        layer,
        breaker,
        script: crate::support::Script::new([
            Step::Answer(with_field(answer(200), "x-degraded", "1")),
            Step::Fail(Fault::Strange),
            Step::Fail(Fault::Reset),
            Step::Answer(answer(503)),
            Step::Answer(answer(200)),
        ]),
    };

    let mut runs = Vec::new();
    for _ in 0..5 {
        let _ = site.send(get()).await;
        runs.push(run(&site.breaker));
    }
    assert_eq!(runs, [1, 1, 2, 3, 0]);
}

#[tokio::test(start_paused = true)]
async fn other_services_are_taken_as_their_classifier_says() {
    let recorded = Recorded::new();
    let breaker = crate::support::breaker(steady());
    let layer =
        CircuitBreakerLayer::new(breaker.clone(), |result: &Result<u8, Fault>| match result {
            Ok(0) => Verdict::Success,
            Ok(1) => throttled(),
            Ok(_) => Verdict::Ignored,
            Err(_) => failure(),
        });
    let service = layer.layer(service_fn(|number: u8| async move {
        if number < 9 {
            Ok(number)
        } else {
            Err(Fault::Reset)
        }
    }));

    for number in 0..3 {
        assert_eq!(service.clone().oneshot(number).await.unwrap(), number);
    }
    let error = service.clone().oneshot(9).await.unwrap_err();

    assert_eq!(error.downcast_ref(), Some(&Fault::Reset));
    assert_eq!(
        recorded.outcomes(),
        outcomes([
            ("failure", 1),
            ("ignored", 1),
            ("success", 1),
            ("throttled", 1)
        ])
    );
}
