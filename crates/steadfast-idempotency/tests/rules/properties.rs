//! idempotency I6, I9, I15: what holds for any answer, and for any number of clients that come and go.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use proptest::{collection::vec, option, prelude::*, test_runner::Config};
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::{sleep, timeout};

use crate::support::{Answer, Handler, World, body, charge, created, with_trailers};

fn config() -> Config {
    Config {
        cases: 256,
        failure_persistence: None,
        ..Config::default()
    }
}

fn run(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(case);
}

fn name() -> impl Strategy<Value = HeaderName> {
    let known = prop::sample::select(vec![
        "content-type",
        "location",
        "link",
        "x-own",
        "set-cookie",
        "date",
        "retry-after",
        "connection",
        "idempotent-replayed",
        "idempotent-stored",
        "access-control-max-age",
        "x-ratelimit-limit",
    ]);
    prop_oneof![
        known.prop_map(HeaderName::from_static),
        "[a-z][a-z0-9!#$%&'*+.^_`|~-]{0,20}"
            .prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()),
    ]
}

fn value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8];
    vec(bytes, 0..40).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    vec((name(), value()), 0..12).prop_map(|headers| headers.into_iter().collect())
}

/// The statuses that are stored whole.
fn status() -> impl Strategy<Value = StatusCode> {
    let unstored = [
        206, 401, 407, 408, 411, 413, 415, 417, 421, 425, 426, 428, 429, 431,
    ];
    (200..500_u16)
        .prop_filter("it is stored", move |status| !unstored.contains(status))
        .prop_map(|status| status.try_into().unwrap())
}

/// What of the first answer's headers a replay must have.
fn kept(first: &HeaderMap) -> HeaderMap {
    let connection: Vec<_> = first
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let never = [
        "age",
        "alt-svc",
        "authentication-info",
        "baggage",
        "clear-site-data",
        "connection",
        "content-length",
        "date",
        "idempotent-replayed",
        "idempotent-stored",
        "keep-alive",
        "nel",
        "report-to",
        "reporting-endpoints",
        "retry-after",
        "server-timing",
        "set-cookie",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "www-authenticate",
        "x-request-id",
    ];
    let families = ["access-control-", "proxy-", "ratelimit", "x-ratelimit"];
    let mut kept = HeaderMap::new();
    for (name, value) in first {
        let text = name.as_str();
        if !never.contains(&text)
            && !families.iter().any(|family| text.starts_with(family))
            && !connection.iter().any(|named| named == text)
        {
            kept.append(name, value.clone());
        }
    }
    kept.insert("idempotent-replayed", HeaderValue::from_static("true"));
    kept
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_answer_that_is_stored_is_replayed_as_it_was(
        status in status(),
        headers in headers(),
        content in vec(any::<u8>(), 0..2_000),
        trailers in option::of(headers()),
    ) {
        // Endless by its type: not an answer that is stored whole.
        let streams = headers.get("content-type").is_some_and(|value| {
            value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream")
        });
        // Pending elsewhere: not an answer.
        let pending = status == StatusCode::CONFLICT && headers.contains_key("retry-after");
        prop_assume!(!streams && !pending);
        run(async move {
            let handler = {
                let (headers, content, trailers) =
                    (headers.clone(), Bytes::from(content), trailers);
                Handler::answering(move || {
                    let content = match &trailers {
                        Some(trailers) => with_trailers(content.clone(), trailers.clone()),
                        None => body(content.clone()),
                    };
                    let mut response = Response::new(content);
                    *response.status_mut() = status;
                    *response.headers_mut() = headers.clone();
                    response
                })
            };
            let world = World::at_most_once(handler);

            let first = world.send(charge("k")).await;
            let mut replay = world.send(charge("k")).await;
            // Which trailers follow is said anew.
            replay.headers.remove("trailer");

            let mut given = headers.clone();
            given.insert("idempotent-replayed", HeaderValue::from_static("false"));
            given.remove("idempotent-stored");
            assert_eq!(first.headers, given);
            assert_eq!(first.status, status);
            assert_eq!(replay.status, status);
            assert_eq!(replay.headers, kept(&headers));
            assert_eq!(replay.body, first.body);
            let trailers = first.trailers.as_ref().map(|trailers| {
                let mut trailers = kept(trailers);
                trailers.remove("idempotent-replayed");
                trailers
            });
            assert_eq!(replay.trailers, trailers);
            assert_eq!(world.handler.started(), 1);
        });
    }
}

/// One client: when it comes, for which operation, and how long it stays.
#[derive(Clone, Debug)]
struct Client {
    after: u64,
    key: u8,
    patience: Option<u64>,
}

fn client() -> impl Strategy<Value = Client> {
    (0..400_u64, 0..2_u8, option::of(0..300_u64)).prop_map(|(after, key, patience)| Client {
        after,
        key,
        patience,
    })
}

/// How the handler ends, and after how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Answers,
    Fails,
    Panics,
}

fn ending() -> impl Strategy<Value = (Ending, u64)> {
    let ending = prop_oneof![
        3 => Just(Ending::Answers),
        1 => Just(Ending::Fails),
        1 => Just(Ending::Panics),
    ];
    (ending, 0..1_500_u64)
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Delay(u64),
    LoseAcknowledgement,
    LoseRequest,
    Pass,
    Unsent,
}

