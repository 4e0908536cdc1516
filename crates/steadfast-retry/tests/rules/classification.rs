//! retry R4.

use std::{
    future::ready,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};
use steadfast_http::{
    BoxError, LocalRejection, body::ReplayBody, grpc::Code as GrpcCode, problem::Code,
};
use steadfast_retry::{RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Answer, Fault, Script, Step, answer, call, get, grpc, marked, post, request, retry_after, rpc,
    stopped_by, trailers_only, with_field,
};

const TRANSIENT: [u16; 6] = [408, 429, 500, 502, 503, 504];

fn http_with(config: RetryConfig) -> RetryLayer {
    RetryLayer::http().with_config(config).unwrap()
}

/// What a call comes to where all attempts have the same answer.
async fn verdict_on(
    layer: &RetryLayer,
    answer: Answer,
    request: Request<Full<Bytes>>,
) -> (usize, StoppedBy) {
    let script = Script::new([Step::Answer(answer.clone())]);
    let response = call(layer, &script, request).await.unwrap();
    assert_eq!(response.status(), answer.status());
    // Of a first attempt that succeeds nothing is said.
    let stopped_by = stopped_by(&response).unwrap_or(StoppedBy::Success);
    (script.calls(), stopped_by)
}

fn rejected(status: u16, code: Code) -> Answer {
    let mut answer = answer(status);
    answer.extensions_mut().insert(LocalRejection::new(code));
    answer
}

