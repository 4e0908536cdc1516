//! idempotency I10, I12: what a handler's answer means for its record, under both promises.

use std::panic::resume_unwind;

use http::{Response, StatusCode};
use steadfast_http::problem::{Code, Problem, ProblemBase};
use steadfast_idempotency::Outcome;
use steadfast_testkit::faults::Method;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    Answer, Body, BoxError, Call, Handler, Inner, World, body, broken, charge, created,
};

const STORED: [u16; 22] = [
    200, 201, 202, 204, 299, 301, 302, 303, 304, 307, 308, 400, 402, 403, 404, 405, 409, 410, 412,
    422, 423, 451,
];
const RELEASED: [u16; 11] = [401, 407, 411, 413, 415, 417, 421, 425, 426, 428, 431];
const UNKNOWN: [u16; 12] = [408, 429, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599];

fn status(status: u16) -> StatusCode {
    status.try_into().unwrap()
}

/// Changes the answer of the first call.
fn first(change: impl Fn(&mut Response<Body>) + Clone + Send + Sync + 'static) -> Handler {
    Handler::new(move |call| {
        let change = change.clone();
        async move {
            let mut response = created(call.number);
            if call.number == 1 {
                change(&mut response);
            }
            Ok(response)
        }
    })
}

fn first_with_status(number: u16) -> Handler {
    first(move |response| *response.status_mut() = status(number))
}

/// Asserts what a retry gets after the first call ended so.
async fn assert_settled(world: &World, outcome: Outcome) {
    assert_eq!(world.handler.started(), 1);
    world.assert_idle().await;
    let retry = world.send(charge("k")).await;
    match outcome {
        Outcome::Store => {
            retry.assert_replayed("charge 1");
            assert_eq!(world.handler.started(), 1);
        }
        Outcome::Release => {
            retry.assert_executed("charge 2");
            assert_eq!(world.handler.operation().execution(), 1);
            assert_eq!(world.faults.calls(Method::Abandon), 0);
        }
        Outcome::Unknown | _ => assert_unknown(world, &retry).await,
    }
}

/// Asserts that the first call was abandoned, and what each promise makes of it without any wait.
async fn assert_unknown(world: &World, retry: &Answer) {
    assert_eq!(world.faults.answers(Method::Abandon), 1);
    if world.is_at_most_once() {
        world.assert_indeterminate().await;
        retry.assert_refused(409, "outcome-unknown");
        retry.assert_retryable(false);
        assert_eq!(retry.header("retry-after"), None);
        assert_eq!(world.handler.started(), 1);
    } else {
        retry.assert_executed("charge 2");
        assert_eq!(world.handler.operation().execution(), 2);
    }
}

