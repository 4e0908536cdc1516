//! What an operation costs Postgres, counted on the wire between the pool and the server and in the server's log.
//!
//! A round trip is what the pool sends until it waits for an answer: a statement, the preparation of one (once for each connection
//! and statement), or a ping. sqlx pings a connection in the background each time it goes back to the pool; nobody waits for that,
//! so pings are counted apart.

use std::{
    net::SocketAddr,
    ops::Sub,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::Router;
use futures_util::future::join_all;
use http::StatusCode;
use sqlx::{Connection as _, PgConnection, Row, postgres::PgPoolOptions};
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, Promise},
    store_postgres::PostgresStore,
};
use steadfast_testkit::postgres::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tower::ServiceExt;

use crate::support::{
    Answer, Bank, Connection, PROMISES, Protocol, charge, eventually, layer, serve,
};

/// What a proxy saw going from a pool to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    connections: usize,
    preparations: usize,
    statements: usize,
    pings: usize,
    /// Anything that has no place in an operation: texts that are parsed each time, closed statements, copies.
    others: usize,
}

impl Traffic {
    fn without_pings(self) -> Self {
        Self { pings: 0, ..self }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            connections: self.connections - before.connections,
            preparations: self.preparations - before.preparations,
            statements: self.statements - before.statements,
            pings: self.pings - before.pings,
            others: self.others - before.others,
        }
    }
}

const fn statements(statements: usize) -> Traffic {
    Traffic {
        connections: 0,
        preparations: 0,
        statements,
        pings: 0,
        others: 0,
    }
}

/// Stands between a pool and a server and reads the messages of the pool.
#[derive(Clone)]
struct Proxy {
    address: SocketAddr,
    traffic: Arc<Mutex<Traffic>>,
}

impl Proxy {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            traffic: Arc::default(),
        };
        let traffic = Arc::clone(&proxy.traffic);
        tokio::spawn(async move {
            loop {
                let (pool, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(server).await.unwrap();
                for stream in [&pool, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let (from_pool, mut to_pool) = pool.into_split();
                let (mut from_server, to_server) = server.into_split();
                // Either end may close first.
                tokio::spawn(async move { copy(&mut from_server, &mut to_pool).await });
                tokio::spawn(forward(from_pool, to_server, Arc::clone(&traffic)));
            }
        });
        proxy
    }

    fn traffic(&self) -> Traffic {
        *self.traffic.lock().unwrap()
    }
}

/// Passes messages on one by one, counted before they go.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    traffic: Arc<Mutex<Traffic>>,
) -> std::io::Result<()> {
    // The first message of a connection has no kind.
    let startup = read_message(&mut from, Vec::new()).await?;
    traffic.lock().unwrap().connections += 1;
    to.write_all(&startup).await?;

    let mut trip = Vec::new();
    loop {
        let kind = from.read_u8().await?;
        let message = read_message(&mut from, vec![kind]).await?;
        trip.push(kind);
        if matches!(kind, b'S' | b'Q' | b'H') {
            let mut traffic = traffic.lock().unwrap();
            match std::mem::take(&mut trip).as_slice() {
                b"S" => traffic.pings += 1,
                b"PDS" => traffic.preparations += 1,
                // Bind, execute, close the portal.
                b"BECS" => traffic.statements += 1,
                _ => traffic.others += 1,
            }
        }
        to.write_all(&message).await?;
    }
}

async fn read_message(from: &mut OwnedReadHalf, mut message: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    let start = message.len();
    message.resize(start + length as usize - 4, 0);
    from.read_exact(&mut message[start..]).await?;
    Ok(message)
}

/// A server of the test's own, and a proxy before it.
struct Bench {
    server: Server,
    proxy: Proxy,
}

impl Bench {
    async fn start() -> Self {
        let server = Server::start().await.unwrap();
        let (_, address) = server.url().split_once('@').unwrap();
        let (address, _) = address.split_once('/').unwrap();
        let proxy = Proxy::before(address.parse().unwrap()).await;
        Self { server, proxy }
    }