#[tokio::test(start_paused = true)]
async fn every_status_is_judged_as_the_table_says() {
    for status in 100..=999 {
        let expected = match status {
            425 => (2, StoppedBy::Permanent),
            _ if TRANSIENT.contains(&status) => (3, StoppedBy::Attempts),
            500.. => (1, StoppedBy::Permanent),
            _ => (1, StoppedBy::Success),
        };

        let found = verdict_on(&RetryLayer::http(), answer(status), get()).await;

        assert_eq!(found, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_all_statuses_only_425_proves_that_a_post_was_not_processed() {
    for status in 100..=999 {
        let expected = match status {
            425 => (2, StoppedBy::Permanent),
            _ if TRANSIENT.contains(&status) => (1, StoppedBy::NotIdempotent),
            500.. => (1, StoppedBy::Permanent),
            _ => (1, StoppedBy::Success),
        };

        let found = verdict_on(&RetryLayer::http(), answer(status), post("1999")).await;

        assert_eq!(found, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_came_too_early_is_sent_again_once_in_all() {
    let script = Script::new([
        Step::Answer(answer(425)),
        Step::Answer(answer(503)),
        Step::Answer(answer(425)),
        Step::Answer(answer(200)),
    ]);
    let layer = http_with(RetryConfig::default().with_max_attempts(4));

    let response = call(&layer, &script, get()).await.unwrap();

    assert_eq!(response.status(), StatusCode::TOO_EARLY);
    assert_eq!(script.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_transient_status_can_be_taken_out() {
    for status in TRANSIENT.into_iter().chain([425]) {
        let out = StatusCode::from_u16(status).unwrap();
        let layer = http_with(RetryConfig::default().without_transient_status(out));
        let stopped_by = match status {
            408 | 425 => StoppedBy::Success,
            _ => StoppedBy::Permanent,
        };

        let found = verdict_on(&layer, answer(status), get()).await;

        assert_eq!(found, (1, stopped_by), "{status}");
        for other in TRANSIENT.into_iter().filter(|&other| other != status) {
            let (attempts, _) = verdict_on(&layer, answer(other), get()).await;
            assert_eq!(attempts, 3, "{other} without {status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_status_can_be_put_in() {
    for status in [404, 423, 501, 507, 599] {
        let put_in = StatusCode::from_u16(status).unwrap();
        let layer = http_with(RetryConfig::default().add_transient_status(put_in));

        let idempotent = verdict_on(&layer, answer(status), get()).await;
        let other = verdict_on(&layer, answer(status), post("1999")).await;

        assert_eq!(idempotent, (3, StoppedBy::Attempts), "{status}");
        assert_eq!(other, (1, StoppedBy::NotIdempotent), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_in_progress_is_asked_for_again_only_where_the_server_keeps_keys_and_says_when()
 {
    let layer = RetryLayer::http();
    let keyed = |request: Request<_>| {
        let (mut head, body) = request.into_parts();
        head.headers
            .insert("idempotency-key", "order-1".parse().unwrap());
        Request::from_parts(head, body)
    };
    let in_progress = retry_after(409, "1");
    let trusting = layer.clone().trusting_key_header();

    for (layer, answer, request, attempts) in [
        (&layer, in_progress.clone(), marked(post("1999")), 3),
        (&trusting, in_progress.clone(), keyed(post("1999")), 3),
        (&layer, in_progress.clone(), keyed(post("1999")), 1),
        (&layer, in_progress.clone(), request("PUT"), 1),
        (&layer, in_progress, get(), 1),
        (&layer, answer(409), marked(post("1999")), 1),
        (&layer, retry_after(409, "soon"), marked(post("1999")), 1),
    ] {
        let (made, stopped_by) = verdict_on(&layer.clone(), answer, request).await;

        assert_eq!(made, attempts);
        let expected = match attempts {
            1 => StoppedBy::Success,
            _ => StoppedBy::Attempts,
        };
        assert_eq!(stopped_by, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_beneath_refused_is_returned_and_not_sent_again() {
    let layers = [(RetryLayer::http(), get()), (grpc(), marked(rpc()))];
    for (layer, request) in layers {
        for &code in Code::ALL {
            let expected = if code == Code::AttemptTimeout {
                (3, StoppedBy::Attempts)
            } else {
                (1, StoppedBy::Ignored)
            };

            let found = verdict_on(&layer, rejected(503, code), request.clone()).await;

            assert_eq!(found, expected, "{code:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_judged_by_their_kind_along_the_chain_of_sources() {
    use io::ErrorKind as Kind;

    for (kind, get_attempts, post_attempts) in [
        (Kind::ConnectionRefused, 3, 3),
        (Kind::ConnectionReset, 3, 1),
        (Kind::ConnectionAborted, 3, 1),
        (Kind::BrokenPipe, 3, 1),
        (Kind::UnexpectedEof, 3, 1),
        (Kind::TimedOut, 3, 1),
        (Kind::PermissionDenied, 1, 1),
        (Kind::InvalidData, 1, 1),
        (Kind::Other, 1, 1),
    ] {
        for (request, attempts) in [(get(), get_attempts), (post("1999"), post_attempts)] {
            let made = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&made);
            let service = service_fn(move |_: Request<_>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let inner = io::Error::other(io::Error::from(kind));
                ready(Err::<Answer, _>(inner))
            });

            let result = RetryLayer::http().layer(service).oneshot(request).await;

            assert_eq!(result.unwrap_err().kind(), Kind::Other);
            assert_eq!(made.load(Ordering::Relaxed), attempts, "{kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn boxed_errors_are_looked_into_and_returned_as_they_are() {
    for (fault, attempts) in [(Fault::Refused, 3), (Fault::Reset, 3), (Fault::Strange, 1)] {
        let script = Script::new([Step::Fail(fault.clone())]);
        let service = ServiceExt::<Request<ReplayBody<Full<Bytes>>>>::map_err(
            script.clone(),
            |fault| -> BoxError { fault.into() },
        );
        let service = RetryLayer::http().with_boxed_errors().layer(service);

        let error = service.oneshot(get()).await.unwrap_err();

        assert_eq!(script.calls(), attempts, "{fault:?}");
        assert_eq!(error.downcast_ref(), Some(&fault));
    }
}

#[tokio::test(start_paused = true)]
async fn the_classifier_sees_what_the_tables_say_and_has_the_last_word() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = Arc::clone(&seen);
    let layer = RetryLayer::http().with_classifier(move |attempted| {
        let status = attempted.response().map(|head| head.status());
        let mut seen = seeing.lock().unwrap();
        seen.push((status, attempted.verdict(), attempted.is_idempotent()));
        match status {
            Some(StatusCode::OK) => Failure::new(SafetyClass::Transient, Cause::Fault).into(),
            _ => Verdict::Success,
        }
    });

    for (step, request, attempts) in [
        (Step::Answer(answer(200)), get(), 3),
        (Step::Answer(answer(503)), get(), 1),
        (Step::Answer(answer(503)), post("1999"), 1),
        (Step::Fail(Fault::Reset), get(), 1),
    ] {
        let script = Script::new([step]);
        let _ = call(&layer, &script, request).await;
        assert_eq!(script.calls(), attempts);
    }

    let fault = Failure::new(SafetyClass::Transient, Cause::Fault).into();
    let unavailable = Some(StatusCode::SERVICE_UNAVAILABLE);
    let ok = (Some(StatusCode::OK), Verdict::Success, true);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            ok,
            ok,
            ok,
            (unavailable, fault, true),
            (unavailable, fault, false),
            (None, fault, true),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_classifier_sees_the_head_of_a_response_and_the_error_itself() {
    let layer = RetryLayer::http().with_classifier(|attempted| {
        let again = match (attempted.response(), attempted.error()) {
            (Some(head), None) => {
                head.headers().contains_key("x-again") || head.extensions().get() == Some(&7_u8)
            }
            (None, Some(error)) => error.downcast_ref() == Some(&Fault::Strange),
            _ => panic!("an attempt has one outcome"),
        };
        match again {
            true => Failure::new(SafetyClass::NotProcessed, Cause::Fault).into(),
            false => attempted.verdict(),
        }
    });
    let mut extended = answer(200);
    extended.extensions_mut().insert(7_u8);

    for (step, attempts) in [
        (Step::Answer(with_field(answer(200), "x-again", "yes")), 3),
        (Step::Answer(extended), 3),
        (Step::Answer(answer(200)), 1),
        (Step::Fail(Fault::Strange), 3),
    ] {
        let script = Script::new([step]);
        let _ = call(&layer, &script, post("1999")).await;
        assert_eq!(script.calls(), attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn every_grpc_code_in_the_head_is_judged_as_the_table_says() {
    for code in 0..=17 {
        let expected = match code {
            14 => (3, StoppedBy::Attempts),
            // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED without a hint, INTERNAL, DATA_LOSS, and what nobody defined.
            2 | 4 | 8 | 13 | 15 | 17 => (1, StoppedBy::Permanent),
            1 => (1, StoppedBy::Ignored),
            _ => (1, StoppedBy::Success),
        };

        let found = verdict_on(&grpc(), trailers_only(code), marked(rpc())).await;

        assert_eq!(found, expected, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_grpc_server_is_asked_again_only_if_it_says_when() {
    let exhausted = || trailers_only(8);
    let details = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg==";
    for (answer, expected) in [
        (exhausted(), (1, StoppedBy::Permanent)),
        (
            with_field(exhausted(), "grpc-retry-pushback-ms", "100"),
            (3, StoppedBy::Attempts),
        ),
        (
            with_field(exhausted(), "grpc-retry-pushback-ms", "-1"),
            (1, StoppedBy::Permanent),
        ),
        (
            with_field(exhausted(), "grpc-status-details-bin", details),
            (3, StoppedBy::Attempts),
        ),
        (
            with_field(exhausted(), "grpc-status-details-bin", "!"),
            (1, StoppedBy::Permanent),
        ),
    ] {
        let found = verdict_on(&grpc(), answer, marked(rpc())).await;

        assert_eq!(found, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_codes_can_be_put_in_and_taken_out() {
    let config = RetryConfig::default()
        .add_transient_code(GrpcCode::Aborted)
        .add_transient_code(GrpcCode::Internal)
        .without_transient_code(GrpcCode::Unavailable);
    let layer = grpc().with_config(config).unwrap();
    for (code, expected) in [
        (10, (3, StoppedBy::Attempts)),
        (13, (3, StoppedBy::Attempts)),
        (14, (1, StoppedBy::Permanent)),
        (2, (1, StoppedBy::Permanent)),
    ] {
        let found = verdict_on(&layer, trailers_only(code), marked(rpc())).await;

        assert_eq!(found, expected, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_code_in_the_trailers_is_passed_on_and_not_retried() {
    let made = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&made);
    let service = service_fn(move |_: Request<_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let trailers = HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), "14".parse().unwrap()),
            ("grpc-message".parse().unwrap(), "gone".parse().unwrap()),
        ]);
        let body = Full::new(Bytes::from_static(b"\0\0\0\0\0"));
        let response = Response::builder()
            .header(header::CONTENT_TYPE, "application/grpc+proto")
            .body(body.with_trailers(ready(Some(Ok(trailers)))));
        ready(Ok::<_, Fault>(response.unwrap()))
    });

    let response = grpc().layer(service).oneshot(marked(rpc())).await.unwrap();

    assert_eq!(made.load(Ordering::Relaxed), 1);
    assert_eq!(RetryOutcome::of(response.extensions()), None);
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["grpc-message"], "gone");
    assert_eq!(body.to_bytes(), &b"\0\0\0\0\0"[..]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_grpc_call_without_a_code_is_judged_by_its_status() {
    for (status, expected) in [
        (200, (1, StoppedBy::Permanent)),
        (400, (1, StoppedBy::Permanent)),
        (401, (1, StoppedBy::Success)),
        (403, (1, StoppedBy::Success)),
        (404, (1, StoppedBy::Success)),
        (408, (1, StoppedBy::Permanent)),
        (429, (3, StoppedBy::Attempts)),
        (500, (1, StoppedBy::Permanent)),
        (502, (3, StoppedBy::Attempts)),
        (503, (3, StoppedBy::Attempts)),
        (504, (3, StoppedBy::Attempts)),
    ] {
        let page = with_field(answer(status), "content-type", "text/html");

        let found = verdict_on(&grpc(), page, marked(rpc())).await;

        assert_eq!(found, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_means_nothing_to_http() {
    let unavailable = with_field(answer(200), "grpc-status", "14");

    let found = verdict_on(&RetryLayer::http(), unavailable, get()).await;

    assert_eq!(found, (1, StoppedBy::Success));
}
