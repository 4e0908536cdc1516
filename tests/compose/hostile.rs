//! Input that means harm, or is broken. Whatever comes: a refusal or a closed connection, nothing claimed, no panic, and the next
//! good request is served.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::Router;
use futures_util::future::join_all;
use steadfast::{
    idempotency::{IdempotencyConfig, Promise},
    store::MemoryStore,
};
use steadfast_testkit::faults::{Faults, FaultyStore, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Bank, Connection, Protocol, Raw, Reply, charge, layer, serve};

const BODY_LIMIT: usize = 64 << 10;

/// A server whose threads are watched for panics.
struct Target {
    address: SocketAddr,
    bank: Bank,
    faults: Faults,
    thread: String,
    served: AtomicUsize,
}

static PANICS: Mutex<Option<HashMap<String, usize>>> = Mutex::new(None);

/// Runs the test on this thread, and the server on others, which have a name of their own.
fn attack(config: IdempotencyConfig, attack: impl AsyncFnOnce(&Target)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let name = thread::current().name().unwrap_or_default().to_owned();
            let mut panics = PANICS.lock().unwrap();
            *panics.get_or_insert_default().entry(name).or_default() += 1;
            drop(panics);
            next(panic);
        }));
    });
    static NTH: AtomicUsize = AtomicUsize::new(0);
    let name = format!("target-{}", NTH.fetch_add(1, Ordering::SeqCst));
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(&name)
        .enable_all()
        .build()
        .unwrap();

    let bank = Bank::new();
    let store = FaultyStore::new(MemoryStore::default());
    let faults = store.faults();
    let layer = layer(Promise::AtMostOnce, store, config);
    let router = Router::new()
        .route("/charges", bank.route())
        .route_layer(layer.clone());
    let target = Target {
        address: server.block_on(serve(router)),
        bank,
        faults,
        thread: name,
        served: AtomicUsize::new(0),
    };

    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            attack(&target).await;
            target.is_unharmed("in the end").await;
        });
    server.shutdown_timeout(Duration::from_secs(10));
}

impl Target {
    /// A good request is served, and nothing was claimed but by good ones.
    async fn is_unharmed(&self, what: &str) {
        let nth = self.served.fetch_add(1, Ordering::SeqCst) + 1;
        let mut client = Connection::open(Protocol::Http1, self.address).await;
        let key = format!("good-{nth}");
        let answer = client.send(charge("/charges", &key, "amount=5")).await;
        assert_eq!(answer.unwrap().status, 201, "{what}: not served afterwards");
        self.assert_claimed(nth, what);
    }

    fn assert_claimed(&self, operations: usize, what: &str) {
        let panics = PANICS.lock().unwrap();
        let panics = panics.as_ref().and_then(|panics| panics.get(&self.thread));
        assert_eq!(panics, None, "{what}: the server panicked");
        assert_eq!(self.bank.started(), operations, "{what}: something ran");
        assert_eq!(
            self.faults.calls(Method::Begin),
            operations as u64,
            "{what}: something was claimed"
        );
    }

    async fn throw(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let mut raw = Raw::connect(self.address).await;
        // The server may have closed before it took everything.
        let _ = raw.send(bytes).await;
        raw.reply().await
    }
}