    /// Through the proxy.
    fn url(&self) -> String {
        let (role, address) = self.server.url().split_once('@').unwrap();
        let (_, database) = address.split_once('/').unwrap();
        let proxy = self.proxy.address;
        format!("{role}@{proxy}/{database}?sslmode=disable")
    }

    async fn store_of_one_connection(&self) -> PostgresStore {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .connect(&self.url())
            .await
            .unwrap();
        let store = PostgresStore::new(pool);
        store.migrate().await.unwrap();
        store
    }
}

/// A layer over the store; each promise has keys of its own.
fn layer_of(promise: Promise, store: PostgresStore) -> IdempotencyLayer<PostgresStore> {
    let namespace = if promise == Promise::AtMostOnce {
        "one"
    } else {
        "another"
    };
    let config = IdempotencyConfig::default().with_namespace(namespace);
    layer(promise, store, config)
}

/// A service over the store, and a client.
async fn open(bank: &Bank, promise: Promise, store: PostgresStore) -> Till {
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer_of(promise, store));
    let address = serve(router).await;
    Till {
        client: Connection::open(Protocol::Http2, address).await,
    }
}

struct Till {
    client: Connection,
}

impl Till {
    async fn pay(&self, key: &str) -> Answer {
        let mut client = self.client.another_stream();
        client
            .send(charge("/charges", key, "amount=5"))
            .await
            .unwrap()
    }

    /// Makes the connection know its statements, as it does after its first few operations.
    async fn warm_up(&self) {
        for _ in 0..2 {
            assert_eq!(self.pay("warm").await.status, 201);
        }
    }
}

#[tokio::test]
async fn a_new_key_costs_one_statement_before_the_handler_and_one_after_it() {
    let bench = Bench::start().await;
    for promise in PROMISES {
        let bank = Bank::new();
        let store = bench.store_of_one_connection().await;
        let till = open(&bank, promise, store).await;
        till.warm_up().await;

        for n in 0..10 {
            let key = format!("{promise:?}-{n}");
            let started = bank.started();
            bank.shut();
            let before = bench.proxy.traffic();
            let paid = async {
                let answer = till.pay(&key).await;
                assert_eq!(answer.marker(), Some("false"));
                bench.proxy.traffic() - before
            };
            let claimed = async {
                bank.until_started(started + 1).await;
                let traffic = bench.proxy.traffic() - before;
                bank.open();
                traffic
            };
            let (after, at_start) = tokio::join!(paid, claimed);

            assert_eq!(at_start.without_pings(), statements(1));
            assert_eq!(after.without_pings(), statements(2));
            assert!(after.pings <= 2 + 1, "{after:?}");
        }
    }
}

#[tokio::test]
async fn a_replay_and_a_conflict_cost_one_statement() {
    let bench = Bench::start().await;
    for promise in PROMISES {
        let bank = Bank::new();
        let till = open(&bank, promise, bench.store_of_one_connection().await).await;
        till.warm_up().await;

        for _ in 0..10 {
            let before = bench.proxy.traffic();
            assert_eq!(till.pay("warm").await.marker(), Some("true"));
            let replay = bench.proxy.traffic() - before;
            assert_eq!(replay.without_pings(), statements(1));
            assert!(replay.pings <= 1 + 1, "{replay:?}");

            let before = bench.proxy.traffic();
            let mut client = till.client.another_stream();
            let other = client.send(charge("/charges", "warm", "amount=6")).await;
            assert_eq!(other.unwrap().code().as_deref(), Some("key-reused"));
            let conflict = bench.proxy.traffic() - before;
            assert_eq!(conflict.without_pings(), statements(1));
        }
    }
}

#[tokio::test]
async fn a_request_that_is_refused_by_its_head_costs_nothing() {
    let bench = Bench::start().await;
    let bank = Bank::new();
    let till = open(&bank, PROMISES[0], bench.store_of_one_connection().await).await;
    till.warm_up().await;
    let before = bench.proxy.traffic();

    for key in ["", "two words"] {
        assert_eq!(till.pay(key).await.code().as_deref(), Some("malformed-key"));
    }

    let after = bench.proxy.traffic() - before;
    assert_eq!(after.without_pings(), statements(0));
}

