//! idempotency I8, I10: an answer that comes before any execution is its request's alone; one that the service itself released
//! is for all who joined.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use steadfast_idempotency::{IdempotencyConfig, Outcome};
use steadfast_testkit::faults::Method;
use tokio::time::sleep;

use crate::support::{
    Answer, Body, Crowd, Handler, Latch, World, charge, created,
    grpc::{CREATE, answered, create, trailers, trailers_only},
};

const COUNT: u64 = 3;

/// Every call of it takes its time, the first until the latch is open; and how many ran at once.
fn slow(
    latch: &Latch,
    answer: impl Fn(u64) -> Response<Body> + Send + Sync + 'static,
) -> (Handler, Arc<AtomicU64>) {
    let most = Arc::new(AtomicU64::new(0));
    let (running, latch) = (Arc::new(AtomicU64::new(0)), latch.clone());
    let handler = {
        let most = Arc::clone(&most);
        Handler::new(move |call| {
            let (latch, running) = (latch.clone(), Arc::clone(&running));
            let (most, answer) = (Arc::clone(&most), answer(call.number));
            async move {
                let now = running.fetch_add(1, Ordering::Relaxed) + 1;
                most.fetch_max(now, Ordering::Relaxed);
                latch.pass().await;
                sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(answer)
            }
        })
    };
    (handler, most)
}

async fn all(world: &World, latch: &Latch, request: impl Fn() -> Request<Body>) -> Vec<Answer> {
    let first = world.start(request());
    latch.reached().await;
    let crowd = Crowd::of(world, usize::try_from(COUNT).unwrap(), request).await;
    assert_eq!(world.faults.calls(Method::Begin), 1, "they joined");
    latch.open();
    let mut answers = crowd.answers().await;
    answers.push(first.await.unwrap());
    answers
}

/// Asserts that each request had its own execution, one after the other.
#[track_caller]
fn assert_each_its_own(world: &World, answers: &[Answer], most: &AtomicU64) {
    for answer in answers {
        assert_eq!(answer.header("idempotent-replayed"), Some("false"));
        assert_eq!(answer.header("idempotent-stored"), None);
    }
    assert_eq!(world.handler.started(), COUNT + 1);
    assert_eq!(world.faults.calls(Method::Begin), COUNT + 1);
    assert_eq!(world.faults.answers(Method::Release), COUNT + 1);
    assert_eq!(world.faults.calls(Method::LookUp), 0);
    assert_eq!(most.load(Ordering::Relaxed), 1, "two ran at once");
    assert_eq!(world.handler.operation().execution(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_releases_is_not_shared_and_who_joined_asks_again() {
    for status in [401, 407, 413, 428, 431] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let (handler, most) = slow(&latch, move |number| {
                let mut response = created(number);
                *response.status_mut() = status.try_into().unwrap();
                response
            });
            let world = promise(handler);

            let answers = all(&world, &latch, || charge("k")).await;

            assert_each_its_own(&world, &answers, &most);
            let mut texts: Vec<_> = answers.iter().map(Answer::text).collect();
            texts.sort_unstable();
            assert_eq!(texts, ["charge 1", "charge 2", "charge 3", "charge 4"]);
            assert!(answers.iter().all(|answer| answer.status == status));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_of_grpc_that_releases_is_not_shared_and_who_joined_asks_again() {
    for (code, in_headers) in [("12", true), ("12", false), ("16", true), ("16", false)] {
        let latch = Latch::new();
        let (handler, most) = slow(&latch, move |number| {
            let number = number.to_string().parse().unwrap();
            let mut response = match in_headers {
                true => trailers_only(code),
                false => answered("half", trailers(code)),
            };
            response.headers_mut().insert("x-number", number);
            response
        });
        let config = IdempotencyConfig::default().with_grpc_methods([CREATE]);
        let world = World::at_most_once(handler).with_config(config);

        let answers = all(&world, &latch, || create("k")).await;

        assert_each_its_own(&world, &answers, &most);
        let number = |answer: &Answer| answer.header("x-number").unwrap().to_owned();
        let mut numbers: Vec<_> = answers.iter().map(number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, ["1", "2", "3", "4"], "{code}");
    }
}

/// The one that comes through ends the row: the others get its answer.
#[tokio::test(start_paused = true)]
async fn who_asks_again_joins_the_next_execution() {
    let latch = Latch::new();
    let (handler, most) = slow(&latch, |number| {
        let mut response = created(number);
        if number < 3 {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        }
        response
    });
    let world = World::at_most_once(handler);

    let answers = all(&world, &latch, || charge("k")).await;

    let mut ends: Vec<_> = answers
        .iter()
        .map(|answer| (answer.text(), answer.header("idempotent-replayed").unwrap()))
        .collect();
    ends.sort_unstable();
    assert_eq!(
        ends,
        [
            ("charge 1", "false"),
            ("charge 2", "false"),
            ("charge 3", "false"),
            ("charge 3", "true"),
        ]
    );
    assert_eq!(most.load(Ordering::Relaxed), 1);
    assert_eq!(world.faults.calls(Method::Begin), 3);
}

/// Asserts that all got the answer of the first execution.
#[track_caller]
fn assert_shared(world: &World, answers: &[Answer]) {
    let (first, joined) = answers.split_last().unwrap();
    assert_eq!(first.header("idempotent-replayed"), Some("false"));
    for answer in joined {
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        assert_eq!((answer.status, &answer.body), (first.status, &first.body));
        assert_eq!(answer.trailers, first.trailers);
    }
    assert_eq!(world.handler.started(), 1);
    assert_eq!(world.faults.calls(Method::Begin), 1);
    assert_eq!(world.faults.answers(Method::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_service_released_by_its_own_word_is_shared() {
    for status in [201, 401, 428, 503] {
        for by_hook in [false, true] {
            let latch = Latch::new();
            let (handler, _) = slow(&latch, move |number| {
                let mut response = created(number);
                *response.status_mut() = status.try_into().unwrap();
                if !by_hook {
                    response.extensions_mut().insert(Outcome::Release);
                }
                response
            });
            let world = World::at_most_once(handler).with(|layer| match by_hook {
                true => layer.with_outcome(|_| Some(Outcome::Release)),
                false => layer,
            });

            let answers = all(&world, &latch, || charge("k")).await;

            assert_shared(&world, &answers);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_service_released_of_a_call_is_shared() {
    for (code, in_headers) in [("16", true), ("16", false), ("14", true), ("0", false)] {
        for by_hook in [false, true] {
            let latch = Latch::new();
            let (handler, _) = slow(&latch, move |_| {
                let mut response = match in_headers {
                    true => trailers_only(code),
                    false => answered("half", trailers(code)),
                };
                if !by_hook {
                    response.extensions_mut().insert(Outcome::Release);
                }
                response
            });
            let config = IdempotencyConfig::default().with_grpc_methods([CREATE]);
            let world =
                World::at_most_once(handler)
                    .with_config(config)
                    .with(|layer| match by_hook {
                        true => layer.with_outcome(|_| Some(Outcome::Release)),
                        false => layer,
                    });

            let answers = all(&world, &latch, || create("k")).await;

            assert_shared(&world, &answers);
            let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
            for answer in &answers {
                let head = status(&answer.headers);
                let tail = answer.trailers.as_ref().and_then(status);
                assert_eq!(head.or(tail).unwrap(), code);
            }
        }
    }
}
