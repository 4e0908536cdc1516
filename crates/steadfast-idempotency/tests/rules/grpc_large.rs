//! idempotency I11 for gRPC: answers that are too large, or endless, to be kept.

use std::sync::Mutex;

use http::Response;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, Handler, World, channel,
    grpc::{CREATE, answered, create, message, trailers, trailers_only},
};

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([CREATE])
}

/// Answers this, once.
fn once(answer: Response<Body>) -> Handler {
    let answer = Mutex::new(Some(answer));
    Handler::answering(move || {
        let answer = answer.lock().unwrap().take();
        answer.expect("executed once")
    })
}

async fn assert_not_retained(world: &World) {
    for _ in 0..2 {
        let replay = world.send(create("k")).await;
        replay.assert_grpc_refused(9, "RESPONSE_NOT_RETAINED", Some("-1"));
    }
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_given_whole_and_not_kept() {
    let world = World::at_least_once(once(answered("123456789", trailers("14"))))
        .with_config(config().with_response_limit(8));

    let executed = world.send(create("k")).await;

    assert_eq!(executed.body, message("123456789"));
    assert_eq!(executed.trailers, Some(trailers("14")));
    assert_eq!(executed.header("idempotent-replayed"), Some("false"));
    assert_not_retained(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_end_in_time_is_passed_on_and_not_kept() {
    let (mut sender, arriving) = channel();
    sender.send_data(message("one").into()).await.unwrap();
    let answer = Response::builder()
        .header("content-type", "application/grpc")
        .body(arriving)
        .unwrap();
    let world = World::at_most_once(once(answer)).with_config(config());
    let mut service = world.service();
    let begun = Instant::now();

    let response = service
        .ready()
        .await
        .unwrap()
        .call(create("k"))
        .await
        .unwrap();

    assert!(begun.elapsed() >= IdempotencyConfig::DEFAULT_CAPTURE_TIMEOUT);
    assert_eq!(world.faults.answers(Method::Complete), 1);
    sender.send_trailers(trailers("0")).await.unwrap();
    drop(sender);
    let executed = Answer::read(response).await;
    assert_eq!(executed.body, message("one"));
    assert_eq!(executed.trailers, Some(trailers("0")));
    assert_not_retained(&world).await;
}

/// A failure in the head needs no trailers, and a body that nobody keeps is not read.
#[tokio::test(start_paused = true)]
async fn an_answer_whose_head_says_that_it_is_not_kept_is_not_buffered() {
    let (sender, arriving) = channel();
    let answer = trailers_only("14").map(|_| arriving);
    let world = World::at_most_once(once(answer)).with_config(config());
    let mut service = world.service();
    let begun = Instant::now();

    let response = service
        .ready()
        .await
        .unwrap()
        .call(create("k"))
        .await
        .unwrap();

    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
    assert_eq!(world.faults.answers(Method::Abandon), 1);
    drop((sender, response));
}
