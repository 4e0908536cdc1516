//! idempotency I7: slots, draining, and what surrounds a running handler.

use std::time::Duration;

use http::Version;
use steadfast_idempotency::{IdempotencyConfig, Operation};
use steadfast_testkit::faults::Method;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use crate::support::{Handler, Latch, Spans, World, body, charge, created, eventually, keyed};

const SECOND: Duration = Duration::from_secs(1);

fn of_one_slot(handler: Handler) -> World {
    let config = IdempotencyConfig::default().with_max_running(1);
    World::at_most_once(handler).with_config(config)
}

#[tokio::test(start_paused = true)]
async fn one_operation_too_many_is_refused_and_claims_nothing() {
    let latch = Latch::new();
    let world = of_one_slot(Handler::held(&latch));
    let first = world.start(charge("one"));
    latch.reached().await;

    let refused = world.send(charge("two")).await;

    refused.assert_refused(503, "overloaded");
    refused.assert_retryable(true);
    refused.assert_retry_after("1");
    assert_eq!(world.faults.calls(Method::Begin), 1);
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    world.send(charge("two")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_client_left_keeps_its_slot() {
    let latch = Latch::new();
    let world = of_one_slot(Handler::held(&latch));
    let first = world.start(charge("one"));
    latch.reached().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    world
        .send(charge("two"))
        .await
        .assert_refused(503, "overloaded");

    latch.open();
    world.assert_idle().await;
    world.send(charge("two")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_stored_yet_keeps_its_slot() {
    let world = of_one_slot(Handler::counting());
    let gate = world.faults.on(Method::Complete).hold_before(1);
    world.send(charge("one")).await.assert_unstored("charge 1");

    world
        .send(charge("two"))
        .await
        .assert_refused(503, "overloaded");

    gate.open();
    world.assert_idle().await;
    world.send(charge("two")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn every_end_gives_the_slot_back() {
    let handler = Handler::new(|call| async move {
        let mut response = created(call.number);
        match call.parts.headers["idempotency-key"].to_str().unwrap() {
            "panics" => std::panic::resume_unwind(Box::new("the handler's own")),
            "fails" => return Err("the handler's own".into()),
            "abandons" => *response.status_mut() = http::StatusCode::BAD_GATEWAY,
            "releases" => *response.status_mut() = http::StatusCode::UNAUTHORIZED,
            "takes-too-long" => std::future::pending().await,
            _ => {}
        }
        Ok(response)
    });
    let world = of_one_slot(handler);
    for key in [
        "panics",
        "fails",
        "abandons",
        "releases",
        "takes-too-long",
        "stores",
        "stores",
    ] {
        let mut service = world.service();
        let ended = tokio::spawn(async move {
            let response = tower::Service::call(&mut service, charge(key)).await;
            response.map(|response| response.status())
        });
        if let Ok(Ok(status)) = ended.await {
            assert_ne!(status, 503, "{key} found no slot");
        }
        assert_eq!(world.handle.running(), 0, "{key} kept its slot");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_counts_once_whoever_polls_it() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    assert_eq!(world.handle.running(), 1, "with its client");

    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(world.handle.running(), 1, "without its client");
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_answer_is_still_being_stored_counts_once() {
    let world = World::at_most_once(Handler::counting());
    let _gate = world.faults.on(Method::Complete).hold_before(1);

    world.send(charge("k")).await.assert_unstored("charge 1");

    assert_eq!(world.handle.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_runs_without_its_client() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    world.handle.drain(Duration::ZERO).await.unwrap();
    let first = world.start(charge("k"));
    latch.reached().await;
    first.abort();

    let undrained = world.handle.drain(SECOND).await.unwrap_err();
    assert_eq!(undrained.running(), 1);

    let opening = tokio::spawn(async move {
        sleep(SECOND).await;
        latch.open();
    });
    let begun = Instant::now();
    world.handle.drain(SECOND * 10).await.unwrap();
    assert!(begun.elapsed() >= SECOND && begun.elapsed() < SECOND * 2);
    assert_eq!(world.handler.finished(), 1);
    opening.await.unwrap();

    world.send(charge("k")).await.assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_starts_meanwhile_and_for_what_is_stored() {
    let world = World::at_most_once(Handler::new(|call| async move {
        sleep(SECOND).await;
        Ok(created(call.number))
    }));
    let _ = world.faults.on(Method::Complete).delay(2, SECOND * 5);
    let _first = world.start(charge("one"));
    eventually("it runs", || world.handler.running() == 1).await;
    let draining = {
        let handle = world.handle.clone();
        tokio::spawn(async move { handle.drain(SECOND * 60).await })
    };
    sleep(SECOND / 2).await;

    let second = world.start(charge("two"));
    draining.await.unwrap().unwrap();

    assert_eq!(world.faults.answers(Method::Complete), 2);
    assert_eq!(second.await.unwrap().status, 201);
}

tokio::task_local! {
    static TENANT: &'static str;
}

#[tokio::test(start_paused = true)]
async fn the_handler_sees_the_task_locals_of_its_caller() {
    let world = World::at_most_once(Handler::new(|_| async move {
        Ok(http::Response::new(body(TENANT.get())))
    }));

    let answer = TENANT.scope("acme", world.send(charge("k"))).await;

    answer.assert_executed("acme");
}

#[tokio::test(start_paused = true)]
async fn the_head_of_the_request_and_its_extensions_reach_the_handler() {
    #[derive(Clone)]
    struct Account(&'static str);

    let world = World::at_most_once(Handler::new(|call| async move {
        let parts = call.parts;
        assert_eq!(parts.uri, "/charges");
        assert_eq!(parts.version, Version::HTTP_2);
        assert_eq!(parts.headers["idempotency-key"], "k");
        assert_eq!(parts.headers["x-own"], "7");
        let account = parts.extensions.get::<Account>().unwrap().0;
        Ok(http::Response::new(body(account)))
    }));
    let mut request = keyed("k")
        .version(Version::HTTP_2)
        .header("x-own", "7")
        .body(body("5"))
        .unwrap();
    request.extensions_mut().insert(Account("acme"));

    world.send(request).await.assert_executed("acme");
}

#[tokio::test(start_paused = true)]
async fn a_derived_key_is_the_same_on_every_execution_and_another_for_each_name_and_operation() {
    let world = World::at_least_once(Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        Ok(response)
    }));
    let derived = |operation: &Operation| (operation.derive("charge"), operation.derive("refund"));

    world.send(charge("k")).await;
    let first = world.handler.operation();
    world.send(charge("k")).await;
    let second = world.handler.operation();
    world.send(charge("another")).await;
    let other = world.handler.operation();

    assert_eq!((first.execution(), second.execution()), (1, 2));
    assert_eq!(derived(&first), derived(&second));
    assert_ne!(derived(&first).0, derived(&first).1);
    assert_ne!(derived(&first).0, derived(&other).0);
    assert!(
        derived(&first)
            .0
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
    );
}

/// Opens a span of its own after the latch, so that its parent tells where it runs.
fn spanning(latch: &Latch) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call| {
        let latch = latch.clone();
        async move {
            latch.pass().await;
            async {}.instrument(tracing::info_span!("handler")).await;
            Ok(created(call.number))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_current_span_is_the_parent_with_and_without_its_caller() {
    for leaves in [false, true] {
        let spans = Spans::start();
        let latch = Latch::new();
        let world = World::at_most_once(spanning(&latch));
        {
            let mut service = world.service();
            let outer = tracing::info_span!("outer");
            let response = outer.in_scope(|| tower::Service::call(&mut service, charge("k")));
            let mut response = std::pin::pin!(response.instrument(outer));
            tokio::select! {
                _ = &mut response => panic!("the latch is closed"),
                () = latch.reached() => {}
            }
            latch.open();
            if !leaves {
                response.await.unwrap();
            }
        }
        eventually("it is done", || world.handler.finished() == 1).await;
        world.assert_idle().await;

        assert_eq!(spans.named("idempotency").unwrap().parent, Some("outer"));
        assert_eq!(spans.named("handler").unwrap().parent, Some("idempotency"));
        assert_eq!(spans.outcomes(), [Some("executed".to_owned())]);
        eventually("the span is closed", || spans.of_layer()[0].closed).await;
    }
}
