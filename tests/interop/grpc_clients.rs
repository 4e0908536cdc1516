//! Python's grpcio, with the retry policy that gRPC itself has, calls `orders serve`.

use std::{path::Path, process::Command, time::Duration};

use futures_util::future::join_all;
use orders::{
    methods::PLACE_ORDER,
    proto::{Order, PlaceOrderRequest},
};
use prost::Message;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::{
    orders_program::Server,
    peer::Peer,
    program::eventually,
    tools::{python, script},
};

/// One of gRPC's clients, with a channel of its own.
struct Client(Peer);

impl Client {
    /// Tries again what fails with one of these codes, up to so many attempts, the first after this wait.
    fn with_retries(address: &str, codes: &[&str], attempts: u32, backoff: &str) -> Self {
        let policy = json!({
            "maxAttempts": attempts, "initialBackoff": backoff, "maxBackoff": backoff, "backoffMultiplier": 1,
            "retryableStatusCodes": codes,
        });
        let service = json!([{ "service": "orders.v1.Orders" }]);
        Self::start(
            address,
            &json!({ "methodConfig": [{ "name": service, "retryPolicy": policy }] }),
        )
    }

    fn start(address: &str, service_config: &Value) -> Self {
        let mut command: Command = python();
        command
            .arg(script("compose/grpc/foreign.py"))
            .args([address, &service_config.to_string()]);
        Self(Peer::start(command))
    }

    /// Places an order under the key.
    async fn place(&mut self, key: &str, quantity: u32) -> Placed {
        let order = PlaceOrderRequest {
            sku: "tea".to_owned(),
            quantity,
        };
        let call = json!({
            "method": PLACE_ORDER, "message": to_hex(&order.encode_to_vec()), "timeout": 40,
            "metadata": [["authorization", "Bearer sk_test"], ["idempotency-key", key]],
        });
        self.0.tell(&call).await;
        Placed(self.0.hear().await)
    }
}

/// What the client was told.
struct Placed(Value);

impl Placed {
    fn code(&self) -> &str {
        self.0["code"].as_str().unwrap()
    }

    #[track_caller]
    fn order(&self) -> Order {
        assert_eq!(self.code(), "OK", "{}", self.0);
        Order::decode(&*from_hex(self.0["message"].as_str().unwrap())).unwrap()
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        let pairs = self.0["initial"].as_array().unwrap();
        pairs.iter().find(|pair| pair[0] == name)?[1].as_str()
    }

    fn is_replay(&self) -> bool {
        self.metadata("idempotent-replayed").unwrap() == "true"
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn address(server: &Server) -> &str {
    server.url().strip_prefix("http://").unwrap()
}

/// The ids of all orders that the server has of the client's account.
fn placed(server: &Server) -> Vec<String> {
    let listed = server.call(&["list", "--api-key", "sk_test"]);
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let id = |line: &str| {
        line.split(' ')
            .next()?
            .strip_prefix("order=")
            .map(str::to_owned)
    };
    listed.lines().map(|line| id(line).unwrap()).collect()
}

/// How many attempts to place an order the server has answered.
fn attempts(server: &Server) -> usize {
    let logs = server.logs();
    let answers = logs
        .lines()
        .filter(|line| line.contains("finished processing request"));
    answers.filter(|line| line.contains(PLACE_ORDER)).count()
}

const FAULTS: [&str; 6] = [
    "--store",
    "memory:",
    "--fail-first",
    "1",
    "--lose-first",
    "2",
];

#[tokio::test]
async fn its_retry_policy_gets_past_a_refusal_and_a_lost_answer_to_the_one_order_of_each_key() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &FAULTS).await;
    let clients =
        (0..3).map(|_| Client::with_retries(address(&server), &["UNAVAILABLE"], 4, "0.02s"));

    // Three clients with five keys: each key comes from all of them at once.
    let orders = join_all(clients.map(async |mut client| {
        let mut orders = Vec::new();
        for number in 1..=5 {
            let placed = client.place(&format!("k-{number}"), number).await;
            let order = placed.order();
            assert_eq!(order.quantity, number);
            assert!(
                placed.is_replay(),
                "the second attempt has placed it, and lost the answer"
            );
            assert_eq!(placed.metadata("order-execution"), Some("1"));
            orders.push(order.id);
        }
        orders
    }))
    .await;

