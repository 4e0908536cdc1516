//! The client of `orders`, over tonic, calls a server of Python's grpcio.

use std::time::Duration;

use http::Uri;
use orders::{
    client::{Client, Clients, Limits},
    methods::PLACE_ORDER,
    proto::{Order, PlaceOrderRequest, State},
};
use prost::Message;
use serde_json::{Value, json};
use steadfast::circuit_breaker::{self, BreakerConfig, CircuitBreaker};
use tokio::{net::TcpSocket, time::Instant};
use tonic::{Code, Request, Status, transport::Endpoint};

use crate::{
    peer::{Peer, millis},
    program::eventually,
    tools::{python, script},
};

/// A server that plays a script, in a process of its own.
struct Server {
    peer: Peer,
    port: u64,
}

impl Server {
    async fn play(steps: &[Value]) -> Self {
        Self::play_at(0, steps).await
    }

    async fn play_at(port: u64, steps: &[Value]) -> Self {
        let mut command = python();
        command
            .arg(script("interop/grpc_server.py"))
            .args([port.to_string(), json!(steps).to_string()]);
        let mut peer = Peer::start(command);
        let port = peer.hear().await["port"].as_u64().unwrap();
        Self { peer, port }
    }

    fn clients(&self, limits: &Limits) -> Clients {
        let url = format!("http://127.0.0.1:{}", self.port);
        let endpoint = Endpoint::from(url.parse::<Uri>().unwrap());
        Clients::new(&endpoint, "sk_test", limits).unwrap()
    }

    fn client(&self) -> Client {
        self.clients(&limits()).unary
    }

    /// The calls that it has got, all of which were to place the order under one key.
    async fn calls(self) -> Vec<Call> {
        one_operation(self.peer.rest().await)
    }
}

#[track_caller]
fn one_operation(lines: Vec<Value>) -> Vec<Call> {
    let calls: Vec<_> = lines.into_iter().map(Call).collect();
    for call in &calls {
        assert_eq!(call.0["method"], PLACE_ORDER);
        assert_eq!(call.0["message"], to_hex(&tea().encode_to_vec()));
        assert_eq!(
            call.metadata("idempotency-key"),
            calls[0].metadata("idempotency-key")
        );
        assert_eq!(call.metadata("authorization"), Some("Bearer sk_test"));
    }
    calls
}

/// A call as the server saw it.
struct Call(Value);

impl Call {
    fn metadata(&self, name: &str) -> Option<&str> {
        self.0["metadata"][name].as_str()
    }

    /// How many attempts came before it, as it says.
    fn earlier(&self) -> Option<u32> {
        self.metadata("grpc-previous-rpc-attempts")
            .map(|text| text.parse().unwrap())
    }

    /// How much time `grpc-timeout` left for it when it came.
    fn remaining(&self) -> Duration {
        millis(&self.0["remaining"])
    }

    /// When it came after the other one.
    fn after(&self, other: &Self) -> Duration {
        millis(&self.0["at"])
            .checked_sub(millis(&other.0["at"]))
            .unwrap()
    }
}

fn limits() -> Limits {
    Limits {
        deadline: Duration::from_secs(20),
        attempt_timeout: Duration::from_secs(10),
        attempts: 4,
        breaker: BreakerConfig::default(),
    }
}

fn tea() -> PlaceOrderRequest {
    PlaceOrderRequest {
        sku: "tea".to_owned(),
        quantity: 2,
    }
}

async fn place(client: &mut Client) -> Result<Order, Status> {
    let answer = client.place_order(tea()).await?;
    Ok(answer.into_inner())
}

