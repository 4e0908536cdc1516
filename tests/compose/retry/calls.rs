//! Unary calls of gRPC, with tonic on both sides (retry R3 to R5, R8, R11).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use h2::Reason;
use http::{HeaderMap, StatusCode};
use steadfast::{
    http::{IdempotentRequest, grpc::Code as GrpcCode},
    retry::{IdempotencyKeyLayer, Retry, RetryConfig, RetryLayer, SameBody},
};
use tokio::time::Instant;
use tonic::{
    Code, Request, Status, metadata::MetadataMap, service::interceptor::InterceptedService,
    transport::Channel,
};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, ServiceBuilder};

use super::{
    config,
    echo::{Echo, EchoClient, SAY, Step, channel, endpoint, saying},
    http2,
    script::Reserved,
};
use crate::support::within;

fn grpc() -> RetryLayer<SameBody> {
    grpc_with(config())
}

fn grpc_with(config: RetryConfig) -> RetryLayer<SameBody> {
    RetryLayer::grpc().with_config(config).unwrap()
}

/// A client whose calls have no key.
async fn unmarked(echo: &Echo, config: RetryConfig) -> EchoClient<Retry<Channel, SameBody>> {
    let address = echo.clone().serve().await;
    EchoClient::new(grpc_with(config).layer(channel(address)))
}

type Keyed = steadfast::retry::SetIdempotencyKey<Retry<Channel, SameBody>>;

/// A client whose calls have keys.
async fn marked(echo: &Echo, config: RetryConfig) -> EchoClient<Keyed> {
    let address = echo.clone().serve().await;
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(grpc_with(config))
        .service(channel(address));
    EchoClient::new(stack)
}

fn unavailable() -> Step {
    Step::Fail(Status::unavailable("closed for lunch"))
}

/// A status that asks its caller for this, in metadata.
fn pushed_back(pushback: &str) -> Step {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    Step::Fail(Status::with_metadata(Code::Unavailable, "", metadata))
}

#[test]
fn a_channel_with_both_layers_can_be_shared_as_the_channel_itself() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}

    is_shareable::<EchoClient<Retry<Channel, SameBody>>>();
    is_shareable::<EchoClient<Keyed>>();
}

