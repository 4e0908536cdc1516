//! idempotency I8: what those get who joined an execution, however it ends.

use std::{panic::resume_unwind, sync::Mutex, time::Duration};

use http::{Response, StatusCode};
use steadfast_idempotency::{IdempotencyConfig, Outcome};
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::{task::JoinHandle, time::sleep};

use crate::support::{
    Answer, Body, BoxError, Call, Crowd, Handler, Latch, Rival, World, body, broken, channel,
    charge, created, soon,
};

const SECOND: Duration = Duration::from_secs(1);
const COUNT: usize = 3;

/// Ends its first call so, once the latch is open, and answers 201 later.
fn ending(
    latch: &Latch,
    end: impl Fn(Call) -> Result<Response<Body>, BoxError> + Clone + Send + Sync + 'static,
) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let (latch, end) = (latch.clone(), end.clone());
        async move {
            if call.number > 1 {
                return Ok(created(call.number));
            }
            latch.pass().await;
            end(call)
        }
    })
}

fn with_status(status: u16) -> impl Fn(Call) -> Result<Response<Body>, BoxError> + Clone {
    move |call| {
        let mut response = created(call.number);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let headers = response.headers_mut();
        headers.insert("set-cookie", "session=first".parse().unwrap());
        headers.insert("x-own", "7".parse().unwrap());
        Ok(response)
    }
}

/// Starts an operation and those who join it, and lets it end.
async fn joined(world: &World, latch: &Latch) -> (JoinHandle<Answer>, Vec<Answer>) {
    let first = world.start(charge("k"));
    latch.reached().await;
    let crowd = Crowd::of(world, COUNT, || charge("k")).await;
    latch.open();
    let answers = crowd.answers().await;
    assert_eq!(answers.len(), COUNT);
    (first, answers)
}

#[track_caller]
fn assert_lost(world: &World, answer: &Answer) {
    if world.is_at_most_once() {
        answer.assert_refused(409, "outcome-unknown");
        answer.assert_retryable(false);
        assert_eq!(answer.header("retry-after"), None);
    } else {
        answer.assert_refused(503, "outcome-unknown");
        answer.assert_retryable(true);
        answer.assert_retry_after("1");
    }
}