fn placed() -> Order {
    Order {
        id: "or_1".to_owned(),
        sku: "tea".to_owned(),
        quantity: 2,
        state: State::Placed.into(),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answers() -> Value {
    json!({ "message": to_hex(&placed().encode_to_vec()) })
}

fn fails(code: &str) -> Value {
    json!({ "code": code })
}

fn pushes_back(code: &str, pushback: &str) -> Value {
    json!({ "code": code, "pushback": pushback })
}

#[tokio::test]
async fn a_server_that_recovers_gets_each_attempt_of_a_call_under_one_key() {
    let steps = [fails("UNAVAILABLE"), fails("UNAVAILABLE"), answers()];
    let server = Server::play(&steps).await;

    let order = place(&mut server.client()).await.unwrap();

    assert_eq!(order, placed());
    let calls = server.calls().await;
    let earlier: Vec<_> = calls.iter().map(Call::earlier).collect();
    assert_eq!(earlier, [None, Some(1), Some(2)]);
    assert!(calls[0].metadata("idempotency-key").is_some());
}

#[tokio::test]
async fn two_calls_have_two_keys() {
    let server = Server::play(&[answers(), answers()]).await;
    let mut client = server.client();

    place(&mut client).await.unwrap();
    place(&mut client).await.unwrap();

    let calls: Vec<_> = server.peer.rest().await.into_iter().map(Call).collect();
    assert_eq!(calls.len(), 2);
    assert_ne!(
        calls[0].metadata("idempotency-key"),
        calls[1].metadata("idempotency-key")
    );
}

#[tokio::test]
async fn it_waits_for_as_long_as_it_is_pushed_back() {
    for code in ["UNAVAILABLE", "RESOURCE_EXHAUSTED"] {
        let server = Server::play(&[pushes_back(code, "700"), answers()]).await;

        let order = place(&mut server.client()).await.unwrap();

        assert_eq!(order, placed());
        let calls = server.calls().await;
        assert_eq!(calls.len(), 2, "{code}");
        assert!(
            calls[1].after(&calls[0]) >= Duration::from_millis(700),
            "{code}"
        );
    }
}

#[tokio::test]
async fn it_stops_where_it_is_told_to_or_not_told_when_to_come_back() {
    for (step, code) in [
        (pushes_back("UNAVAILABLE", "-1"), Code::Unavailable),
        (pushes_back("UNAVAILABLE", "soon"), Code::Unavailable),
        (
            pushes_back("RESOURCE_EXHAUSTED", "-1"),
            Code::ResourceExhausted,
        ),
        (fails("RESOURCE_EXHAUSTED"), Code::ResourceExhausted),
        (fails("ABORTED"), Code::Aborted),
    ] {
        let server = Server::play(&[step, answers()]).await;

        let refused = place(&mut server.client()).await.unwrap_err();

        assert_eq!(
            (refused.code(), refused.message()),
            (code, "as the script says")
        );
        assert_eq!(server.calls().await.len(), 1);
    }
}

#[tokio::test]
async fn a_failure_after_the_head_of_an_answer_is_its_callers() {
    let head = json!({ "code": "UNAVAILABLE", "head": true });
    let server = Server::play(&[head, answers()]).await;

    let failed = place(&mut server.client()).await.unwrap_err();

    assert_eq!(failed.code(), Code::Unavailable);
    assert_eq!(server.calls().await.len(), 1);
}

#[tokio::test]
async fn a_server_that_dies_in_mid_call_is_asked_again_when_it_is_back() {
    // Bound, though it does not listen: nobody else takes the port while the server is away. gRPC's servers share their ports.
    let held = TcpSocket::new_v4().unwrap();
    held.set_reuseport(true).unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port().into();
    let mut server = Server::play_at(port, &[json!({ "exit": true })]).await;
    let limits = Limits {
        attempts: 60,
        breaker: BreakerConfig::default()
            .with_consecutive_failures(1000)
            .without_failure_rate(),
        ..limits()
    };
    let mut client = server.clients(&limits).unary;

    let (order, next) = tokio::join!(place(&mut client), async {
        server.peer.ended().await;
        Server::play_at(port, &[answers()]).await
    });

    assert_eq!(order.unwrap(), placed());
    let mut lines = server.peer.rest().await;
    assert_eq!(lines.len(), 1, "the first one got it");
    lines.extend(next.peer.rest().await);
    let calls = one_operation(lines);
    assert_eq!(calls.len(), 2, "the second one got it once");
    assert_eq!(calls[0].earlier(), None);
    assert!(calls[1].earlier() >= Some(1));
}

#[tokio::test]
async fn each_attempt_is_told_what_is_left_for_it() {
    let pushed = || pushes_back("UNAVAILABLE", "400");
    let server = Server::play(&[pushed(), pushed(), pushed(), answers()]).await;
    let mut request = Request::new(tea());
    request.set_timeout(Duration::from_secs(5));

    let order = server.client().place_order(request).await.unwrap();

    assert_eq!(order.into_inner(), placed());
    let calls = server.calls().await;
    assert_eq!(calls.len(), 4);
    for pair in calls.windows(2) {
        // What was waited and worked for is gone, but for what one of the two lost on its way.
        let (before, after) = (pair[0].remaining(), pair[1].remaining());
        assert!(before <= Duration::from_secs(5));
        assert!(
            after + Duration::from_millis(350) < before,
            "{before:?}, {after:?}"
        );
    }
}

#[tokio::test]
async fn a_pushback_beyond_the_deadline_ends_the_call_at_once() {
    let server = Server::play(&[pushes_back("UNAVAILABLE", "50000"), answers()]).await;
    let limits = Limits {
        deadline: Duration::from_secs(40),
        ..limits()
    };
    let mut client = server.clients(&limits).unary;
    let begun = Instant::now();

    let refused = place(&mut client).await.unwrap_err();

    assert_eq!(refused.code(), Code::Unavailable);
    assert!(begun.elapsed() < limits.deadline / 2);
    assert_eq!(server.calls().await.len(), 1);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_ends_at_the_server_too() {
    let server = Server::play(&[json!({ "hang": true }), answers()]).await;
    let limits = Limits {
        attempt_timeout: Duration::from_secs(3),
        ..limits()
    };

    let order = place(&mut server.clients(&limits).unary).await.unwrap();

    assert_eq!(order, placed());
    let lines = server.peer.rest().await;
    let (calls, given_up): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line["given_up"].is_null());
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0]["given_up"], true);
    let calls = one_operation(calls);
    assert_eq!(calls.len(), 2);
    for call in &calls {
        assert!(call.remaining() <= limits.attempt_timeout);
    }
    // Before the deadline of the whole call, which would have ended it too.
    let hung = millis(&given_up[0]["at"])
        .checked_sub(millis(&calls[0].0["at"]))
        .unwrap();
    assert!(hung < limits.deadline / 2, "{hung:?}");
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_and_probed() {
    let mut steps = vec![fails("UNAVAILABLE"); 5];
    steps.extend(vec![answers(); 3]);
    let server = Server::play(&steps).await;
    let open_for = Duration::from_secs(2);
    let limits = Limits {
        attempts: 1,
        breaker: BreakerConfig::default().with_open_for(open_for),
        ..limits()
    };
    let Clients {
        unary: mut client,
        breaker,
        ..
    } = server.clients(&limits);

    for _ in 0..5 {
        assert_eq!(
            place(&mut client).await.unwrap_err().message(),
            "as the script says"
        );
    }
    assert_eq!(breaker.state(), circuit_breaker::State::Open);
    for _ in 0..20 {
        let rejected = place(&mut client).await.unwrap_err();
        assert_eq!(rejected.code(), Code::Unavailable);
        assert_ne!(rejected.message(), "as the script says");
    }
    until_it_may_be_probed(&breaker).await;
    for _ in 0..3 {
        assert_eq!(place(&mut client).await.unwrap(), placed());
    }

    assert_eq!(breaker.state(), circuit_breaker::State::Closed);
    let calls: Vec<_> = server.peer.rest().await.into_iter().map(Call).collect();
    assert_eq!(calls.len(), 5 + 3);
    assert!(calls[5].after(&calls[4]) + Duration::from_millis(50) >= open_for);
}

async fn until_it_may_be_probed(breaker: &CircuitBreaker) {
    eventually("the end of the open time", async || {
        breaker.would_admit().then_some(())
    })
    .await;
}