fn troubles() -> impl Strategy<Value = Vec<(Method, Trouble)>> {
    let method = prop::sample::select(vec![
        Method::Abandon,
        Method::Begin,
        Method::Complete,
        Method::LookUp,
        Method::Release,
        Method::Renew,
    ]);
    let trouble = prop_oneof![
        (1..600_u64).prop_map(Trouble::Delay),
        Just(Trouble::LoseAcknowledgement),
        Just(Trouble::LoseRequest),
        Just(Trouble::Pass),
        Just(Trouble::Unsent),
    ];
    vec((method, trouble), 0..12)
}

fn script(world: &World, troubles: &[(Method, Trouble)]) {
    for &(method, trouble) in troubles {
        let script = world.faults.on(method);
        let _ = match trouble {
            Trouble::Delay(delay) => script.delay(1, Duration::from_millis(delay)),
            Trouble::LoseAcknowledgement => script.lose_acknowledgement(1),
            Trouble::LoseRequest => script.lose_request(1),
            Trouble::Pass => script.pass(1),
            Trouble::Unsent => script.fail_unsent(1),
        };
    }
    for method in [Method::Begin, Method::Complete] {
        // Behind the troubles every call takes its time, so that clients meet.
        let _ = world
            .faults
            .on(method)
            .delay(FOREVER, Duration::from_millis(5));
    }
}

fn handler(endings: Vec<(Ending, u64)>) -> Handler {
    let endings = Arc::new(endings);
    Handler::new(move |call| {
        let (ending, lasts) = endings[(call.number as usize - 1) % endings.len()];
        async move {
            sleep(Duration::from_millis(lasts)).await;
            let mut response = created(call.number);
            match ending {
                Ending::Answers => {}
                Ending::Fails => *response.status_mut() = StatusCode::BAD_GATEWAY,
                Ending::Panics => std::panic::resume_unwind(Box::new("the handler's own")),
            }
            Ok(response)
        }
    })
}

fn short() -> IdempotencyConfig {
    IdempotencyConfig::default().with_lease(Duration::from_millis(600))
}

/// Lets the clients come and go, and gives the answers that were got, by key.
async fn meet(world: &World, clients: Vec<Client>) -> Vec<(u8, Answer)> {
    let meetings: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let mut service = world.service();
            tokio::spawn(async move {
                sleep(Duration::from_millis(client.after)).await;
                let request = charge(&format!("key-{}", client.key));
                let response = tower::Service::call(&mut service, request);
                let response = match client.patience {
                    None => response.await,
                    Some(patience) => timeout(Duration::from_millis(patience), response)
                        .await
                        .ok()?,
                };
                Some((client.key, Answer::read(response.unwrap()).await))
            })
        })
        .collect();

    let mut answers = Vec::new();
    for meeting in meetings {
        // A panic is the handler's own.
        if let Ok(Some(answer)) = meeting.await {
            answers.push(answer);
        }
    }
    answers
}

/// Asserts that nobody was told two different results of one operation, as far as they were acknowledged.
fn assert_one_result(answers: &[(u8, Answer)]) {
    for key in 0..2 {
        let mut results: Vec<_> = answers
            .iter()
            .filter(|(of, answer)| *of == key && answer.status == 201)
            .filter(|(_, answer)| answer.header("idempotent-stored").is_none())
            .map(|(_, answer)| answer.text())
            .collect();
        results.sort_unstable();
        results.dedup();
        assert!(results.len() <= 1, "{results:?} were all acknowledged");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn at_most_once_never_starts_a_handler_twice(
        clients in vec(client(), 1..8),
        endings in vec(ending(), 1..4),
        troubles in troubles(),
    ) {
        run(async move {
            let world = World::at_most_once(handler(endings)).with_config(short());
            script(&world, &troubles);

            let answers = meet(&world, clients).await;
            world.assert_idle().await;
            world.faults.heal();
            let mut all = answers;
            for _ in 0..2 {
                for key in 0..2 {
                    sleep(Duration::from_secs(1)).await;
                    let late = vec![Client { after: 0, key, patience: None }];
                    all.extend(meet(&world, late).await);
                }
            }

            assert!(world.handler.most_starts_of_an_operation() <= 1);
            assert_one_result(&all);
            world.assert_idle().await;
        });
    }

    #[test]
    fn at_least_once_acknowledges_one_result_and_comes_to_it(
        clients in vec(client(), 1..8),
        endings in vec(ending(), 1..4),
        troubles in troubles(),
    ) {
        run(async move {
            let answering = endings.iter().any(|(ending, _)| matches!(ending, Ending::Answers));
            let world = World::at_least_once(handler(endings)).with_config(short());
            script(&world, &troubles);

            let mut all = meet(&world, clients).await;
            world.assert_idle().await;
            world.faults.heal();
            for _ in 0..12 {
                for key in 0..2 {
                    sleep(Duration::from_secs(1)).await;
                    let late = vec![Client { after: 0, key, patience: None }];
                    all.extend(meet(&world, late).await);
                }
            }

            assert_one_result(&all);
            if answering {
                let (_, last) = all.last().expect("the last retry was answered");
                assert_eq!(last.header("idempotent-replayed"), Some("true"));
            }
            world.assert_idle().await;
        });
    }
}