const HERD: usize = 1_000;

/// Everybody at once with one key, in process. Counts those who have their answer.
async fn herd(service: &Router, key: &str, answered: &AtomicUsize) -> Vec<StatusCode> {
    let calls = (0..HERD).map(|_| {
        let request = charge("/charges", key, "amount=5");
        let call = service.clone().oneshot(request);
        async {
            let status = call.await.unwrap().status();
            answered.fetch_add(1, Ordering::SeqCst);
            status
        }
    });
    join_all(calls).await
}

fn count(answers: &[StatusCode], status: StatusCode) -> usize {
    answers.iter().filter(|&&answer| answer == status).count()
}

#[tokio::test]
async fn a_thousand_duplicates_cost_what_one_request_costs() {
    let bench = Bench::start().await;
    for promise in PROMISES {
        let bank = Bank::new();
        let layer = layer_of(promise, bench.store_of_one_connection().await);
        let service = Router::new()
            .route("/charges", bank.route())
            .route_layer(layer);
        herd(&service, "warm", &AtomicUsize::new(0)).await;
        let warm = bank.started();
        bank.shut();
        let before = bench.proxy.traffic();

        let waiters = IdempotencyConfig::DEFAULT_MAX_WAITING_PER_KEY;
        let refused = AtomicUsize::new(0);
        let (answers, ()) = tokio::join!(herd(&service, "k", &refused), async {
            let all = || refused.load(Ordering::SeqCst) == HERD - 1 - waiters;
            eventually("all but the waiters are refused", all).await;
            bank.open();
        });

        let traffic = bench.proxy.traffic() - before;
        assert_eq!(traffic.without_pings(), statements(2));
        assert_eq!(count(&answers, StatusCode::CREATED), 1 + waiters);
        assert_eq!(count(&answers, StatusCode::CONFLICT), HERD - 1 - waiters);

        // All of them at once again: nobody is told that it is in progress.
        let before = bench.proxy.traffic();
        let answers = herd(&service, "k", &AtomicUsize::new(0)).await;
        let traffic = bench.proxy.traffic() - before;
        assert_eq!(count(&answers, StatusCode::CREATED), HERD);
        assert!(traffic.statements <= 5, "{traffic:?}");
        assert_eq!(bank.started(), warm + 1);
    }
}

#[tokio::test]
async fn a_thousand_duplicates_of_another_process_cost_a_handful_of_statements() {
    let bench = Bench::start().await;
    for promise in PROMISES {
        let bank = Bank::new();
        let [here, elsewhere] = [
            layer_of(promise, bench.store_of_one_connection().await),
            layer_of(promise, bench.store_of_one_connection().await),
        ]
        .map(|layer| {
            Router::new()
                .route("/charges", bank.route())
                .route_layer(layer)
        });
        for service in [&here, &elsewhere] {
            herd(service, "warm", &AtomicUsize::new(0)).await;
        }
        let warm = bank.started();
        bank.shut();
        let request = charge("/charges", "k", "amount=5");
        let first = tokio::spawn(elsewhere.oneshot(request));
        bank.until_started(warm + 1).await;
        let before = bench.proxy.traffic();

        let waiters = IdempotencyConfig::DEFAULT_MAX_WAITING_PER_KEY;
        let refused = AtomicUsize::new(0);
        let (answers, ()) = tokio::join!(herd(&here, "k", &refused), async {
            let all = || refused.load(Ordering::SeqCst) == HERD - waiters;
            eventually("all but the waiters are refused", all).await;
            bank.open();
        });

        let traffic = bench.proxy.traffic() - before;
        assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::CREATED);
        // One claim, look-ups from 25 ms on, doubling, and the completion.
        assert!(traffic.statements <= 12, "{traffic:?}");
        assert_eq!(count(&answers, StatusCode::CREATED), waiters);
        assert_eq!(count(&answers, StatusCode::CONFLICT), HERD - waiters);
        assert_eq!(bank.started(), warm + 1);
    }
}