#[tokio::test]
async fn an_unavailable_server_heals_where_calls_have_keys() {
    let echo = Echo::new([unavailable(), unavailable()]);
    let mut client = marked(&echo, config()).await;

    let answer = within(client.say(saying("hello"))).await.unwrap();

    assert_eq!(answer.into_inner().text, "hello");
    let keys = echo.header("idempotency-key");
    assert_eq!(keys.len(), 3);
    assert!(keys[0].is_some());
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn an_unavailable_server_is_not_asked_again_where_nothing_says_that_it_may() {
    let echo = Echo::new([unavailable()]);
    let mut client = unmarked(&echo, config()).await;

    let status = within(client.say(saying("hello"))).await.unwrap_err();

    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "closed for lunch");
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn an_unavailable_server_heals_for_methods_that_are_named_idempotent() {
    let echo = Echo::new([unavailable()]);
    let config = config().with_idempotent_grpc_methods([SAY]);
    let mut client = unmarked(&echo, config).await;

    let answer = within(client.say(saying("hello"))).await.unwrap();

    assert_eq!(answer.into_inner().text, "hello");
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn a_call_is_marked_through_the_extensions_of_its_request_too() {
    let echo = Echo::new([unavailable()]);
    let mut client = unmarked(&echo, config()).await;
    let mut request = Request::new(saying("hello"));
    request.extensions_mut().insert(IdempotentRequest);

    within(client.say(request)).await.unwrap();

    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn an_interceptor_beneath_sees_every_attempt_and_one_around_sees_the_call() {
    let echo = Echo::new([unavailable()]);
    let address = echo.clone().serve().await;
    let counting = |count: &Arc<AtomicU32>| {
        let count = Arc::clone(count);
        move |request: Request<()>| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Status>(request)
        }
    };
    let (calls, attempts) = (Arc::default(), Arc::default());
    let beneath = InterceptedService::new(channel(address), counting(&attempts));
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(grpc())
        .service(beneath);
    let around = InterceptedService::new(stack, counting(&calls));

    within(EchoClient::new(around).say(saying("hello")))
        .await
        .unwrap();

    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn the_status_of_a_proxy_is_read_as_the_code_that_tonic_makes_of_it() {
    for status in [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE] {
        let echo = Echo::new([Step::Proxied(status)]);
        let mut client = marked(&echo, config()).await;
        let answer = within(client.say(saying("hello"))).await.unwrap();
        assert_eq!(answer.into_inner().text, "hello");
        assert_eq!(echo.calls(), 2);

        let echo = Echo::new([Step::Proxied(status)]);
        let mut client = unmarked(&echo, config()).await;
        let failed = within(client.say(saying("hello"))).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        assert_eq!(echo.calls(), 1);
    }
}

#[tokio::test]
async fn a_call_whose_stream_was_refused_needs_no_mark() {
    let url = http2::serve(async |mut call: http2::Call| {
        if call.number == 0 {
            return call.respond.send_reset(Reason::REFUSED_STREAM);
        }
        let message = call.body().await;
        let mut response = http::Response::new(());
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        let mut answer = call.respond.send_response(response, false).unwrap();
        answer.send_data(message.into(), false).unwrap();
        let ok = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
        answer.send_trailers(HeaderMap::from_iter([ok])).unwrap();
    })
    .await;
    let address = url.parse::<http::Uri>().unwrap();
    let address = address.authority().unwrap().as_str().parse().unwrap();
    let mut client = EchoClient::new(grpc().layer(channel(address)));

    let answer = within(client.say(saying("hello"))).await.unwrap();

    assert_eq!(answer.into_inner().text, "hello");
}

#[tokio::test]
async fn a_code_that_is_the_answer_of_a_healthy_server_is_passed_on() {
    for code in [Code::NotFound, Code::Internal, Code::ResourceExhausted] {
        let echo = Echo::new([Step::Fail(Status::new(code, "no"))]);
        let mut client = marked(&echo, config()).await;

        let status = within(client.say(saying("hello"))).await.unwrap_err();

        assert_eq!(status.code(), code);
        assert_eq!(echo.calls(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_code_heals_where_the_configuration_says_that_it_passes() {
    let echo = Echo::new([Step::Fail(Status::aborted("again"))]);
    let config = config().add_transient_code(GrpcCode::Aborted);
    let mut client = marked(&echo, config).await;

    within(client.say(saying("hello"))).await.unwrap();

    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn the_last_failure_reaches_the_caller_with_all_that_its_server_said() {
    let mut details = ErrorDetails::new();
    details.set_request_info("request-7", "");
    let failure = || {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-hint", "tomorrow".parse().unwrap());
        let failure = Status::with_error_details_and_metadata(
            Code::Unavailable,
            "50 % caf\u{e9} is closed",
            details.clone(),
            metadata,
        );
        Step::Fail(failure)
    };
    let echo = Echo::new([failure(), failure(), failure(), failure()]);
    let mut client = marked(&echo, config()).await;

    let status = within(client.say(saying("hello"))).await.unwrap_err();

    assert_eq!(echo.calls(), 3);
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "50 % caf\u{e9} is closed");
    assert_eq!(status.metadata().get("x-hint").unwrap(), "tomorrow");
    let details = status.get_details_request_info().unwrap();
    assert_eq!(details.request_id, "request-7");
}

#[tokio::test]
async fn the_pause_that_a_server_pushes_back_with_is_kept() {
    let echo = Echo::new([pushed_back("300")]);
    let mut client = marked(&echo, config()).await;
    let started = Instant::now();

    within(client.say(saying("hello"))).await.unwrap();

    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn a_server_that_pushes_back_without_a_time_is_not_asked_again() {
    for pushback in ["-1", "soon"] {
        let echo = Echo::new([pushed_back(pushback)]);
        let mut client = marked(&echo, config()).await;

        let status = within(client.say(saying("hello"))).await.unwrap_err();

        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(echo.calls(), 1, "{pushback}");
    }
}

#[tokio::test]
async fn an_exhausted_resource_is_asked_again_after_the_delay_in_its_details() {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_millis(300)));
    let exhausted =
        Status::with_error_details(Code::ResourceExhausted, "all lines are busy", details);
    let echo = Echo::new([Step::Fail(exhausted)]);
    let mut client = marked(&echo, config()).await;
    let started = Instant::now();

    within(client.say(saying("hello"))).await.unwrap();

    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn servers_are_told_how_many_attempts_came_before() {
    let echo = Echo::new([unavailable(), unavailable()]);
    let mut client = marked(&echo, config()).await;

    within(client.say(saying("hello"))).await.unwrap();

    let told = echo.header("grpc-previous-rpc-attempts");
    let expected = [None, Some("1"), Some("2")];
    assert_eq!(told, expected.map(|told| told.map(str::to_owned)));
}

fn nanoseconds(timeout: &str) -> u128 {
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let unit = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        other => panic!("no unit of these timeouts: {other}"),
    };
    number.parse::<u128>().unwrap() * unit
}

#[tokio::test]
async fn servers_are_told_the_time_of_each_attempt_and_never_more_than_the_caller_has() {
    let echo = Echo::new([pushed_back("50"), pushed_back("50")]);
    let mut client = marked(&echo, config()).await;
    let mut request = Request::new(saying("hello"));
    request.set_timeout(Duration::from_secs(30));

    within(client.say(request)).await.unwrap();

    let told = echo.header("grpc-timeout").into_iter();
    let told: Vec<_> = told.map(|told| nanoseconds(&told.unwrap())).collect();
    assert_eq!(told.len(), 3);
    assert!(told[0] <= Duration::from_secs(30).as_nanos(), "{told:?}");
    // Each pause is gone from what the next attempt has.
    for (before, after) in [(told[0], told[1]), (told[1], told[2])] {
        assert!(
            after + Duration::from_millis(50).as_nanos() <= before,
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn servers_are_told_the_time_of_one_attempt_where_that_is_shorter() {
    let echo = Echo::new([unavailable()]);
    let config = config().with_attempt_timeout(Duration::from_secs(10));
    let mut client = marked(&echo, config).await;
    let mut request = Request::new(saying("hello"));
    request.set_timeout(Duration::from_secs(30));

    within(client.say(request)).await.unwrap();

    let told = echo.header("grpc-timeout");
    assert_eq!(told.len(), 2);
    for told in told {
        let told = nanoseconds(&told.unwrap());
        assert!(told <= Duration::from_secs(10).as_nanos(), "{told}");
    }
}

#[tokio::test]
async fn a_call_whose_deadline_comes_fails_with_deadline_exceeded() {
    for _ in 0..10 {
        let echo = Echo::new([Step::Hang, Step::Hang]);
        let mut client = marked(&echo, config()).await;
        let mut request = Request::new(saying("hello"));
        request.set_timeout(Duration::from_millis(50));

        let status = within(client.say(request)).await.unwrap_err();

        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(echo.calls() <= 1);
    }
}

#[tokio::test]
async fn a_configured_deadline_is_kept_where_the_caller_has_none() {
    for _ in 0..10 {
        let echo = Echo::new([Step::Hang]);
        let mut client = marked(&echo, config().with_deadline(Duration::from_millis(50))).await;

        let status = within(client.say(saying("hello"))).await.unwrap_err();

        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another_one() {
    // Its time ends in the layer, in the channel beneath it and in the server, all at about one moment.
    for _ in 0..5 {
        let echo = Echo::new([Step::Hang]);
        let config = config().with_attempt_timeout(Duration::from_millis(300));
        let mut client = marked(&echo, config).await;

        let answer = within(client.say(saying("hello"))).await.unwrap();

        assert_eq!(answer.into_inner().text, "hello");
        assert!(echo.calls() <= 2);
    }
}

#[tokio::test]
async fn a_server_with_a_deadline_of_its_own_ends_the_call() {
    for config in [
        config(),
        config().with_attempt_timeout(Duration::from_secs(30)),
    ] {
        let echo = Echo::new([Step::Fail(Status::deadline_exceeded("no more time"))]);
        let mut client = marked(&echo, config).await;

        let status = within(client.say(saying("hello"))).await.unwrap_err();

        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(echo.calls(), 1);
    }
}

#[tokio::test]
async fn compressed_messages_are_sent_again_as_they_were() {
    let echo = Echo::compressing([unavailable(), unavailable()]);
    let mut client = marked(&echo, config()).await.compressing();
    let text = "hello ".repeat(1_000);

    let answer = within(client.say(saying(text.clone()))).await.unwrap();

    assert_eq!(answer.into_inner().text, text);
    assert_eq!(
        echo.header("grpc-encoding"),
        vec![Some("gzip".to_owned()); 3]
    );
}

#[tokio::test]
async fn a_channel_heals_once_somebody_listens_at_its_address() {
    let echo = Echo::new([]);
    let reserved = Reserved::port();
    let address = reserved.address();
    let closed = Mutex::new(Some(reserved));
    let opened = echo.clone();
    let failures = Arc::new(Mutex::new(0));
    let count = Arc::clone(&failures);
    let layer = grpc().with_classifier(move |attempted| {
        if attempted.error().is_some() {
            *count.lock().unwrap() += 1;
            if let Some(reserved) = closed.lock().unwrap().take() {
                opened.clone().serve_on(reserved);
            }
        }
        attempted.verdict()
    });
    // Without a key: what was never sent was not processed.
    let mut client = EchoClient::new(layer.layer(channel(address)));

    let answer = within(client.say(saying("hello"))).await.unwrap();

    assert_eq!(answer.into_inner().text, "hello");
    assert_eq!(*failures.lock().unwrap(), 1);
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn a_channel_heals_when_its_server_died_and_came_back() {
    let echo = Echo::new([]);
    let reserved = Reserved::port();
    let address = reserved.address();
    let heir = Mutex::new(Some(reserved.heir()));
    let serving = echo.clone().serve_on(reserved);
    let next = echo.clone();
    let layer = grpc().with_classifier(move |attempted| {
        if attempted.error().is_some()
            && let Some(heir) = heir.lock().unwrap().take()
        {
            next.clone().serve_on(heir);
        }
        attempted.verdict()
    });
    let connected = within(endpoint(address).connect()).await.unwrap();
    let mut client = EchoClient::new(layer.layer(connected));
    within(client.say(saying("before"))).await.unwrap();

    within(serving.stop()).await;
    let answer = within(client.say(saying("after"))).await.unwrap();

    assert_eq!(answer.into_inner().text, "after");
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn a_channel_to_nobody_fails_as_it_does_without_the_layer() {
    let reserved = Reserved::port();
    let bare = channel(reserved.address());
    let mut bare = EchoClient::new(bare);
    let mut client = EchoClient::new(grpc().layer(channel(reserved.address())));

    let without = within(bare.say(saying("hello"))).await.unwrap_err();
    let with = within(client.say(saying("hello"))).await.unwrap_err();

    assert_eq!(
        (with.code(), with.message()),
        (without.code(), without.message())
    );
}
