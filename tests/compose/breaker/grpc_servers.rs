//! tonic's server behind the layer (circuit-breaker B7 to B9).

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::Full;
use steadfast::circuit_breaker::{CircuitBreakerLayer, State};
use tonic::{
    Code, Status,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::{
    assert_rejected_in_grpc, breaker, brief, configured, counted,
    echo::{Echo, EchoClient, SAY, Saying, Step, channel, saying},
    failures_in_a_row, grpc,
    script::Reserved,
    trip, until_probed,
};
use crate::support::{Connection, Protocol, eventually, within};

async fn serve(echo: &Echo, layer: CircuitBreakerLayer) -> SocketAddr {
    let reserved = Reserved::port();
    let address = reserved.address();
    let server = Server::builder().layer(layer).add_service(echo.clone());
    let incoming = TcpIncoming::from(reserved.listen());
    tokio::spawn(async { server.serve_with_incoming(incoming).await.unwrap() });
    address
}

async fn client(echo: &Echo, layer: CircuitBreakerLayer) -> EchoClient<Channel> {
    EchoClient::new(channel(serve(echo, layer).await))
}

fn fails(code: Code) -> Step {
    Step::Fail(Status::new(code, "no"))
}

fn counting(number: u32) -> Saying {
    Saying {
        number,
        ..saying("count")
    }
}

#[tokio::test]
async fn five_failures_over_as_many_connections_open_it_for_all_others() {
    for code in [
        Code::Unavailable,
        Code::Internal,
        Code::Unknown,
        Code::DataLoss,
        Code::DeadlineExceeded,
    ] {
        let breaker = breaker();
        let echo = Echo::new((0..5).map(|_| fails(code)));
        let address = serve(&echo, grpc(&breaker)).await;

        for _ in 0..5 {
            let mut client = EchoClient::new(channel(address));
            let status = within(client.say(saying("hello"))).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (code, "no"));
        }

        for _ in 0..3 {
            let mut client = EchoClient::new(channel(address));
            let status = within(client.say(saying("hello"))).await.unwrap_err();
            assert_rejected_in_grpc(&status);
        }
        assert_eq!(breaker.state(), State::Open, "{code}");
        assert_eq!(echo.calls(), 5, "{code}");
    }
}

#[tokio::test]
async fn a_rejection_is_trailers_only() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let address = serve(&echo, grpc(&breaker)).await;
    trip(&breaker);

    let mut client = Connection::open(Protocol::Http2, address).await;
    let request = Request::post(SAY)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::<Bytes>::from("\0\0\0\0\0"))
        .unwrap();
    let answer = within(client.send(request)).await.unwrap();

    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(answer.headers["grpc-status"], "14");
    assert!(answer.headers.contains_key("grpc-status-details-bin"));
    assert!(answer.headers.contains_key("grpc-retry-pushback-ms"));
    assert!(answer.body.is_empty());
    assert_eq!(answer.trailers, None);
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn codes_of_a_healthy_server_count_as_successes() {
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Unauthenticated,
    ] {
        let breaker = breaker();
        let echo = Echo::new((0..6).map(|_| fails(code)));
        let mut client = client(&echo, grpc(&breaker)).await;

        for _ in 0..6 {
            let status = within(client.say(saying("hello"))).await.unwrap_err();
            assert_eq!(status.code(), code);
        }

        assert_eq!(counted(&breaker), (6, 0), "{code}");
    }
}

