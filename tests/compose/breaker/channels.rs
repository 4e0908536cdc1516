//! tonic's channel beneath the layer, and a client with the bounds of generated code on top (circuit-breaker B6 to B9).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use h2::Reason;
use steadfast::circuit_breaker::{BreakerConfig, CircuitBreaker, Guarded, State};
use tokio::sync::Notify;
use tonic::{
    Code, Request, Status, metadata::MetadataMap, service::interceptor::InterceptedService,
    transport::Channel,
};
use tower::{Layer, ServiceBuilder};

use super::{
    assert_rejected_in_grpc, breaker, brief, configured, counted,
    echo::{Echo, EchoClient, Saying, Step, channel, saying},
    failures_in_a_row, grpc,
    script::Reserved,
    trip, until_probed,
};
use crate::support::{eventually, within};

type Client = EchoClient<Guarded<Channel>>;

fn client_of(address: SocketAddr, breaker: &CircuitBreaker) -> Client {
    EchoClient::new(grpc(breaker).layer(channel(address)))
}

async fn client(echo: &Echo, breaker: &CircuitBreaker) -> Client {
    client_of(echo.clone().serve().await, breaker)
}

fn unavailable() -> Step {
    Step::Fail(Status::unavailable("closed for lunch"))
}

fn counting(number: u32) -> Saying {
    Saying {
        number,
        ..saying("count")
    }
}

#[test]
fn a_channel_with_the_layer_can_be_shared_as_the_channel_itself() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}

    is_shareable::<Client>();
}

#[tokio::test]
async fn five_answers_of_unavailable_open_it_for_all_clones() {
    let breaker = breaker();
    let echo = Echo::new((0..5).map(|_| unavailable()));
    let client = client(&echo, &breaker).await;

    for _ in 0..5 {
        let status = within(client.clone().say(saying("hello")))
            .await
            .unwrap_err();
        assert_eq!(status.message(), "closed for lunch");
    }

    assert_eq!(breaker.state(), State::Open);
    for _ in 0..3 {
        let status = within(client.clone().say(saying("hello")))
            .await
            .unwrap_err();
        assert_rejected_in_grpc(&status);
    }
    let status = within(client.clone().count(counting(3))).await.unwrap_err();
    assert_rejected_in_grpc(&status);
    assert_eq!(echo.calls(), 5);
}

#[tokio::test]
async fn layers_over_several_channels_share_what_is_known_of_their_destination() {
    let breaker = breaker();
    let echo = Echo::new((0..5).map(|_| unavailable()));
    let address = echo.clone().serve().await;
    for _ in 0..5 {
        let mut client = client_of(address, &breaker);
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    let status = within(client_of(address, &breaker).say(saying("hello"))).await;

    assert_rejected_in_grpc(&status.unwrap_err());
    assert_eq!(echo.calls(), 5);
}

#[tokio::test]
async fn the_outcome_is_told_by_the_trailers_and_not_by_the_head() {
    let breaker = breaker();
    let late = || Step::FailLate(Status::unavailable("out of paper"));
    let echo = Echo::new((0..5).map(|_| late()));
    let mut client = client(&echo, &breaker).await;

    for n in 0..5 {
        let answers = within(client.count(counting(3))).await.unwrap();
        let mut answers = answers.into_inner();
        assert_eq!(within(answers.message()).await.unwrap().unwrap().number, 1);
        assert_eq!(failures_in_a_row(&breaker), n);
        let status = within(answers.message()).await.unwrap_err();
        assert_eq!(status.message(), "out of paper");
    }

    assert_eq!(breaker.state(), State::Open);
    let status = within(client.count(counting(3))).await.unwrap_err();
    assert_rejected_in_grpc(&status);
}

#[tokio::test]
async fn a_call_that_succeeds_counts_once_and_a_stream_at_its_end() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, &breaker).await;

    within(client.say(saying("hello"))).await.unwrap();
    assert_eq!(counted(&breaker), (1, 0));

    let answers = within(client.count(counting(3))).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..3 {
        assert_eq!(counted(&breaker), (1, 0));
        within(answers.message()).await.unwrap().unwrap();
    }
    assert!(within(answers.message()).await.unwrap().is_none());
    assert_eq!(counted(&breaker), (2, 0));

    let words = futures_util::stream::iter(["one ", "two "].map(saying));
    within(client.gather(words)).await.unwrap();
    assert_eq!(counted(&breaker), (3, 0));
}

