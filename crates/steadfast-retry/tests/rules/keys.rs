//! retry R14.

use std::collections::HashSet;

use http::{HeaderValue, Request};
use http_body_util::Full;
use steadfast_http::{IdempotentRequest, header::IDEMPOTENCY_KEY};
use steadfast_retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer, RetryOutcome};
use tower::ServiceBuilder;
use uuid::{Uuid, Variant};

use crate::support::{
    Fault, Script, Seen, Step, answer, call, get, grpc, post, request, retry_after, rpc,
    trailers_only,
};

const UNSAFE: [&str; 5] = ["POST", "PUT", "DELETE", "PATCH", "LOCK"];
const SAFE: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "CONNECT"];

trait Named {
    fn key(&self) -> Option<&str>;
    fn is_marked(&self) -> bool;
}

impl Named for Seen {
    fn key(&self) -> Option<&str> {
        let mut keys = self.head.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys.next()?;
        assert!(keys.next().is_none(), "one key");
        Some(key.to_str().unwrap())
    }

    fn is_marked(&self) -> bool {
        self.head.extensions.get::<IdempotentRequest>().is_some()
    }
}

/// The request as it leaves the layer.
async fn passed(layer: &IdempotencyKeyLayer, request: Request<Full<bytes::Bytes>>) -> Seen {
    let script = Script::new([Step::Answer(answer(200))]);
    call(layer, &script, request).await.unwrap();
    script.seen().remove(0)
}

fn with_key(
    mut request: Request<Full<bytes::Bytes>>,
    key: &'static str,
) -> Request<Full<bytes::Bytes>> {
    let key = HeaderValue::from_static(key);
    request.headers_mut().insert(IDEMPOTENCY_KEY, key);
    request
}

