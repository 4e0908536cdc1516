//! idempotency I2, I20: what a key is, and who never sees it.

use http::Method;
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, Promise, scope};
use steadfast_testkit::faults::Method as Call;
use tower::{Service, ServiceExt};

use crate::support::{Handler, Latch, Trace, World, body, channel, charge, keyed, request};

#[tokio::test(start_paused = true)]
async fn both_spellings_are_one_key() {
    let world = World::at_most_once(Handler::counting());

    world.send(charge("a-1")).await.assert_executed("charge 1");
    world
        .send(charge("\"a-1\""))
        .await
        .assert_replayed("charge 1");
    world
        .send(charge("  a-1 "))
        .await
        .assert_replayed("charge 1");

    world
        .send(charge(r#""a b\"c\\""#))
        .await
        .assert_executed("charge 2");
    world
        .send(charge(r#""a b\"c\\""#))
        .await
        .assert_replayed("charge 2");
    world.send(charge("A-1")).await.assert_executed("charge 3");
}

#[tokio::test(start_paused = true)]
async fn a_key_may_have_255_characters() {
    let world = World::at_most_once(Handler::counting());
    let longest = "k".repeat(255);

    world
        .send(charge(&longest))
        .await
        .assert_executed("charge 1");
    world
        .send(charge(&format!("\"{longest}\"")))
        .await
        .assert_replayed("charge 1");

    let longer = "k".repeat(256);
    for key in [longer.clone(), format!("\"{longer}\"")] {
        world
            .send(charge(&key))
            .await
            .assert_refused(400, "malformed-key");
    }
}

#[tokio::test(start_paused = true)]
async fn junk_is_refused_and_not_repeated() {
    let junk: [&[u8]; 10] = [
        b"",
        b" ",
        b"\"\"",
        b"\"secret",
        b"secret\"; p=1",
        b"\"secret\";p=1",
        b"\"secret\" \"secret\"",
        b"secret secret",
        b"secret\xff",
        "secret\u{e9}".as_bytes(),
    ];
    for key in junk {
        let world = World::at_most_once(Handler::counting());

        let answer = world
            .send(
                request(Method::POST, "/charges")
                    .header("idempotency-key", key)
                    .body(body("5"))
                    .unwrap(),
            )
            .await;

        answer.assert_refused(400, "malformed-key");
        answer.assert_retryable(false);
        assert!(!answer.text().contains("secret"));
        assert_eq!(world.handler.started(), 0);
        assert_eq!(world.writes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn two_lines_are_refused_even_if_they_are_equal() {
    for second in ["a", "b", ""] {
        let world = World::at_most_once(Handler::counting());

        let answer = world
            .send(
                keyed("a")
                    .header("idempotency-key", second)
                    .body(body("5"))
                    .unwrap(),
            )
            .await;

        answer.assert_refused(400, "malformed-key");
        assert_eq!(world.writes(), 0);
    }
}

const KEY: &str = "raw-and-secret-key";

/// A keyed request whose every secret part has the word in it.
fn secret(content: &str) -> http::Request<crate::support::Body> {
    keyed(KEY)
        .header("authorization", "Bearer token-and-secret")
        .body(body(format!("body-and-secret {content}")))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_log_of_a_whole_run_shows_a_key_a_body_a_principal_or_a_whole_digest() {
    let trace = Trace::start();
    let latch = Latch::new();
    let handler = {
        let latch = latch.clone();
        Handler::new(move |call| {
            let latch = latch.clone();
            async move {
                if call.number == 1 {
                    latch.pass().await;
                }
                let mut response = http::Response::new(body("answer-and-secret"));
                if call.number < 3 {
                    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                }
                Ok(response)
            }
        })
    };
    let world = World::build(handler, Promise::AtLeastOnce, |store| {
        IdempotencyLayer::at_least_once(store, scope::bearer_token())
            .unwrap()
            .with_config(IdempotencyConfig::default().with_body_limit(64))
            .unwrap()
    });

    // A store that fails, an execution that nobody waits for, a duplicate, a conflict, takeovers, a replay.
    for lost in [Call::Begin, Call::Release, Call::Abandon, Call::Complete] {
        let _ = world.faults.on(lost).lose_acknowledgement(1);
    }
    let _ = world.faults.on(Call::Renew).lose_request(1);
    assert_eq!(world.send(secret("1")).await.status, 503);
    world.assert_idle().await;
    let first = world.start(secret("1"));
    latch.reached().await;
    tokio::time::sleep(IdempotencyConfig::DEFAULT_LEASE).await;
    assert_eq!(world.send(secret("1")).await.status, 409);
    assert_eq!(world.send(secret("2")).await.status, 422);
    first.abort();
    latch.open();
    world.assert_idle().await;
    assert_eq!(world.send(secret("1")).await.status, 502);
    assert_eq!(world.send(secret("1")).await.status, 200);
    let replay = world.send(secret("1")).await;
    replay.assert_replayed("answer-and-secret");
    assert_eq!(world.send(secret(&"x".repeat(64))).await.status, 413);
    let malformed = keyed("raw-and-secret key").body(body("")).unwrap();
    assert_eq!(world.send(malformed).await.status, 400);

    let text = trace.text();
    let prefix = world.handler.operation().key().prefix().to_string();
    assert_eq!(prefix.len(), 8);
    assert!(text.contains(&prefix), "nothing of the run was logged");
    assert!(text.contains("store"), "no failure was logged");
    assert!(!text.contains("secret"), "{text}");
    let longest = text
        .split(|c: char| !c.is_ascii_hexdigit())
        .map(str::len)
        .max();
    assert!(longest.unwrap() < 16, "a digest is shown whole: {text}");
}

#[tokio::test(start_paused = true)]
async fn debug_output_shows_no_key_no_body_and_no_whole_digest() {
    let world = World::at_most_once(Handler::counting());
    world.send(secret("1")).await.assert_executed("charge 1");
    let mut service = world.service();
    let (_sender, arriving) = channel();
    let response = service
        .ready()
        .await
        .unwrap()
        .call(keyed(KEY).body(arriving).unwrap());

    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?}",
        world.layer,
        world.handle,
        response,
        world.handler.operation(),
        scope::Principal::named("secret"),
    );

    assert!(shown.contains(&world.handler.operation().key().prefix().to_string()));
    assert!(!shown.contains("secret"), "{shown}");
    let longest = shown
        .split(|c: char| !c.is_ascii_hexdigit())
        .map(str::len)
        .max();
    assert!(longest.unwrap() < 16, "{shown}");
}