#[tokio::test]
async fn a_stream_that_is_dropped_before_its_trailers_says_nothing() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, &breaker).await;

    for _ in 0..6 {
        let answers = within(client.count(counting(100_000))).await.unwrap();
        let mut answers = answers.into_inner();
        within(answers.message()).await.unwrap().unwrap();
    }

    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn refused_connections_open_it_and_the_channel_comes_back_with_its_server() {
    let reserved = Reserved::port();
    let breaker = configured(brief());
    let mut client = client_of(reserved.address(), &breaker);
    for _ in 0..5 {
        let status = within(client.say(saying("hello"))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
    assert_eq!(breaker.state(), State::Open);

    let echo = Echo::new([]);
    echo.clone().serve_on(reserved);
    // What the channel has of connections that failed may cost a probe.
    for _ in 0..100 {
        if breaker.state() == State::Closed {
            break;
        }
        if breaker.state() == State::Open {
            until_probed(&breaker).await;
        }
        _ = within(client.say(saying("hello"))).await;
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(echo.calls(), 3);
}

/// A server that resets each stream for this reason: at once, or, once it is told to, after its head.
async fn resetting(reason: Reason, after_head: Option<Arc<Notify>>) -> SocketAddr {
    let listener = Reserved::port().listen();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let after_head = after_head.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let Some(told) = after_head.clone() else {
                        respond.send_reset(reason);
                        continue;
                    };
                    let mut head = http::Response::new(());
                    let headers = head.headers_mut();
                    headers.insert("content-type", "application/grpc".parse().unwrap());
                    let mut stream = respond.send_response(head, false).unwrap();
                    tokio::spawn(async move {
                        told.notified().await;
                        stream.send_reset(reason);
                    });
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn streams_that_are_reset_open_it() {
    for reason in [
        Reason::INTERNAL_ERROR,
        Reason::REFUSED_STREAM,
        Reason::PROTOCOL_ERROR,
    ] {
        let breaker = breaker();
        let mut client = client_of(resetting(reason, None).await, &breaker);

        for n in 0..5 {
            assert_eq!(failures_in_a_row(&breaker), n, "{reason:?}");
            within(client.say(saying("hello"))).await.unwrap_err();
        }

        assert_eq!(breaker.state(), State::Open, "{reason:?}");
        let status = within(client.say(saying("hello"))).await.unwrap_err();
        assert_rejected_in_grpc(&status);
    }
}

#[tokio::test]
async fn a_server_that_asks_for_calm_makes_no_row() {
    let breaker = breaker();
    let address = resetting(Reason::ENHANCE_YOUR_CALM, None).await;
    let mut client = client_of(address, &breaker);

    for _ in 0..6 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    assert_eq!(counted(&breaker), (6, 6));
    assert_eq!(failures_in_a_row(&breaker), 0);
}

#[tokio::test]
async fn streams_that_are_reset_after_their_head_open_it() {
    let told = Arc::new(Notify::new());
    let address = resetting(Reason::INTERNAL_ERROR, Some(Arc::clone(&told))).await;
    let breaker = breaker();
    let mut client = client_of(address, &breaker);

    for n in 0..5 {
        let answers = within(client.count(counting(3))).await.unwrap();
        let mut answers = answers.into_inner();
        assert_eq!(failures_in_a_row(&breaker), n);
        told.notify_one();
        within(answers.message()).await.unwrap_err();
    }

    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn a_body_that_ends_without_trailers_has_failed() {
    let listener = Reserved::port().listen();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut head = http::Response::new(());
            let headers = head.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(bytes::Bytes::new(), true).unwrap();
        }
    });
    let breaker = breaker();
    let mut client = client_of(address, &breaker);

    for _ in 0..5 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn calls_that_run_out_of_their_own_time_open_it_unless_they_are_in_a_hurry() {
    for (least, state) in [(30_000, State::Closed), (10, State::Open)] {
        let least = Duration::from_millis(least);
        let breaker = configured(BreakerConfig::default().with_least_wait(least));
        let echo = Echo::new((0..5).map(|_| Step::Hang));
        let mut client = client(&echo, &breaker).await;

        for _ in 0..5 {
            let mut request = Request::new(saying("hello"));
            request.set_timeout(Duration::from_millis(50));
            within(client.say(request)).await.unwrap_err();
        }

        assert_eq!(breaker.state(), state, "{least:?}");
    }
}

#[tokio::test]
async fn the_wait_that_a_server_pushes_back_with_lengthens_the_open_time() {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", "45000".parse().unwrap());
    let status = Status::with_metadata(Code::Unavailable, "", metadata);
    let breaker = configured(brief());
    let echo = Echo::new((0..5).map(|_| Step::Fail(status.clone())));
    let mut client = client(&echo, &breaker).await;

    for _ in 0..5 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    let left = breaker.snapshot().open_left();
    assert!(left > Duration::from_secs(30), "{left:?}");
    assert!(left <= Duration::from_secs(45), "{left:?}");
}

fn counting_calls(
    count: &Arc<AtomicUsize>,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let count = Arc::clone(count);
    move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(request)
    }
}

#[tokio::test]
async fn an_interceptor_around_sees_every_call_and_one_beneath_those_that_passed() {
    let breaker = breaker();
    let echo = Echo::new((0..5).map(|_| unavailable()));
    let address = echo.clone().serve().await;
    let (calls, passed) = (Arc::default(), Arc::default());
    let beneath = InterceptedService::new(channel(address), counting_calls(&passed));
    let guarded = ServiceBuilder::new().layer(grpc(&breaker)).service(beneath);
    let mut client = EchoClient::new(InterceptedService::new(guarded, counting_calls(&calls)));

    for _ in 0..8 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }

    assert_eq!(calls.load(Ordering::SeqCst), 8);
    assert_eq!(passed.load(Ordering::SeqCst), 5);
    assert_eq!(echo.calls(), 5);
}

#[tokio::test]
async fn what_an_interceptor_refuses_is_no_failure_of_the_server() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let address = echo.clone().serve().await;
    let refuses = |_: Request<()>| Err::<Request<()>, _>(Status::unauthenticated("who is there?"));

    let beneath = InterceptedService::new(channel(address), refuses);
    let mut client = EchoClient::new(grpc(&breaker).layer(beneath));
    for _ in 0..6 {
        let status = within(client.say(saying("hello"))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert_eq!(counted(&breaker), (6, 0));

    breaker.reset();
    let guarded = grpc(&breaker).layer(channel(address));
    let mut client = EchoClient::new(InterceptedService::new(guarded, refuses));
    for _ in 0..6 {
        within(client.say(saying("hello"))).await.unwrap_err();
    }
    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn a_probe_that_hangs_keeps_others_out_until_its_caller_leaves() {
    let breaker = configured(brief());
    let echo = Echo::new((0..5).map(|_| unavailable()).chain([Step::Hang]));
    let client = client(&echo, &breaker).await;
    for _ in 0..5 {
        within(client.clone().say(saying("hello")))
            .await
            .unwrap_err();
    }
    until_probed(&breaker).await;

    let mut prober = client.clone();
    let probe = tokio::spawn(async move { prober.say(saying("hello")).await });
    eventually("the probe is there", || echo.calls() == 6).await;
    let status = within(client.clone().say(saying("hello")))
        .await
        .unwrap_err();
    assert_eq!(
        status.message(),
        "the destination failed, and others are finding out whether it is back"
    );
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    assert_eq!(echo.calls(), 6);
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());

    for _ in 0..3 {
        within(client.clone().say(saying("hello"))).await.unwrap();
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test]
async fn a_conversation_that_began_before_it_opened_goes_on() {
    let breaker = breaker();
    let echo = Echo::new([]);
    let mut client = client(&echo, &breaker).await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Saying>();
    let sayings = futures_util::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let answers = within(client.chat(sayings.boxed())).await.unwrap();
    let mut answers = answers.into_inner();

    trip(&breaker);
    let status = within(client.say(saying("hello"))).await.unwrap_err();
    assert_rejected_in_grpc(&status);
    sender.send(saying("still there?")).unwrap();
    let answer = within(answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.text, "still there?");
    drop(sender);
    assert!(within(answers.message()).await.unwrap().is_none());

    // Its end is of another generation.
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(counted(&breaker), (0, 0));
}