#[tokio::test]
async fn no_connection_is_held_while_a_handler_runs() {
    let bench = Bench::start().await;
    for promise in PROMISES {
        let bank = Bank::new();
        let till = open(&bank, promise, bench.store_of_one_connection().await).await;
        till.warm_up().await;
        let warm = bank.started();
        bank.shut();

        let keys: Vec<_> = (0..30).map(|n| format!("{promise:?}-{n}")).collect();
        let paid = join_all(keys.iter().map(|key| till.pay(key)));
        let all_run = async {
            bank.until_started(warm + keys.len()).await;
            // With one connection in all, a replay goes through too.
            assert_eq!(till.pay("warm").await.marker(), Some("true"));
            bank.open();
        };
        let (answers, ()) = tokio::join!(paid, all_run);

        for answer in answers {
            assert_eq!(answer.marker(), Some("false"));
        }
    }
}

#[tokio::test]
async fn the_advised_pool_sends_no_more() {
    const OPERATIONS: usize = 100;

    let bench = Bench::start().await;
    let bank = Bank::new();
    let store = PostgresStore::connect(&bench.url()).await.unwrap();
    store.migrate().await.unwrap();
    let till = open(&bank, PROMISES[0], store).await;
    let before = bench.proxy.traffic();

    for n in 0..OPERATIONS {
        assert_eq!(till.pay(&format!("new-{n}")).await.status, 201);
    }

    let after = bench.proxy.traffic() - before;
    assert_eq!(after.statements, 2 * OPERATIONS, "{after:?}");
    // Each connection that the pool opens meanwhile tells its password.
    assert_eq!(after.others, after.connections, "{after:?}");
    // Each connection learns two statements once.
    assert!(after.preparations <= 2 * 10, "{after:?}");
    assert!(after.connections <= 10, "{after:?}");
    // One each time a connection goes back; none before it is lent.
    assert!(after.pings <= after.statements + 2, "{after:?}");
}

/// The end of the server's write-ahead log, and its next transaction.
async fn position(connection: &mut PgConnection) -> (i64, i64) {
    let row = sqlx::query(
        "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, \
         pg_snapshot_xmax(pg_current_snapshot())::text::int8",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_replay_writes_nothing_and_a_new_key_is_two_transactions() {
    const KEYS: i64 = 40;

    let bench = Bench::start().await;
    let bank = Bank::new();
    let till = open(&bank, PROMISES[0], bench.store_of_one_connection().await).await;
    till.warm_up().await;
    let mut connection = PgConnection::connect(bench.server.url()).await.unwrap();

    // The server writes and vacuums of its own now and then; one quiet round of each kind shows what the layer does. Whoever first
    // reads a page after its rows were updated tidies it up, which is logged, so that only the second reading is measured.
    let mut written = Vec::new();
    let mut tidied = Vec::new();
    let mut transactions = Vec::new();
    for round in 0..5 {
        let keys: Vec<_> = (0..KEYS).map(|n| format!("{round}-{n}")).collect();
        let before = position(&mut connection).await;
        for key in &keys {
            assert_eq!(till.pay(key).await.marker(), Some("false"));
        }
        let paid = position(&mut connection).await;
        transactions.push(paid.1 - before.1);

        let mut last = paid;
        let mut replays = Vec::new();
        for _ in 0..2 {
            for key in &keys {
                assert_eq!(till.pay(key).await.marker(), Some("true"));
            }
            let now = position(&mut connection).await;
            replays.push((now.0 - last.0, now.1 - last.1));
            last = now;
        }
        tidied.push(replays[0].1);
        written.push(replays[1]);
    }

    assert!(written.contains(&(0, 0)), "{written:?}");
    assert!(tidied.contains(&0), "{tidied:?}");
    assert!(transactions.contains(&(2 * KEYS)), "{transactions:?}");
}