/// A refusal of the request, the layer's or hyper's, or a closed connection.
fn assert_refused(what: &str, reply: &Reply) {
    match reply {
        Reply::Closed => {}
        Reply::Answered { status, .. } if (400..500).contains(status) => {}
        Reply::Answered { status: 503, body } if body.contains(r#""code":"overloaded""#) => {}
        Reply::Answered { .. } => panic!("{what}: {reply:?}"),
    }
}

fn code(reply: &Reply) -> &str {
    let Reply::Answered { body, .. } = reply else {
        panic!("{reply:?}");
    };
    let (_, code) = body
        .split_once(r#""code":""#)
        .unwrap_or_else(|| panic!("{reply:?}"));
    code.split_once('"').unwrap().0
}

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_body_limit(BODY_LIMIT)
}

fn post(headers: &[u8], body: &[u8]) -> Vec<u8> {
    let head: &[u8] = b"POST /charges HTTP/1.1\r\nhost: bank\r\n";
    [head, headers, b"\r\n", body].concat()
}

fn with_key(key: &[u8]) -> Vec<u8> {
    post(
        &[b"idempotency-key: ", key, b"\r\ncontent-length: 8\r\n"].concat(),
        b"amount=5",
    )
}

#[test]
fn no_key_that_is_not_one_is_taken_for_one() {
    let long = |length| vec![b'k'; length];
    let keys: [(&str, Vec<u8>); 18] = [
        ("empty", b"".into()),
        ("spaces", b"   ".into()),
        ("an empty string", b"\"\"".into()),
        ("an open string", b"\"k".into()),
        ("a string with parameters", b"\"k\";a=1".into()),
        ("two strings", b"\"k\", \"l\"".into()),
        ("two words", b"k l".into()),
        ("a tab", b"k\tl".into()),
        ("a NUL", b"k\0l".into()),
        ("a bell", b"k\x07l".into()),
        ("a DEL", b"k\x7f".into()),
        ("a carriage return", b"k\rl".into()),
        ("latin 1", b"caf\xe9".into()),
        ("utf-8", "caf\u{e9}".into()),
        ("256 bytes", long(256)),
        ("8 KiB", long(8 << 10)),
        ("64 KiB", long(64 << 10)),
        ("a megabyte", long(1 << 20)),
    ];
    attack(config(), async |target| {
        for (what, key) in keys {
            let reply = target.throw(with_key(&key)).await;
            assert_refused(what, &reply);
            target.is_unharmed(what).await;
        }
    });
}

#[test]
fn heads_that_are_broken_are_refused() {
    let length = "content-length: 8\r\n";
    let many: String = (0..200).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let heads: [(&str, Vec<u8>); 14] = [
        (
            "two keys",
            post(
                format!("idempotency-key: k\r\nidempotency-key: l\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "one key twice",
            post(
                format!("idempotency-key: k\r\nIdempotency-Key: k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "a folded key",
            post(
                format!("idempotency-key: k\r\n l\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "a key folded to nothing",
            post(
                format!("idempotency-key:\r\n k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "a space before the colon",
            post(
                format!("idempotency-key : k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "a NUL in a name",
            post(
                format!("x-\0: 1\r\nidempotency-key: k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "no colon",
            post(
                format!("junk\r\nidempotency-key: k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "many headers",
            post(
                format!("{many}idempotency-key: k\r\n{length}").as_bytes(),
                b"amount=5",
            ),
        ),
        (
            "another version",
            b"POST /charges HTTP/9.9\r\nidempotency-key: k\r\n\r\n".into(),
        ),
        (
            "no version",
            b"POST /charges\r\nidempotency-key: k\r\n\r\n".into(),
        ),
        (
            "a space in the path",
            b"POST /char ges HTTP/1.1\r\nidempotency-key: k\r\n\r\n".into(),
        ),
        ("bytes", (0..=255).cycle().take(4096).collect()),
        (
            "a handshake of TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".into(),
        ),
        (
            "a preface of HTTP/2 and junk",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
                .into(),
        ),
    ];
    attack(config(), async |target| {
        for (what, bytes) in heads {
            let reply = target.throw(bytes).await;
            assert_refused(what, &reply);
            target.is_unharmed(what).await;
        }
    });
}

#[test]
fn bodies_that_are_framed_wrongly_claim_nothing() {
    let key = "idempotency-key: k\r\n";
    let sized = |length: &str, body: &str| {
        post(
            format!("{key}content-length: {length}\r\n").as_bytes(),
            body.as_bytes(),
        )
    };
    let coded = |coding: &str, body: &str| {
        post(
            format!("{key}transfer-encoding: {coding}\r\n").as_bytes(),
            body.as_bytes(),
        )
    };
    let bodies: [(&str, Vec<u8>); 16] = [
        ("a negative length", sized("-1", "amount=5")),
        ("a signed length", sized("+8", "amount=5")),
        ("a length in words", sized("eight", "amount=5")),
        ("an empty length", sized("", "amount=5")),
        ("a length past all numbers", sized("99999999999999999999999", "amount=5")),
        ("two lengths in one", sized("8, 9", "amount=5")),
        ("two lengths", sized("8\r\ncontent-length: 9", "amount=5")),
        ("an unknown coding", coded("xchunked", "8\r\namount=5\r\n0\r\n\r\n")),
        ("chunked and then more", coded("chunked, gzip", "8\r\namount=5\r\n0\r\n\r\n")),
        ("identity", coded("identity", "amount=5")),
        ("a chunk without a size", coded("chunked", "\r\namount=5\r\n0\r\n\r\n")),
        ("a chunk of junk size", coded("chunked", "zz\r\namount=5\r\n0\r\n\r\n")),
        ("a chunk past all numbers", coded("chunked", "fffffffffffffffff\r\namount=5\r\n")),
        ("a chunk longer than its size", coded("chunked", "4\r\namount=5\r\n0\r\n\r\n")),
        ("an endless extension", coded("chunked", &format!("8;{}", "x".repeat(1 << 20)))),
        (
            "a coding in HTTP/1.0",
            b"POST /charges HTTP/1.0\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n8\r\namount=5\r\n0\r\n\r\n".into(),
        ),
    ];
    attack(config(), async |target| {
        for (what, bytes) in bodies {
            let reply = target.throw(bytes).await;
            assert_refused(what, &reply);
            target.is_unharmed(what).await;
        }
    });
}

/// One reading alone may be made of a request with two lengths: by its chunks (RFC 9112 section 6.3), or none at all.
#[test]
fn a_request_with_two_framings_is_read_by_its_chunks_or_not_at_all() {
    let hidden = "POST /charges HTTP/1.1\r\nhost: bank\r\nidempotency-key: hidden\r\n\
                  content-length: 8\r\n\r\namount=6";
    let framings = [
        (
            "length first",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        ),
        (
            "length last",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ),
        (
            "a long length",
            "transfer-encoding: chunked\r\ncontent-length: 500\r\n",
        ),
    ];
    for (what, framing) in framings {
        attack(config(), async |target| {
            // Read by its length, the chunks' end would be a part of the body, or the hidden request of the next one.
            let chunked = format!(
                "8\r\namount=7\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
                hidden.len()
            );
            let bytes = post(
                format!("idempotency-key: k\r\n{framing}").as_bytes(),
                chunked.as_bytes(),
            );
            let reply = target.throw(bytes).await;

            let starts = target.bank.starts();
            let whole = format!("amount=7{hidden}");
            assert!(
                !starts.contains_key("amount=6".as_bytes()),
                "{what}: smuggled"
            );
            match reply.status() {
                Some(201) => {
                    assert_eq!(starts.get(whole.as_bytes()), Some(&1), "{what}: {starts:?}");
                    target.served.fetch_add(1, Ordering::SeqCst);
                }
                _ => {
                    assert_refused(what, &reply);
                    assert!(starts.is_empty(), "{what}: {starts:?}");
                }
            }
        });
    }
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    attack(config(), async |target| {
        let head = |length: usize, expect: &str| {
            post(
                format!("idempotency-key: k\r\ncontent-length: {length}\r\n{expect}").as_bytes(),
                b"",
            )
        };

        // Who asks first is told without having sent a byte.
        let reply = target
            .throw(head(BODY_LIMIT + 1, "expect: 100-continue\r\n"))
            .await;
        assert_eq!(
            (reply.status(), code(&reply)),
            (Some(413), "body-too-large")
        );

        // Who does not ask can send all of it and still reads the refusal.
        let mut raw = Raw::connect(target.address).await;
        raw.send(head(BODY_LIMIT + 1, "")).await.unwrap();
        raw.send(vec![b'x'; BODY_LIMIT + 1]).await.unwrap();
        let reply = raw.reply().await;
        assert_eq!(
            (reply.status(), code(&reply)),
            (Some(413), "body-too-large")
        );

        // More than anybody reads: it ends all the same.
        let mut raw = Raw::connect(target.address).await;
        raw.send(head(1 << 40, "")).await.unwrap();
        let sent = send_without_end(&mut raw, &[b'x'; 64 << 10]).await;
        assert!(sent < 64 << 20, "{sent} bytes were taken");
    });
}

#[test]
fn a_body_of_the_very_limit_is_served() {
    attack(config(), async |target| {
        let head = format!(
            "idempotency-key: k\r\ncontent-length: {BODY_LIMIT}\r\nexpect: 100-continue\r\n"
        );
        let mut raw = Raw::connect(target.address).await;
        raw.send(post(head.as_bytes(), b"")).await.unwrap();
        raw.send(vec![b'x'; BODY_LIMIT]).await.unwrap();
        assert_eq!(raw.reply().await.status(), Some(201));
        target.served.fetch_add(1, Ordering::SeqCst);
    });
}

#[test]
fn a_chunked_body_without_end_is_refused_and_not_read_for_ever() {
    attack(config(), async |target| {
        let head = b"idempotency-key: k\r\ntransfer-encoding: chunked\r\n";
        let mut raw = Raw::connect(target.address).await;
        raw.send(post(head, b"")).await.unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 64 << 10], b"\r\n"].concat();
        let sent = send_without_end(&mut raw, &chunk).await;
        assert!(sent < 64 << 20, "{sent} bytes were taken");

        // Small chunks without end.
        let mut raw = Raw::connect(target.address).await;
        raw.send(post(head, b"")).await.unwrap();
        let sent = send_without_end(&mut raw, &b"1\r\nx\r\n".repeat(10_000)).await;
        assert!(sent < 256 << 20, "{sent} bytes were taken");
    });
}

/// Sends the same again and again until the other side is done with it, and reads what it says meanwhile.
async fn send_without_end(raw: &mut Raw, bytes: &[u8]) -> usize {
    let (mut from, mut to) = raw.stream().split();
    let mut sent = 0;
    let sending = async {
        while to.write_all(bytes).await.is_ok() {
            sent += bytes.len();
        }
    };
    let mut answer = Vec::new();
    let reading = async {
        // A reset loses what was not read; then the answer is lost with it.
        let _ = from.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    })
    .await
    .expect("the server reads for ever");
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413 "),
        "{answer}"
    );
    sent
}

#[test]
fn a_body_that_comes_byte_by_byte_runs_out_of_time() {
    let config = config().with_body_timeout(Duration::from_millis(300));
    attack(config, async |target| {
        let mut raw = Raw::connect(target.address).await;
        let head = b"idempotency-key: k\r\ncontent-length: 60000\r\n";
        raw.send(post(head, b"")).await.unwrap();
        let reply = {
            let (mut from, mut to) = raw.stream().split();
            let drip = async {
                while to.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let mut answer = vec![0; 4096];
            let reading = from.read(&mut answer);
            tokio::pin!(reading);
            let read = tokio::select! {
                read = &mut reading => read,
                () = drip => reading.await,
            };
            let read = read.unwrap_or(0);
            String::from_utf8(answer[..read].to_vec()).unwrap()
        };
        assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
        assert!(reply.contains("body-timeout"), "{reply}");

        // So does a body of which nothing comes.
        let reply = target.throw(post(head, b"")).await;
        assert_eq!((reply.status(), code(&reply)), (Some(408), "body-timeout"));
    });
}

#[test]
fn a_body_that_ends_too_soon_claims_nothing() {
    attack(config(), async |target| {
        for framing in [
            "content-length: 60000\r\n",
            "transfer-encoding: chunked\r\n",
        ] {
            let head = format!("idempotency-key: k\r\n{framing}");
            let mut raw = Raw::connect(target.address).await;
            raw.send(post(head.as_bytes(), b"8\r\namount=5"))
                .await
                .unwrap();
            raw.finish_sending().await;
            assert_refused(framing, &raw.reply().await);

            let mut raw = Raw::connect(target.address).await;
            raw.send(post(head.as_bytes(), b"8\r\namount=5"))
                .await
                .unwrap();
            raw.reset();
            target.is_unharmed(framing).await;
        }
    });
}

#[test]
fn five_hundred_large_bodies_at_once_take_no_more_than_the_pool() {
    const POOLED: usize = 16;
    let config = config().with_body_pool(POOLED * BODY_LIMIT);
    attack(config, async |target| {
        let request = |key: usize, size: usize| {
            let head = format!("idempotency-key: {key}\r\ncontent-length: {BODY_LIMIT}\r\n");
            post(head.as_bytes(), &vec![b'x'; size])
        };
        // All but one byte of each, so that they hold what they have: room for one more body is left.
        let mut held = Vec::new();
        for key in 0..POOLED - 1 {
            let mut raw = Raw::connect(target.address).await;
            raw.send(request(key, BODY_LIMIT - 1)).await.unwrap();
            held.push(raw);
        }

        let large = (0..500).map(|n| target.throw(request(1_000 + n, BODY_LIMIT)));
        let mut replies = join_all(large).await;
        assert!(
            replies.iter().any(|reply| reply.status() == Some(503)),
            "the pool had room for everybody"
        );
        for mut raw in held {
            // One that found no room was refused, and its connection may be closed.
            let _ = raw.send(b"x").await;
            replies.push(raw.reply().await);
        }

        let (served, refused): (Vec<_>, Vec<_>) = replies
            .iter()
            .partition(|reply| reply.status() == Some(201));
        for reply in refused {
            assert_refused("a body without room", reply);
            if reply.status().is_some() {
                assert_eq!(code(reply), "overloaded");
            }
        }
        target.assert_claimed(served.len(), "with a full pool");
        target.served.store(served.len(), Ordering::SeqCst);

        // Every byte has gone back.
        let large = (0..POOLED).map(|n| target.throw(request(2_000 + n, BODY_LIMIT)));
        for reply in join_all(large).await {
            assert_eq!(reply.status(), Some(201), "{reply:?}");
            target.served.fetch_add(1, Ordering::SeqCst);
        }
    });
}

#[test]
fn five_hundred_bodies_that_are_never_finished_leave_the_pool_as_it_was() {
    let config = config().with_body_pool(16 * BODY_LIMIT);
    attack(config, async |target| {
        let mut clients = Vec::new();
        for key in 0..500 {
            let mut raw = Raw::connect(target.address).await;
            let head = format!("idempotency-key: {key}\r\ncontent-length: {BODY_LIMIT}\r\n");
            let _ = raw.send(post(head.as_bytes(), &[b'x'; 8 << 10])).await;
            clients.push(raw);
        }
        drop(clients);

        // Room for a body of the limit comes back when the last of them is seen to be gone.
        for tries in 0.. {
            let head =
                format!("idempotency-key: whole-{tries}\r\ncontent-length: {BODY_LIMIT}\r\n");
            let reply = target
                .throw(post(head.as_bytes(), &vec![b'x'; BODY_LIMIT]))
                .await;
            if reply.status() == Some(201) {
                break;
            }
            assert_eq!((reply.status(), code(&reply)), (Some(503), "overloaded"));
            assert!(tries < 1_000, "the pool stays empty");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        target.served.fetch_add(1, Ordering::SeqCst);
    });
}

#[test]
fn http2_is_no_way_around() {
    attack(config(), async |target| {
        let mut client = Connection::open(Protocol::Http2, target.address).await;
        let mut two = charge("/charges", "k", "amount=5");
        let second = "l".parse().unwrap();
        two.headers_mut().append("idempotency-key", second);
        assert_eq!(client.send(two).await.unwrap().status, 400);

        for key in [b"caf\xe9".to_vec(), vec![b'k'; 8 << 10], b"k\tl".to_vec()] {
            let mut request = charge("/charges", "k", "amount=5");
            let key = http::HeaderValue::from_bytes(&key).unwrap();
            request.headers_mut().insert("idempotency-key", key);
            assert_eq!(client.send(request).await.unwrap().status, 400);
        }

        // Past what a head may hold: refused by its stream or its connection.
        let huge = "k".repeat(64 << 10);
        match client.send(charge("/charges", &huge, "amount=5")).await {
            Ok(answer) => assert!(answer.status.is_client_error(), "{answer:?}"),
            Err(error) => assert!(!error.is_user(), "{error}"),
        }

        let mut client = Connection::open(Protocol::Http2, target.address).await;
        let large = vec![b'x'; BODY_LIMIT + 1];
        let answer = client.send(charge("/charges", "k", large)).await.unwrap();
        assert_eq!(answer.code().as_deref(), Some("body-too-large"));
    });
}
