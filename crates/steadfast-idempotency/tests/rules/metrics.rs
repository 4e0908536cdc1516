//! idempotency I21: the metrics `steadfast_idempotency_*`.

use std::{panic::resume_unwind, time::Duration};

use http::{Request, StatusCode};
use steadfast_idempotency::{IdempotencyConfig, IdempotencyLayer, Promise, scope};
use steadfast_testkit::faults::Method;

use crate::support::{
    Body, Crowd, Handler, Latch, Meter, Rival, World, body, broken, charge, created, eventually,
    keyed, request,
};

const SECOND: Duration = Duration::from_secs(1);

/// Ends its first call so, and answers 201 later.
fn ending(first: &'static str) -> Handler {
    Handler::new(move |call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            match first {
                "panics" => resume_unwind(Box::new("the handler's own")),
                "fails" => return Err("the handler's own".into()),
                "abandons" => *response.status_mut() = StatusCode::BAD_GATEWAY,
                "releases" => *response.status_mut() = StatusCode::UNAUTHORIZED,
                "breaks" => *response.body_mut() = broken("half"),
                "is endless" => *response.status_mut() = StatusCode::PARTIAL_CONTENT,
                other => panic!("no handler {other}"),
            }
        }
        Ok(response)
    })
}

/// Sends it, whether it is answered, fails or panics.
async fn run(world: &World, request: Request<Body>) {
    let _ = world.start(request).await;
}