fn assert_is_uuid_v4(key: &str) {
    let uuid = Uuid::try_parse(key).unwrap();
    assert_eq!(uuid.get_version_num(), 4);
    assert_eq!(uuid.get_variant(), Variant::RFC4122);
    assert_eq!(
        key,
        uuid.hyphenated().to_string(),
        "lower case, with hyphens"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_of_unsafe_methods_get_a_bare_uuid_and_the_mark() {
    for layer in [IdempotencyKeyLayer::new(), IdempotencyKeyLayer::default()] {
        for method in UNSAFE {
            let seen = passed(&layer, request(method)).await;

            assert_is_uuid_v4(seen.key().unwrap());
            assert!(seen.is_marked(), "{method}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_safe_methods_pass_untouched() {
    for method in SAFE {
        let sent = request(method);
        let headers = sent.headers().clone();

        let seen = passed(&IdempotencyKeyLayer::new(), sent).await;

        assert_eq!(seen.head.headers, headers, "{method}");
        assert!(seen.head.extensions.is_empty(), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn servers_that_want_a_structured_string_get_one() {
    let layer = IdempotencyKeyLayer::new().with_structured_string();

    let seen = passed(&layer, post("1999")).await;

    let key = seen.key().unwrap();
    let bare = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    assert_is_uuid_v4(bare.unwrap());
}

#[tokio::test(start_paused = true)]
async fn each_request_has_a_key_of_its_own() {
    let layer = IdempotencyKeyLayer::new();
    let script = Script::new([Step::Answer(answer(200))]);
    for _ in 0..100 {
        call(&layer, &script, post("1999")).await.unwrap();
    }

    let seen = script.seen();
    let keys: HashSet<_> = seen.iter().map(|seen| seen.key().unwrap()).collect();

    assert_eq!(keys.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_caller_is_kept_and_marks_its_request() {
    for method in UNSAFE.into_iter().chain(SAFE) {
        for key in ["order-1", "\"order-1\""] {
            for layer in [
                IdempotencyKeyLayer::new(),
                IdempotencyKeyLayer::new().with_structured_string(),
                IdempotencyKeyLayer::new().with_source(|_| unreachable!("there is a key")),
            ] {
                let seen = passed(&layer, with_key(request(method), key)).await;

                assert_eq!(seen.key(), Some(key));
                assert!(seen.is_marked(), "{method}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_attempts_have_the_key_of_the_first() {
    let layer = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(RetryLayer::http());
    let script = Script::new([
        Step::Fail(Fault::Reset),
        Step::Answer(retry_after(409, "1")),
        Step::Answer(answer(201)),
    ]);

    let response = call(&layer, &script, post("1999")).await.unwrap();

    assert_eq!(response.status(), 201);
    let attempts = RetryOutcome::of(response.extensions()).unwrap().attempts();
    assert_eq!(attempts, 3);
    let seen = script.seen();
    assert_is_uuid_v4(seen[0].key().unwrap());
    for seen in &seen[1..] {
        assert_eq!(seen.key(), script.seen()[0].key());
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_for_some_requests_leaves_the_others_alone() {
    let layer = IdempotencyKeyLayer::new_for(|head| head.uri.host() == Some("destination.test"));
    let mut elsewhere = post("1999");
    *elsewhere.uri_mut() = "http://elsewhere.test/things".parse().unwrap();

    assert!(passed(&layer, post("1999")).await.is_marked());
    for request in [elsewhere.clone(), with_key(elsewhere, "order-1")] {
        let headers = request.headers().clone();

        let seen = passed(&layer, request).await;

        assert_eq!(seen.head.headers, headers);
        assert!(!seen.is_marked());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_may_take_for_no_key_marks_no_request() {
    let empty = with_key(post("1999"), "");
    let blank = with_key(post("1999"), " ");
    let mut doubled = with_key(post("1999"), "order-1");
    doubled
        .headers_mut()
        .append("idempotency-key", HeaderValue::from_static("order-2"));

    for request in [empty, blank, doubled] {
        let headers = request.headers().clone();
        let seen = passed(&IdempotencyKeyLayer::new(), request).await;

        assert_eq!(seen.head.headers, headers);
        assert!(!seen.is_marked(), "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_header_that_a_server_may_take_for_none_is_not_trusted() {
    for key in ["", " "] {
        let script = Script::new([Step::Answer(answer(503))]);
        let layer = RetryLayer::http().trusting_key_header();

        call(&layer, &script, with_key(post("1999"), key))
            .await
            .unwrap();

        assert_eq!(script.calls(), 1, "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_come_from_the_users_own_source() {
    let layer = IdempotencyKeyLayer::new()
        .with_structured_string()
        .with_source(|head| head.headers.get("x-order").cloned());
    let mut named = post("1999");
    let order = HeaderValue::from_static("order 1");
    named.headers_mut().insert("x-order", order);

    let seen = passed(&layer, named).await;

    assert_eq!(seen.key(), Some("order 1"), "as the source gave it");
    assert!(seen.is_marked());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_source_has_no_key_for_is_sent_without_one() {
    let keys = IdempotencyKeyLayer::new().with_source(|_| None);

    let seen = passed(&keys, post("1999")).await;
    assert_eq!(seen.key(), None);
    assert!(!seen.is_marked());

    let layer = ServiceBuilder::new().layer(keys).layer(RetryLayer::http());
    let script = Script::new([Step::Answer(answer(503))]);
    call(&layer, &script, post("1999")).await.unwrap();
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_source_is_asked_only_for_unsafe_methods() {
    let layer = IdempotencyKeyLayer::new().with_source(|head| {
        assert!(UNSAFE.contains(&head.method.as_str()), "{}", head.method);
        Some(HeaderValue::from_static("order-1"))
    });

    for method in SAFE {
        assert_eq!(passed(&layer, request(method)).await.key(), None);
    }
    for method in UNSAFE {
        assert_eq!(passed(&layer, request(method)).await.key(), Some("order-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_gets_its_key_as_metadata_and_is_sent_again() {
    let layer = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(grpc());
    let script = Script::new([
        Step::Answer(trailers_only(14)),
        Step::Answer(trailers_only(0)),
    ]);

    let response = call(&layer, &script, rpc()).await.unwrap();

    assert_eq!(response.headers()["grpc-status"], "0");
    let seen = script.seen();
    assert_eq!(seen.len(), 2);
    assert_is_uuid_v4(seen[0].key().unwrap());
    assert_eq!(seen[0].key(), seen[1].key());
}

#[tokio::test(start_paused = true)]
async fn a_layer_beneath_the_retries_names_each_attempt_anew() {
    let layer = ServiceBuilder::new()
        .layer(
            RetryLayer::http()
                .with_config(RetryConfig::default())
                .unwrap(),
        )
        .layer(IdempotencyKeyLayer::new());
    let script = Script::new([Step::Answer(answer(503))]);

    call(&layer, &script, request("PUT")).await.unwrap();

    let seen = script.seen();
    let keys: HashSet<_> = seen.iter().map(|seen| seen.key().unwrap()).collect();
    assert_eq!(keys.len(), 3, "which is why it belongs outside");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_request_passes_as_it_is() {
    let mut sent = post("1999");
    sent.headers_mut()
        .insert("x-order", HeaderValue::from_static("7"));
    sent.extensions_mut().insert(7_u8);

    let seen = passed(&IdempotencyKeyLayer::new(), sent).await;

    assert_eq!(seen.head.method, "POST");
    assert_eq!(seen.head.uri, *post("1999").uri());
    assert_eq!(seen.head.headers["x-order"], "7");
    assert_eq!(seen.head.headers.len(), 2);
    assert_eq!(seen.head.extensions.get(), Some(&7_u8));
    assert_eq!(seen.body.unwrap(), "1999");
    let untouched = passed(&IdempotencyKeyLayer::new(), get()).await;
    assert!(untouched.head.headers.is_empty());
}