async fn assert_table(statuses: &[u16], outcome: Outcome) {
    for &number in statuses {
        for world in World::both(|| first_with_status(number)) {
            let answer = world.send(charge("k")).await;

            answer.assert_executed("charge 1");
            assert_eq!(answer.status, number);
            assert_settled(&world, outcome).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_a_redirect_and_a_refusal_of_the_business_are_stored() {
    assert_table(&STORED, Outcome::Store).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_comes_before_execution_releases() {
    assert_table(&RELEASED, Outcome::Release).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_a_throttle_and_every_server_error_abandon() {
    assert_table(&UNKNOWN, Outcome::Unknown).await;
}

#[tokio::test(start_paused = true)]
async fn a_handlers_own_word_beats_the_table() {
    for (number, own) in [
        (500, Outcome::Store),
        (401, Outcome::Store),
        (201, Outcome::Release),
        (503, Outcome::Release),
        (201, Outcome::Unknown),
        (401, Outcome::Unknown),
    ] {
        let handler = || {
            first(move |response| {
                *response.status_mut() = status(number);
                response.extensions_mut().insert(own);
            })
        };
        for world in World::both(handler) {
            let answer = world.send(charge("k")).await;

            answer.assert_executed("charge 1");
            assert_eq!(answer.status, number);
            assert_settled(&world, own).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_hook_beats_the_table_and_yields_to_the_handler() {
    for (hook, own, outcome) in [
        (Some(Outcome::Release), None, Outcome::Release),
        (Some(Outcome::Store), None, Outcome::Store),
        (None, None, Outcome::Unknown),
        (
            Some(Outcome::Store),
            Some(Outcome::Release),
            Outcome::Release,
        ),
        (Some(Outcome::Release), Some(Outcome::Store), Outcome::Store),
    ] {
        let handler = || {
            first(move |response| {
                *response.status_mut() = status(500);
                if let Some(own) = own {
                    response.extensions_mut().insert(own);
                }
            })
        };
        for world in World::both(handler) {
            let world = world
                .with(|layer| layer.with_outcome(move |head| hook.filter(|_| head.status == 500)));

            world.send(charge("k")).await.assert_executed("charge 1");

            assert_settled(&world, outcome).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_breaks_abandons_and_its_client_gets_what_came() {
    for world in World::both(|| first(|response| *response.body_mut() = broken("half"))) {
        let answer = world.send(charge("k")).await;

        answer.assert_executed("half");
        assert_eq!(answer.status, 201);
        assert_eq!(answer.error.as_deref(), Some("the body broke"));
        assert_settled(&world, Outcome::Unknown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_error_abandons_and_is_the_clients() {
    let handler = || {
        Handler::new(|call: Call| async move {
            match call.number {
                1 => Err(BoxError::from("the provider is gone")),
                number => Ok(created(number)),
            }
        })
    };
    for world in World::both(handler) {
        let error = world.try_send(charge("k")).await.unwrap_err();

        assert_eq!(error.to_string(), "the provider is gone");
        assert_settled(&world, Outcome::Unknown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_abandons_and_is_resumed_to_the_first_client() {
    let handler = || {
        Handler::new(|call: Call| async move {
            if call.number == 1 {
                resume_unwind(Box::new("the handler's own"));
            }
            Ok(created(call.number))
        })
    };
    for world in World::both(handler) {
        let panic = world.start(charge("k")).await.unwrap_err().into_panic();

        assert_eq!(panic.downcast_ref(), Some(&"the handler's own"));
        assert_settled(&world, Outcome::Unknown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_the_handler_is_a_future_abandons_too() {
    for world in World::both(Handler::counting) {
        let inner: Inner = service_fn(
            |_| -> std::future::Ready<Result<Response<Body>, BoxError>> {
                resume_unwind(Box::new("in call"))
            },
        )
        .boxed_clone();
        let mut service = world.layer.layer(inner);
        let first = tokio::spawn(async move {
            let response = service.ready().await.unwrap().call(charge("k")).await;
            drop(response);
        });

        assert!(first.await.unwrap_err().is_panic());

        let retry = world.send(charge("k")).await;
        assert_eq!(world.faults.answers(Method::Abandon), 1);
        if world.is_at_most_once() {
            retry.assert_refused(409, "outcome-unknown");
        } else {
            retry.assert_executed("charge 1");
            assert_eq!(world.handler.operation().execution(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_outcome_hook_abandons() {
    for world in World::both(Handler::counting) {
        let world = world.with(|layer| {
            layer.with_outcome(|head| match head.status.as_u16() {
                201 => resume_unwind(Box::new("the hook's own")),
                _ => None,
            })
        });

        assert!(world.start(charge("k")).await.unwrap_err().is_panic());

        assert_eq!(world.faults.answers(Method::Abandon), 1);
        world.assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_rejection_beneath_changes_nothing() {
    let handler = || {
        first(|response| {
            let problem = Problem::new(Code::CircuitOpen, "");
            let rejected = problem.into_response(&ProblemBase::default());
            *response = rejected.map(|_| body("charge 1"));
        })
    };
    for world in World::both(handler) {
        let answer = world.send(charge("k")).await;

        assert_eq!(answer.status, 503);
        answer.assert_executed("charge 1");
        assert_settled(&world, Outcome::Unknown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_follows_a_lost_one_is_the_next() {
    let handler = Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number < 4 {
            *response.status_mut() = status(500);
        }
        Ok(response)
    });
    let world = World::at_least_once(handler);

    for number in 1..=4 {
        let answer = world.send(charge("k")).await;
        answer.assert_executed(&format!("charge {number}"));
        assert_eq!(world.handler.operation().execution(), number);
    }
    world.send(charge("k")).await.assert_replayed("charge 4");
}

/// A service behind this one that keeps keys too says that the operation is under way there.
#[tokio::test(start_paused = true)]
async fn a_conflict_that_says_when_to_retry_is_no_answer_to_keep() {
    let handler = Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = StatusCode::CONFLICT;
            response
                .headers_mut()
                .insert("retry-after", http::HeaderValue::from_static("1"));
        }
        Ok(response)
    });
    let world = World::at_least_once(handler);

    let first = world.send(charge("k")).await;
    assert_eq!(first.status, 409);

    world.send(charge("k")).await.assert_executed("charge 2");
}