    let mut kept = placed(&server);
    kept.reverse();
    assert_eq!(kept.len(), 5);
    for each in orders {
        assert_eq!(each, kept);
    }
    assert_eq!(attempts(&server), 3 * 5 * 3);
}

#[tokio::test]
async fn without_a_retry_policy_it_hears_of_the_refusal() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &FAULTS).await;
    let mut client = Client::start(address(&server), &json!({}));

    let refused = client.place("k", 1).await;

    assert_eq!(refused.code(), "UNAVAILABLE");
    assert_eq!(attempts(&server), 1);
    assert_eq!(placed(&server).len(), 0);
}

#[tokio::test]
async fn its_retries_come_back_when_they_are_told_for_an_order_that_is_being_placed() {
    let folder = tempdir().unwrap();
    let arguments = ["--store", "memory:", "--work-time", "3s"];
    let server = Server::start(folder.path(), &arguments).await;
    // Its own backoff would let its deadline pass: it comes again only because it is told when.
    let new = || Client::with_retries(address(&server), &["UNAVAILABLE"], 5, "60s");
    let (mut first, mut second) = (new(), new());

    // Until both came in time for that: the first time they have yet to start.
    let mut orders = 0;
    eventually("a client that is told to come back", async || {
        let before = attempts(&server);
        orders += 1;
        let key = format!("k-{orders}");
        let (one, two) = tokio::join!(first.place(&key, 1), second.place(&key, 1));

        assert_eq!(one.order(), two.order());
        assert!(one.is_replay() != two.is_replay(), "{} {}", one.0, two.0);
        assert_eq!(placed(&server).len(), orders);
        (attempts(&server) > before + 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_does_not_repeat_what_will_be_refused_again_though_its_policy_says_so() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &["--store", "memory:"]).await;
    let mut client = Client::with_retries(address(&server), &["FAILED_PRECONDITION"], 5, "0.01s");
    client.place("k", 1).await.order();

    let other = client.place("k", 2).await;

    assert_eq!(other.code(), "FAILED_PRECONDITION", "{}", other.0);
    assert_eq!(other.0["error_info"]["reason"], "KEY_REUSED");
    assert_eq!(attempts(&server), 2);
    assert_eq!(placed(&server).len(), 1);
}

#[tokio::test]
async fn its_retries_outlive_a_server_that_is_killed_while_it_places_the_order() {
    let folder = tempdir().unwrap();
    let start = |work| start(folder.path(), work);
    let killed = start("20s").await;
    let (door, server) = watch::channel(address(&killed).to_owned());
    let mut client = Client::with_retries(&forward(server).await, &["UNAVAILABLE"], 5, "0.5s");
    let begun = Instant::now();

    let (placed_then, next) = tokio::join!(client.place("k", 1), async {
        eventually("the claim of the order", async || {
            is_claimed(folder.path()).await.then_some(())
        })
        .await;
        killed.kill();
        let next = start("50ms").await;
        door.send_replace(address(&next).to_owned());
        next
    });

    assert_eq!(
        placed_then.metadata("order-execution"),
        Some("2"),
        "{}",
        placed_then.0
    );
    assert!(!placed_then.is_replay());
    assert_eq!(placed(&next), [placed_then.order().id]);
    // The work that was lost would have taken longer.
    assert!(begun.elapsed() < Duration::from_secs(20));
}

async fn start(folder: &Path, work: &str) -> Server {
    let arguments = [
        "--store",
        "sqlite:orders.db",
        "--lease",
        "1s",
        "--work-time",
        work,
    ];
    Server::start(folder, &arguments).await
}

/// Whether somebody has begun to place an order.
async fn is_claimed(folder: &Path) -> bool {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("orders.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let records: i64 = sqlx::query_scalar("SELECT count(*) FROM steadfast_idempotency")
        .fetch_one(&pool)
        .await
        .unwrap();
    records > 0
}

/// An address that leads to the server, wherever that is at the time of a connection.
async fn forward(server: watch::Receiver<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let server = server.borrow().clone();
            tokio::spawn(async move {
                // Between two servers nobody is there.
                if let Ok(mut far) = TcpStream::connect(server).await {
                    _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    address
}
