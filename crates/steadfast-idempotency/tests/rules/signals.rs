//! idempotency I21: the span of a keyed request says how it ended.

use std::time::Duration;

use http::Response;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::sleep;

use crate::support::{
    Crowd, Handler, Latch, Rival, Spans, World, body, broken, charge, created, eventually, keyed,
};

/// Ends its first call so, and answers 201 later.
fn ending(first: &'static str) -> Handler {
    Handler::new(move |call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            match first {
                "panics" => std::panic::resume_unwind(Box::new("the handler's own")),
                "fails" => return Err("the handler's own".into()),
                "abandons" => *response.status_mut() = http::StatusCode::BAD_GATEWAY,
                "releases" => *response.status_mut() = http::StatusCode::UNAUTHORIZED,
                "breaks" => *response.body_mut() = broken("half"),
                other => panic!("no handler {other}"),
            }
        }
        Ok(response)
    })
}

async fn run(world: &World) {
    // Whether it answers, fails or panics: the span tells.
    let mut service = world.service();
    let _ = tokio::spawn(async move {
        let _ = tower::Service::call(&mut service, charge("k")).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_end_of_an_execution_has_its_word() {
    for (first, outcome, next, execution) in [
        ("panics", "panicked", "takeover", "2"),
        ("fails", "failed", "takeover", "2"),
        ("abandons", "abandoned", "takeover", "2"),
        ("breaks", "abandoned", "takeover", "2"),
        ("releases", "released", "executed", "1"),
    ] {
        let spans = Spans::start();
        let world = World::at_least_once(ending(first));

        for _ in 0..3 {
            run(&world).await;
        }

        let outcomes: Vec<_> = spans.outcomes().into_iter().flatten().collect();
        assert_eq!(outcomes, [outcome, next, "replayed"], "{first}");
        let seen = spans.of_layer();
        let executions: Vec<_> = seen
            .iter()
            .map(|span| {
                let field = span.fields.get("idempotency.execution");
                field.map(String::as_str)
            })
            .collect();
        assert_eq!(executions, [Some("1"), Some(execution), None]);
        eventually("every span is closed", || {
            spans.of_layer().iter().all(|span| span.closed)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_span_shows_eight_digits_of_the_key() {
    let spans = Spans::start();
    let world = World::at_most_once(Handler::counting());

    world.send(charge("k")).await;

    let shown = &spans.of_layer()[0].fields["idempotency.key"];
    let key = world.handler.operation().key().prefix();
    assert_eq!(shown, &key.to_string());
    assert_eq!(shown.len(), 8);
}

async fn last_outcome(spans: &Spans) -> String {
    spans.outcomes().pop().flatten().expect("an outcome")
}

#[tokio::test(start_paused = true)]
async fn each_refusal_has_its_word() {
    let latch = Latch::new();
    let spans = Spans::start();
    let config = IdempotencyConfig::default()
        .with_max_running(1)
        .with_body_limit(8)
        .with_wait(Duration::ZERO);
    let held = World::at_most_once(Handler::held(&latch)).with_config(config.clone());
    let small = |key| keyed(key).body(body("5")).unwrap();

    let _ = held.faults.on(Method::Begin).fail_unsent(1);
    held.send(small("k")).await;
    assert_eq!(last_outcome(&spans).await, "store_unavailable");

    let _ = held.faults.on(Method::Begin).refuse(1);
    held.send(small("k")).await;
    assert_eq!(last_outcome(&spans).await, "overloaded");

    held.send(keyed("k").body(body("123456789")).unwrap()).await;
    assert_eq!(last_outcome(&spans).await, "body_refused");

    let first = held.start(small("k"));
    latch.reached().await;
    held.send(small("another")).await;
    assert_eq!(last_outcome(&spans).await, "overloaded");
    latch.open();
    first.await.unwrap();

    held.send(keyed("k").body(body("6")).unwrap()).await;
    assert_eq!(last_outcome(&spans).await, "conflict");

    let latch = Latch::new();
    let busy = World::at_most_once(Handler::held(&latch)).with_config(config.with_max_running(2));
    let _first = busy.start(small("k"));
    latch.reached().await;
    busy.send(small("k")).await;
    assert_eq!(last_outcome(&spans).await, "in_progress");
    latch.open();

    let lost = World::at_most_once(ending("abandons"));
    lost.send(charge("k")).await;
    lost.send(charge("k")).await;
    assert_eq!(last_outcome(&spans).await, "outcome_unknown");

    let large = World::at_most_once(Handler::answering(|| {
        Response::builder().status(206).body(body("part")).unwrap()
    }));
    large.send(charge("k")).await;
    assert_eq!(last_outcome(&spans).await, "executed");
    large.send(charge("k")).await;
    assert_eq!(last_outcome(&spans).await, "not_retained");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_stored_has_its_word() {
    let spans = Spans::start();
    let world = World::at_most_once(Handler::counting());
    let _ = world.faults.on(Method::Complete).lose_request(FOREVER);

    world.send(charge("k")).await.assert_unstored("charge 1");

    assert_eq!(last_outcome(&spans).await, "unstored");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_says_why() {
    let spans = Spans::start();
    let config = IdempotencyConfig::default()
        .with_lease(Duration::from_secs(1))
        .with_max_execution(Duration::from_secs(3));
    let slow = World::at_least_once(Handler::held(&Latch::new())).with_config(config.clone());
    slow.send(charge("k")).await;
    assert_eq!(last_outcome(&spans).await, "outcome_unknown");

    let cut = World::at_least_once(Handler::held(&Latch::new())).with_config(config);
    let _ = cut.faults.on(Method::Renew).fail_unsent(FOREVER);
    cut.send(charge("k")).await;
    assert_eq!(last_outcome(&spans).await, "store_unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gets_another_owners_answer_is_told_as_replayed() {
    let spans = Spans::start();
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    Rival::usurp(&world).await.complete().await;
    latch.open();

    first.await.unwrap().assert_replayed("rival");

    // The rival's own template ran through a layer of its own, in a span behind the first.
    let outcomes = spans.outcomes();
    assert_eq!(outcomes[0].as_deref(), Some("replayed"));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_joined_has_its_word() {
    let spans = Spans::start();
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let joined = Crowd::of(&world, 2, || charge("k")).await;
    latch.open();
    first.await.unwrap();
    joined.answers().await;

    let outcomes: Vec<_> = spans.outcomes().into_iter().flatten().collect();
    assert_eq!(outcomes, ["executed", "joined", "joined"]);
    let executions = spans.of_layer();
    let executions = executions
        .iter()
        .filter(|span| span.fields.contains_key("idempotency.execution"));
    assert_eq!(executions.count(), 1, "who joined executes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_has_no_span() {
    let spans = Spans::start();
    let world = World::at_most_once(Handler::counting());

    let get = http::Request::get("/charges").body(body("")).unwrap();
    assert_eq!(world.send(get).await.status, 201);
    sleep(Duration::from_secs(1)).await;

    assert!(spans.of_layer().is_empty());
}