/// Asserts that the store was asked for one claim only, and that the next request finds what the promise says.
async fn assert_abandoned_once(world: &World) {
    world.assert_idle().await;
    assert_eq!(world.faults.calls(Method::Begin), 1);
    assert_eq!(world.faults.calls(Method::LookUp), 0);
    let retry = world.send(charge("k")).await;
    if world.is_at_most_once() {
        retry.assert_refused(409, "outcome-unknown");
    } else {
        retry.assert_executed("charge 2");
        assert_eq!(world.handler.operation().execution(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_an_error_and_a_broken_body_are_unknown_outcomes() {
    for end in ["panics", "fails", "breaks"] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let world = promise(ending(&latch, move |_| match end {
                "panics" => resume_unwind(Box::new("the handler's own")),
                "fails" => Err("the handler's own".into()),
                _ => Ok(Response::new(broken("half"))),
            }));

            let (first, answers) = joined(&world, &latch).await;

            match end {
                "breaks" => assert!(first.await.unwrap().error.is_some()),
                _ => assert!(first.await.unwrap_err().is_panic()),
            }
            for answer in answers {
                assert_lost(&world, &answer);
            }
            assert_abandoned_once(&world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_too_long_is_an_unknown_outcome() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let config = IdempotencyConfig::default()
            .with_lease(SECOND)
            .with_max_execution(SECOND);
        let world = promise(ending(&latch, |_| Ok(created(1)))).with_config(config);
        let first = world.start(charge("k"));
        latch.reached().await;

        let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

        for answer in crowd.answers().await {
            assert_lost(&world, &answer);
        }
        assert_lost(&world, &first.await.unwrap());
        assert_abandoned_once(&world).await;
    }
}

/// The answer is the one of the execution that they joined, kept or not.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_is_shared_with_who_joined_and_with_nobody_else() {
    for status in [429, 500, 503] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let world = promise(ending(&latch, with_status(status)));

            let (first, answers) = joined(&world, &latch).await;

            let first = first.await.unwrap();
            first.assert_executed("charge 1");
            assert_eq!(first.header("set-cookie"), Some("session=first"));
            for answer in answers {
                answer.assert_replayed("charge 1");
                assert_eq!(answer.status, status);
                assert_eq!(answer.header("x-own"), Some("7"));
                assert_eq!(answer.header("set-cookie"), None);
            }
            assert_abandoned_once(&world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_handler_released_is_shared_with_who_joined() {
    let latch = Latch::new();
    let world = World::at_most_once(ending(&latch, |call| {
        let mut response = created(call.number);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.extensions_mut().insert(Outcome::Release);
        Ok(response)
    }));

    let (first, answers) = joined(&world, &latch).await;

    assert_eq!(first.await.unwrap().status, 503);
    for answer in answers {
        answer.assert_replayed("charge 1");
        assert_eq!(answer.status, 503);
    }
    world.assert_idle().await;
    assert_eq!(world.faults.calls(Method::Begin), 1);
    world.send(charge("k")).await.assert_executed("charge 2");
}

/// Nobody waited when the head came, so that the body went to its client as it was.
#[tokio::test(start_paused = true)]
async fn who_joins_once_an_answer_is_on_its_way_out_begins_again() {
    let latch = Latch::new();
    let world = World::at_most_once(ending(&latch, with_status(401)));
    let gate = world.faults.on(Method::Release).hold_before(1);
    latch.open();
    let first = world.start(charge("k"));
    soon(gate.reached()).await;

    let crowd = Crowd::of(&world, COUNT, || charge("k")).await;
    gate.open();

    let mut executed = 0;
    for answer in crowd.answers().await {
        assert_eq!(answer.text(), "charge 2");
        executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
    }
    assert_eq!(executed, 1);
    assert_eq!(first.await.unwrap().status, 401);
    assert_eq!(world.handler.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_and_does_not_end_cannot_be_shared() {
    for content_type in ["text/event-stream", "text/plain"] {
        let (mut sender, arriving) = channel();
        sender.send_data("one ".into()).await.unwrap();
        let arriving = std::sync::Arc::new(Mutex::new(Some(arriving)));
        let latch = Latch::new();
        let config = IdempotencyConfig::default().with_wait(SECOND * 60);
        let world = World::at_most_once(ending(&latch, move |_| {
            Ok(Response::builder()
                .status(401)
                .header("content-type", content_type)
                .body(arriving.lock().unwrap().take().unwrap())
                .unwrap())
        }))
        .with_config(config);

        let (first, answers) = joined(&world, &latch).await;

        let mut executed = 0;
        for answer in answers {
            assert_eq!(answer.text(), "charge 2");
            executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
        }
        assert_eq!(executed, 1);
        sender.send_data("two".into()).await.unwrap();
        drop(sender);
        first.await.unwrap().assert_executed("one two");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_refused_to_who_joined_and_streamed_to_the_first() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_response_limit(8);
    let world = World::at_most_once(ending(&latch, |_| {
        Ok(Response::builder()
            .status(201)
            .header("location", "/charges/1")
            .body(body("123456789"))
            .unwrap())
    }))
    .with_config(config);

    let (first, answers) = joined(&world, &latch).await;

    first.await.unwrap().assert_executed("123456789");
    for answer in answers {
        answer.assert_refused(409, "response-not-retained");
        answer.assert_retryable(false);
        assert_eq!(answer.problem()["original-status"], 201);
        assert_eq!(answer.problem()["location"], "/charges/1");
    }
    assert_eq!(world.faults.calls(Method::Begin), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_acknowledged_says_so_to_who_joined_too() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_wait(SECOND * 10);
    let world = World::at_most_once(ending(&latch, |_| Ok(created(1)))).with_config(config);
    let _ = world.faults.on(Method::Complete).delay(1, SECOND * 5);

    let (first, answers) = joined(&world, &latch).await;

    first.await.unwrap().assert_unstored("charge 1");
    for answer in answers {
        assert_eq!(answer.text(), "charge 1");
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        assert_eq!(answer.header("idempotent-stored"), Some("false"));
    }
    world.send(charge("k")).await.assert_replayed("charge 1");
}

/// Another owner took the record, and has completed it or still works on it.
#[tokio::test(start_paused = true)]
async fn who_joined_an_execution_that_was_superseded_gets_the_successors_answer() {
    for noticed_by in [Method::Complete, Method::Renew] {
        for completed_before in [true, false] {
            let latch = Latch::new();
            let config = IdempotencyConfig::default().with_wait(SECOND * 60);
            let world = World::at_most_once(Handler::held(&latch)).with_config(config);
            let first = world.start(charge("k"));
            latch.reached().await;
            let crowd = Crowd::of(&world, COUNT, || charge("k")).await;
            let rival = Rival::usurp(&world).await;
            if completed_before {
                rival.complete().await;
            }
            if noticed_by == Method::Complete {
                latch.open();
            }
            let answers = tokio::spawn(crowd.answers());
            soon(world.faults.answered(noticed_by, 1)).await;
            if !completed_before {
                sleep(SECOND * 3).await;
                rival.complete().await;
            }

            for answer in answers.await.unwrap() {
                answer.assert_replayed("rival");
            }
            first.await.unwrap().assert_replayed("rival");
            assert_eq!(world.handler.started(), 1);
            assert_eq!(world.faults.calls(noticed_by), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_least_once_refuses_who_joined_when_the_lease_cannot_be_renewed() {
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_lease(SECOND);
    let world = World::at_least_once(Handler::held(&latch)).with_config(config);
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let first = world.start(charge("k"));
    latch.reached().await;

    let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

    for answer in crowd.answers().await {
        answer.assert_refused(503, "store-unavailable");
        answer.assert_retryable(true);
    }
    first
        .await
        .unwrap()
        .assert_refused(503, "store-unavailable");
    assert_eq!(world.faults.calls(Method::Begin), 1);
}
