//! Streams of gRPC: what began to flow goes on undisturbed (retry R4, R9).

use std::time::Duration;

use futures_util::{StreamExt, stream};
use steadfast::retry::{IdempotencyKeyLayer, RetryConfig, RetryLayer};
use tokio::sync::mpsc;
use tonic::{Code, Status};
use tower::ServiceBuilder;

use super::{
    config,
    echo::{Echo, EchoClient, Saying, Step, channel, saying},
};
use crate::support::within;

type Stack = steadfast::retry::SetIdempotencyKey<
    steadfast::retry::Retry<tonic::transport::Channel, steadfast::retry::SameBody>,
>;

/// A client all of whose calls are marked: nothing but the rules keeps a stream from being sent again.
async fn client(echo: &Echo, config: RetryConfig) -> EchoClient<Stack> {
    let address = echo.clone().serve().await;
    let layer = RetryLayer::grpc().with_config(config).unwrap();
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(layer);
    EchoClient::new(stack.service(channel(address)))
}

fn unavailable() -> Status {
    Status::unavailable("closed for lunch")
}

fn counting(number: u32) -> Saying {
    Saying {
        number,
        ..saying("count")
    }
}

#[tokio::test]
async fn a_stream_of_answers_passes_whole() {
    let echo = Echo::new([]);
    let mut client = client(&echo, config()).await;

    let answers = within(client.count(counting(1_000))).await.unwrap();
    let numbers = answers.into_inner().map(|answer| answer.unwrap().number);
    let numbers: Vec<_> = within(numbers.collect()).await;

    assert_eq!(numbers, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn a_stream_of_answers_that_fails_at_once_is_asked_for_again() {
    let echo = Echo::new([Step::Fail(unavailable())]);
    let mut client = client(&echo, config()).await;

    let answers = within(client.count(counting(3))).await.unwrap();

    assert_eq!(within(answers.into_inner().count()).await, 3);
    assert_eq!(echo.calls(), 2);
}

#[tokio::test]
async fn a_stream_that_fails_after_a_message_is_passed_on_as_it_came() {
    let echo = Echo::new([Step::FailLate(unavailable())]);
    let mut client = client(&echo, config()).await;

    let answers = within(client.count(counting(3))).await.unwrap();
    let mut answers = answers.into_inner();

    let first = within(answers.message()).await.unwrap().unwrap();
    assert_eq!(first.number, 1);
    let status = within(answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "closed for lunch");
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn a_stream_of_requests_passes_whole() {
    let echo = Echo::new([]);
    let mut client = client(&echo, config()).await;

    let words = stream::iter(["one ", "two ", "three"].map(saying));
    let answer = within(client.gather(words)).await.unwrap().into_inner();

    assert_eq!(answer.text, "one two three");
    assert_eq!(answer.number, 3);
}

#[tokio::test]
async fn a_stream_of_requests_that_fails_at_once_is_sent_again_whole() {
    let echo = Echo::new([Step::Fail(unavailable()), Step::Fail(unavailable())]);
    let mut client = client(&echo, config()).await;

    let words = stream::iter(["one ", "two ", "three"].map(saying));
    let answer = within(client.gather(words)).await.unwrap().into_inner();

    assert_eq!(answer.text, "one two three");
    assert_eq!(answer.number, 3);
    assert_eq!(echo.calls(), 3);
}

#[tokio::test]
async fn a_stream_of_requests_past_the_limit_arrives_whole() {
    let echo = Echo::new([]);
    let mut client = client(&echo, config().with_replay_limit(4 << 10)).await;

    let word = "x".repeat(1 << 10);
    let words = stream::iter((0..100).map(move |_| saying(word.clone())));
    let answer = within(client.gather(words)).await.unwrap().into_inner();

    assert_eq!(answer.text, "x".repeat(100 << 10));
    assert_eq!(answer.number, 100);
}

/// Each answer comes before the next message is sent.
async fn chats<S>(mut client: EchoClient<S>, messages: u32)
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<tonic::codegen::StdError>,
    S::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let (sender, receiver) = mpsc::unbounded_channel::<Saying>();
    let sayings = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });

    let answers = within(client.chat(sayings.boxed())).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 0..messages {
        let text = "y".repeat(1 << 10);
        sender.send(Saying { text, number }).unwrap();
        let answer = within(answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.number, number);
        assert_eq!(answer.text.len(), 1 << 10);
    }
    drop(sender);
    assert!(within(answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_conversation_outlives_messages_that_sum_up_past_the_limit() {
    let echo = Echo::new([]);
    let client = client(&echo, config().with_replay_limit(4 << 10)).await;

    chats(client, 200).await;

    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn a_conversation_outlives_the_time_of_its_attempt() {
    let echo = Echo::new([]);
    let timeout = Duration::from_millis(500);
    let mut client = client(&echo, config().with_attempt_timeout(timeout)).await;
    let started = tokio::time::Instant::now();
    let (sender, receiver) = mpsc::unbounded_channel::<Saying>();
    let sayings = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let answers = within(client.chat(sayings.boxed())).await.unwrap();
    let mut answers = answers.into_inner();

    tokio::time::sleep_until(started + timeout + Duration::from_millis(100)).await;
    sender.send(saying("still there?")).unwrap();

    let answer = within(answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.text, "still there?");
}

#[tokio::test]
async fn a_conversation_that_fails_at_once_begins_again() {
    let echo = Echo::new([Step::Fail(unavailable())]);
    let client = client(&echo, config()).await;

    chats(client, 3).await;

    assert_eq!(echo.calls(), 2);
}