#[tokio::test]
async fn a_cancelled_call_says_nothing_and_an_exhausted_resource_makes_no_row() {
    let breaker = breaker();
    let cancelled = (0..6).map(|_| fails(Code::Cancelled));
    let exhausted = (0..6).map(|_| fails(Code::ResourceExhausted));
    let echo = Echo::new(cancelled.chain(exhausted));
    let mut client = client(&echo, grpc(&breaker)).await;

    for _ in 0..6 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }
    assert_eq!(counted(&breaker), (0, 0));
    for _ in 0..6 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    assert_eq!(counted(&breaker), (6, 6));
    assert_eq!(failures_in_a_row(&breaker), 0);
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn a_failure_in_the_trailers_counts_when_they_come() {
    let breaker = breaker();
    let late = || Step::FailLate(Status::internal("out of paper"));
    let echo = Echo::new((0..5).map(|_| late()));
    let mut client = client(&echo, grpc(&breaker)).await;

    for n in 1..=5 {
        let answers = within(client.count(counting(3))).await.unwrap();
        let mut answers = answers.into_inner();
        assert_eq!(within(answers.message()).await.unwrap().unwrap().number, 1);
        let status = within(answers.message()).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "out of paper")
        );
        if n < 5 {
            let counts = || failures_in_a_row(&breaker) == n;
            eventually("it counts", counts).await;
        }
    }

    eventually("it opens", || breaker.state() == State::Open).await;
    let status = within(client.count(counting(3))).await.unwrap_err();
    assert_rejected_in_grpc(&status);
    assert_eq!(echo.calls(), 5);
}

#[tokio::test]
async fn streams_pass_whole_and_count_once_at_their_end() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, grpc(&breaker)).await;

    let answers = within(client.count(counting(1_000))).await.unwrap();
    let numbers = answers.into_inner().map(|answer| answer.unwrap().number);
    let numbers: Vec<_> = within(numbers.collect()).await;
    assert_eq!(numbers, (1..=1_000).collect::<Vec<_>>());
    eventually("it counts", || counted(&breaker) == (1, 0)).await;

    let words = futures_util::stream::iter(["one ", "two ", "three"].map(saying));
    let answer = within(client.gather(words)).await.unwrap().into_inner();
    assert_eq!(answer.text, "one two three");
    eventually("it counts", || counted(&breaker) == (2, 0)).await;
}

#[tokio::test]
async fn a_conversation_counts_when_it_is_over() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, grpc(&breaker)).await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Saying>();
    let sayings = futures_util::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });

    let answers = within(client.chat(sayings.boxed())).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 0..10 {
        sender.send(counting(number)).unwrap();
        let answer = within(answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.number, number);
    }
    assert_eq!(counted(&breaker), (0, 0));
    drop(sender);
    assert!(within(answers.message()).await.unwrap().is_none());

    eventually("it counts", || counted(&breaker) == (1, 0)).await;
}

#[tokio::test]
async fn a_stream_that_its_caller_leaves_says_nothing() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, grpc(&breaker)).await;

    for _ in 0..6 {
        // Longer than what is sent ahead.
        let mut count = counting(100_000);
        count.text = "x".repeat(1 << 10);
        let answers = within(client.count(count)).await.unwrap();
        let mut answers = answers.into_inner();
        within(answers.message()).await.unwrap().unwrap();
        drop(answers);
    }
    within(client.say(saying("hello"))).await.unwrap();

    eventually("the last one counts", || counted(&breaker).0 > 0).await;
    assert_eq!(counted(&breaker), (1, 0));
}

#[tokio::test]
async fn it_closes_again_after_three_calls() {
    let breaker = configured(brief());
    let echo = Echo::new((0..5).map(|_| fails(Code::Unavailable)));
    let mut client = client(&echo, grpc(&breaker)).await;
    for _ in 0..5 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    until_probed(&breaker).await;
    for _ in 0..3 {
        let answer = within(client.say(saying("hello"))).await.unwrap();
        assert_eq!(answer.into_inner().text, "hello");
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(echo.calls(), 8);
}

/// tonic's server keeps the time of its callers around all layers, and drops what takes longer: who drops says nothing by itself.
#[tokio::test]
async fn a_handler_that_outlives_the_time_of_its_callers_says_nothing() {
    let breaker = breaker();
    let echo = Echo::new((0..6).map(|_| Step::Hang));
    let mut client = client(&echo, grpc(&breaker)).await;

    for _ in 0..6 {
        let mut request = tonic::Request::new(saying("hello"));
        request.set_timeout(Duration::from_millis(100));
        within(client.say(request)).await.unwrap_err();
    }

    assert_eq!(counted(&breaker), (0, 0));
}