#[track_caller]
fn assert_outcomes<const N: usize>(meter: &Meter, outcomes: [(&str, u32); N]) {
    let counted = meter.outcomes();
    let expected = outcomes.map(|(outcome, count)| (outcome.to_owned(), f64::from(count)));
    assert_eq!(counted, expected.into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_there_from_the_first_keyed_request_on() {
    let meter = Meter::start();
    World::at_most_once(Handler::counting())
        .with_config(IdempotencyConfig::default().with_namespace("payments"))
        .send(charge("k"))
        .await;

    let names = [
        "claim_seconds",
        "completion_seconds",
        "detached_tasks",
        "fenced_completions_total",
        "renewals_total",
        "requests_total",
        "running",
        "unstored_answers_total",
        "waiting",
    ];
    let names = names.map(|name| format!("steadfast_idempotency_{name}"));
    assert_eq!(meter.names(), names);
    assert_eq!(meter.namespaces(), ["payments"]);
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_is_installed_before_the_first_keyed_request_is_in_time() {
    let world = World::at_most_once(Handler::counting());
    let mut service = world.service();
    let get = Request::get("/charges").body(body("")).unwrap();
    tower::Service::call(&mut service, get).await.unwrap();

    let meter = Meter::start();
    tower::Service::call(&mut service, charge("k"))
        .await
        .unwrap();

    assert_outcomes(&meter, [("executed", 1)]);
    assert_eq!(meter.records("claim_seconds").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_covered_is_not_counted() {
    let meter = Meter::start();
    let world = World::at_most_once(Handler::counting());

    let get = Request::get("/charges").body(body("")).unwrap();
    assert_eq!(world.send(get).await.status, 201);

    assert_outcomes(&meter, []);
    assert!(meter.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_end_of_an_execution_is_counted_once() {
    for (first, outcome, next) in [
        ("panics", "panicked", "takeover"),
        ("fails", "failed", "takeover"),
        ("abandons", "abandoned", "takeover"),
        ("breaks", "abandoned", "takeover"),
        ("releases", "released", "executed"),
    ] {
        let meter = Meter::start();
        let world = World::at_least_once(ending(first));

        for _ in 0..3 {
            run(&world, charge("k")).await;
        }

        assert_outcomes(&meter, [(outcome, 1), (next, 1), ("replayed", 1)]);
        assert_eq!(meter.records("claim_seconds").len(), 3, "{first}");
        assert_eq!(meter.records("completion_seconds").len(), 1, "{first}");
        meter.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_counted_by_what_they_get() {
    let meter = Meter::start();
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_max_waiting_per_key(2);
    let world = World::at_most_once(Handler::held(&latch)).with_config(config);
    let first = world.start(charge("k"));
    latch.reached().await;
    let joined = Crowd::of(&world, 2, || charge("k")).await;
    assert!(meter.waiting() == 2.0);
    run(&world, charge("k")).await;
    latch.open();
    joined.answers().await;
    first.await.unwrap();

    assert_outcomes(&meter, [("executed", 1), ("in_progress", 1), ("joined", 2)]);
    assert_eq!(meter.records("claim_seconds").len(), 1);
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn each_refusal_before_the_claim_is_counted() {
    let meter = Meter::start();
    let world = World::build(Handler::counting(), Promise::AtMostOnce, |store| {
        IdempotencyLayer::at_most_once(store, scope::bearer_token()).unwrap()
    })
    .with_config(IdempotencyConfig::default().with_body_limit(8));
    let keyless = || request(http::Method::POST, "/charges").header("authorization", "Bearer a");
    let authorized = |key| keyless().header("idempotency-key", key);

    for refused in [
        keyless().body(body("5")),
        authorized("two words").body(body("5")),
        keyed("k").body(body("5")),
        authorized("k").body(body("123456789")),
        authorized("k").body(broken("5")),
    ] {
        run(&world, refused.unwrap()).await;
    }

    assert_outcomes(
        &meter,
        [
            ("missing_key", 1),
            ("malformed_key", 1),
            ("unauthorized", 1),
            ("body_refused", 2),
        ],
    );
    assert_eq!(meter.records("claim_seconds"), Vec::<f64>::new());
}

#[tokio::test(start_paused = true)]
async fn each_refusal_of_a_claim_is_counted() {
    let meter = Meter::start();
    let world = World::at_most_once(ending("abandons"));
    let _ = world.faults.on(Method::Begin).fail_unsent(1).refuse(1);

    for _ in 0..4 {
        run(&world, charge("k")).await;
    }
    run(&world, keyed("k").body(body("another")).unwrap()).await;
    let endless = World::at_most_once(ending("is endless"));
    for _ in 0..2 {
        run(&endless, charge("k")).await;
    }

    assert_outcomes(
        &meter,
        [
            ("store_unavailable", 1),
            ("overloaded", 1),
            ("abandoned", 1),
            ("outcome_unknown", 1),
            ("conflict", 1),
            ("executed", 1),
            ("not_retained", 1),
        ],
    );
    assert_eq!(meter.records("claim_seconds").len(), 7);
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_claim_and_of_a_completion_is_recorded() {
    let meter = Meter::start();
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Begin).delay(1, SECOND);
    let _ = world
        .faults
        .on(Method::Complete)
        .lose_request(1)
        .delay(1, SECOND);

    world.send(charge("k")).await.assert_executed("charge 1");

    let claim = meter.records("claim_seconds");
    assert!(
        matches!(claim[..], [seconds] if (1.0..1.01).contains(&seconds)),
        "{claim:?}"
    );
    // Both sendings, and the pause between them.
    let completion = meter.records("completion_seconds");
    assert!(
        matches!(completion[..], [seconds] if (1.02..1.05).contains(&seconds)),
        "{completion:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn renewals_are_counted_by_their_result() {
    let meter = Meter::start();
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch))
        .with_config(IdempotencyConfig::default().with_lease(SECOND * 3));
    let _ = world.faults.on(Method::Renew).pass(2).lose_request(3);
    let first = world.start(charge("k"));
    latch.reached().await;
    world.called(Method::Renew, 6).await;

    Rival::usurp(&world).await.complete().await;
    first.await.unwrap().assert_replayed("rival");

    let renewals = meter.counted("renewals_total");
    let expected = [("applied", 3.0), ("failed", 3.0), ("fenced", 1.0)];
    let expected = expected.map(|(result, count)| (result.to_owned(), count));
    assert_eq!(renewals, expected.into_iter().collect());
    meter.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_was_fenced_is_counted() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let meter = Meter::start();
    let first = world.start(charge("k"));
    latch.reached().await;
    let rival = Rival::usurp(&world).await;
    latch.open();
    eventually("it is fenced", || {
        meter.number("fenced_completions_total") == 1.0
    })
    .await;
    rival.complete().await;

    first.await.unwrap().assert_replayed("rival");

    assert!(meter.number("fenced_completions_total") == 1.0);
    assert!(meter.number("unstored_answers_total") == 0.0);
    assert!(meter.outcomes()["replayed"] == 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_stored_is_counted_and_its_completion_goes_on() {
    let meter = Meter::start();
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Complete).delay(1, SECOND * 5);

    world.send(charge("k")).await.assert_unstored("charge 1");

    assert_outcomes(&meter, [("unstored", 1)]);
    assert!(meter.number("unstored_answers_total") == 1.0);
    assert!(meter.number("running") == 1.0);
    assert!(meter.number("detached_tasks") == 1.0);
    assert_eq!(meter.records("completion_seconds"), Vec::<f64>::new());
    world.assert_idle().await;
    assert_eq!(meter.records("completion_seconds").len(), 1);
    assert_outcomes(&meter, [("unstored", 1)]);
    eventually("its task is gone", || meter.number("detached_tasks") == 0.0).await;
    meter.assert_idle();
}
