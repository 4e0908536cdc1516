//! retry R3.

use http::{HeaderValue, Request};
use http_body_util::Full;
use steadfast_http::header::IDEMPOTENCY_KEY;
use steadfast_retry::{RetryConfig, RetryLayer, StoppedBy};

use crate::support::{
    Beneath, Fault, Script, Step, answer, call, get, grpc, marked, post, request, rpc, stopped_by,
    trailers_only,
};

type Call = Request<Full<bytes::Bytes>>;

const IDEMPOTENT: [&str; 7] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"];
const OTHERS: [&str; 6] = ["POST", "PATCH", "CONNECT", "LOCK", "get", "query"];

fn with_key(mut request: Call) -> Call {
    let key = HeaderValue::from_static("order-1");
    request.headers_mut().insert(IDEMPOTENCY_KEY, key);
    request
}

/// How many attempts a request gets where each is answered with this status.
async fn attempts(layer: &RetryLayer, status: u16, request: Call) -> usize {
    let script = Script::new([Step::Answer(answer(status))]);
    call(layer, &script, request).await.unwrap();
    script.calls()
}

/// How many attempts a gRPC call gets where each is answered with UNAVAILABLE.
async fn rpc_attempts(layer: &RetryLayer, request: Call) -> usize {
    let script = Script::new([Step::Answer(trailers_only(14))]);
    call(layer, &script, request).await.unwrap();
    script.calls()
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_processed_is_sent_again_only_by_idempotent_methods() {
    for method in IDEMPOTENT {
        for fails in [Step::Answer(answer(503)), Step::Fail(Fault::Reset)] {
            let script = Script::new([fails, Step::Answer(answer(200))]);

            let response = call(&RetryLayer::http(), &script, request(method)).await;

            assert_eq!(script.calls(), 2, "{method}");
            assert_eq!(response.unwrap().status(), 200);
        }
    }
    for method in OTHERS {
        for fails in [Step::Answer(answer(503)), Step::Fail(Fault::Reset)] {
            let script = Script::new([fails, Step::Answer(answer(200))]);

            let result = call(&RetryLayer::http(), &script, request(method)).await;

            assert_eq!(script.calls(), 1, "{method}");
            if let Ok(response) = result {
                assert_eq!(stopped_by(&response), Some(StoppedBy::NotIdempotent));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_again_by_every_method() {
    for method in IDEMPOTENT.into_iter().chain(OTHERS) {
        let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(answer(200))]);

        let layer = RetryLayer::http().with_error_view::<Beneath>();
        let response = call(&layer, &script, request(method)).await;

        assert_eq!(script.calls(), 2, "{method}");
        assert_eq!(response.unwrap().status(), 200);
    }
}

/// It may be of a client that has made another call before.
#[tokio::test(start_paused = true)]
async fn a_refused_connection_beneath_an_error_that_nobody_knows_is_no_proof() {
    for (method, calls) in IDEMPOTENT
        .map(|method| (method, 2))
        .into_iter()
        .chain(OTHERS.map(|method| (method, 1)))
    {
        let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(answer(200))]);

        let result = call(&RetryLayer::http(), &script, request(method)).await;

        assert_eq!(script.calls(), calls, "{method}");
        assert_eq!(result.is_ok(), calls == 2, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_fail_alike_is_sent_again_by_no_method() {
    for method in IDEMPOTENT.into_iter().chain(OTHERS) {
        let request = marked(with_key(request(method)));
        let layer = RetryLayer::http().trusting_key_header();

        assert_eq!(attempts(&layer, 501, request).await, 1, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_marked_request_is_sent_again_whatever_its_method() {
    for method in OTHERS {
        let layer = RetryLayer::http();

        assert_eq!(attempts(&layer, 503, marked(request(method))).await, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn the_mark_reaches_every_attempt() {
    let script = Script::new([Step::Answer(answer(503))]);

    call(&RetryLayer::http(), &script, marked(post("1999")))
        .await
        .unwrap();

    for seen in script.seen() {
        let mark: Option<&steadfast_http::IdempotentRequest> = seen.head.extensions.get();
        assert!(mark.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_by_itself_does_not_make_a_request_idempotent() {
    let layer = RetryLayer::http();

    assert_eq!(attempts(&layer, 503, with_key(post("1999"))).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_a_request_idempotent_where_the_destination_is_trusted_to_honour_it() {
    let layer = RetryLayer::http().trusting_key_header();

    assert_eq!(attempts(&layer, 503, with_key(post("1999"))).await, 3);
    assert_eq!(attempts(&layer, 503, post("1999")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_not_idempotent_by_its_http_method() {
    for method in IDEMPOTENT {
        let mut call = rpc();
        *call.method_mut() = method.parse().unwrap();

        assert_eq!(rpc_attempts(&grpc(), call).await, 1, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_marked_grpc_call_is_sent_again() {
    assert_eq!(rpc_attempts(&grpc(), marked(rpc())).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_key_counts_where_the_server_is_trusted_to_honour_it() {
    assert_eq!(rpc_attempts(&grpc(), with_key(rpc())).await, 1);
    let trusting = grpc().trusting_key_header();
    assert_eq!(rpc_attempts(&trusting, with_key(rpc())).await, 3);
}

#[tokio::test(start_paused = true)]
async fn grpc_methods_named_in_the_configuration_are_sent_again() {
    let methods = ["/things.Things/Make", "/things.Things/Read"];
    let config = RetryConfig::default().with_idempotent_grpc_methods(methods);
    let layer = grpc().with_config(config).unwrap();
    for (path, attempts) in [
        ("/things.Things/Make", 3),
        ("/things.Things/Read", 3),
        ("/things.Things/Make?x", 3),
        ("/things.Things/MakeAll", 1),
        ("/things.Things/make", 1),
        ("/prefix/things.Things/Make", 1),
    ] {
        let mut call = rpc();
        *call.uri_mut() = format!("http://destination.test{path}").parse().unwrap();

        assert_eq!(rpc_attempts(&layer, call).await, attempts, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_methods_mean_nothing_to_http() {
    let config = RetryConfig::default().with_idempotent_grpc_methods(["/things/1"]);
    let layer = RetryLayer::http().with_config(config).unwrap();

    assert_eq!(attempts(&layer, 503, request("POST")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_was_not_processed_is_sent_again() {
    let script = Script::new([Step::Fail(Fault::Refused), Step::Answer(trailers_only(0))]);

    let layer = grpc().with_error_view::<Beneath>();
    let response = call(&layer, &script, rpc()).await.unwrap();

    assert_eq!(script.calls(), 2);
    assert_eq!(response.headers()["grpc-status"], "0");
}

#[tokio::test(start_paused = true)]
async fn a_classifier_can_say_that_a_request_was_not_processed() {
    use steadfast_core::verdict::{Cause, Failure, SafetyClass};

    let layer = RetryLayer::http().with_classifier(|attempted| match attempted.response() {
        Some(head) if head.status() == 507 => {
            Failure::new(SafetyClass::NotProcessed, Cause::Fault).into()
        }
        _ => attempted.verdict(),
    });

    assert_eq!(attempts(&layer, 507, post("1999")).await, 3);
    assert_eq!(attempts(&layer, 508, get()).await, 1);
}
