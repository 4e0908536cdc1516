//! idempotency I8, I15, I21: what those who joined are told when nothing ran, and when the store has not acknowledged the answer.

use std::{
    future::{Ready, ready},
    panic::resume_unwind,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use steadfast_http::body::CapturedBody;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tower::{Layer, Service};

use crate::support::{
    Answer, Body, BoxError, Crowd, Handler, Latch, Meter, World, charge, created, eventually, soon,
};

const SECOND: Duration = Duration::from_secs(1);
const COUNT: usize = 3;

/// How it is not ready once a request holds its claim.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unready {
    Fails,
    Never,
    Panics,
}

#[derive(Clone)]
struct NotReady(Unready);

impl Service<Request<CapturedBody<Body>>> for NotReady {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.0 {
            Unready::Fails => Poll::Ready(Err("it will never be ready".into())),
            Unready::Never => Poll::Pending,
            Unready::Panics => resume_unwind(Box::new("the service's own")),
        }
    }

    fn call(&mut self, _: Request<CapturedBody<Body>>) -> Self::Future {
        ready(Err("it was never ready".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_an_execution_whose_service_was_not_ready_learn_that_nothing_ran() {
    for unready in [Unready::Fails, Unready::Never, Unready::Panics] {
        for promise in [World::at_most_once, World::at_least_once] {
            let meter = Meter::start();
            let config = IdempotencyConfig::default()
                .with_wait(SECOND * 30)
                .with_max_execution(SECOND * 5);
            let world = promise(Handler::counting()).with_config(config);
            let gate = world.faults.on(Method::Begin).hold_before(1);
            let mut service = world.layer.layer(NotReady(unready));
            // Not ready before the claim is the business of whoever calls.
            let first = tokio::spawn(async move { service.call(charge("k")).await });
            soon(gate.reached()).await;
            let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

            gate.open();

            for answer in crowd.answers().await {
                answer.assert_refused(503, "overloaded");
                answer.assert_retryable(true);
                answer.assert_retry_after("1");
                assert!(answer.text().contains("nothing was executed"), "{answer:?}");
            }
            match (unready, first.await) {
                (Unready::Fails, Ok(Err(error))) => {
                    assert_eq!(error.to_string(), "it will never be ready");
                }
                (Unready::Never, Ok(Ok(response))) => {
                    let first = Answer::read(response).await;
                    first.assert_refused(503, "overloaded");
                    assert!(first.text().contains("nothing was executed"));
                }
                (Unready::Panics, Err(error)) => assert!(error.is_panic()),
                (_, first) => panic!("{unready:?}: {first:?}"),
            }
            assert_eq!(world.faults.calls(Method::Begin), 1);
            assert_eq!(world.faults.answers(Method::Release), 1);
            assert!(meter.outcomes()["overloaded"] >= 3.0);
            world.send(charge("k")).await.assert_executed("charge 1");
            assert_eq!(world.handler.operation().execution(), 1);
            world.assert_idle().await;
            meter.assert_idle();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_an_unstored_answer_are_told_and_counted() {
    for (lost, acknowledged) in [(false, true), (true, false)] {
        for promise in [World::at_most_once, World::at_least_once] {
            let meter = Meter::start();
            let latch = Latch::new();
            let config = IdempotencyConfig::default()
                .with_wait(SECOND * 10)
                .with_max_execution(SECOND * 20);
            let world = promise(Handler::held(&latch)).with_config(config);
            let script = world.faults.on(Method::Complete);
            let _ = match lost {
                true => script.lose_request(FOREVER),
                false => script.delay(1, SECOND * 5),
            };
            let first = world.start(charge("k"));
            latch.reached().await;
            let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

            latch.open();

            for answer in crowd.answers().await {
                assert_eq!(answer.text(), "charge 1");
                assert_eq!(answer.status, 201);
                assert_eq!(answer.header("idempotent-replayed"), Some("true"));
                assert_eq!(answer.header("idempotent-stored"), Some("false"));
            }
            first.await.unwrap().assert_unstored("charge 1");
            assert!(meter.number("unstored_answers_total") == 4.0);
            let outcomes = meter.outcomes();
            assert!(outcomes["unstored"] == 1.0 && outcomes["joined"] == 3.0);

            world.assert_idle().await;
            if acknowledged {
                world.send(charge("k")).await.assert_replayed("charge 1");
            }
            assert!(meter.number("unstored_answers_total") == 4.0);
            eventually("no task is left", || meter.number("detached_tasks") == 0.0).await;
        }
    }
}

/// An answer that is not kept, and one that the store has, are no unstored answers.
#[tokio::test(start_paused = true)]
async fn those_who_joined_another_answer_are_not_counted_as_unstored() {
    for status in [201, 503] {
        let meter = Meter::start();
        let latch = Latch::new();
        let handler = {
            let latch = latch.clone();
            Handler::new(move |call| {
                let latch = latch.clone();
                async move {
                    latch.pass().await;
                    let mut response = created(call.number);
                    *response.status_mut() = status.try_into().unwrap();
                    Ok(response)
                }
            })
        };
        let world = World::at_most_once(handler);
        let first = world.start(charge("k"));
        latch.reached().await;
        let crowd = Crowd::of(&world, COUNT, || charge("k")).await;

        latch.open();

        for answer in crowd.answers().await {
            answer.assert_replayed("charge 1");
        }
        first.await.unwrap().assert_executed("charge 1");
        assert!(meter.number("unstored_answers_total") == 0.0);
        assert!(meter.outcomes()["joined"] == 3.0);
    }
}
