//! What tower asks of a layer, and what a layer owes the limits beneath it.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use steadfast_http::body::CapturedBody;
use steadfast_idempotency::{IdempotencyLayer, scope};
use steadfast_testkit::faults::Method;
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};
use tower_test::mock;

use crate::support::{
    Answer, Body, BoxError, Handler, Inner, Latch, World, body, channel, charge, created, keyed,
    poll_once, soon,
};

type Reply = std::future::Ready<Result<Response<Body>, BoxError>>;

/// Panics when it is called without having been polled ready, and fails its readiness on demand.
struct Strict {
    ready: bool,
    failing: Arc<AtomicBool>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            failing: Arc::clone(&self.failing),
        }
    }
}

impl Strict {
    fn new() -> Self {
        Self {
            ready: false,
            failing: Arc::default(),
        }
    }
}

impl Service<Request<CapturedBody<Body>>> for Strict {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.failing.load(Ordering::Relaxed) {
            return Poll::Ready(Err("it will never be ready".into()));
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<CapturedBody<Body>>) -> Reply {
        assert!(self.ready, "called without having been polled ready");
        self.ready = false;
        std::future::ready(Ok(created(1)))
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_instance_that_was_polled_ready_is_called() {
    let world = World::at_most_once(Handler::counting());
    let mut service = world.layer.layer(Strict::new());
    let get = || Request::get("/charges").body(body("")).unwrap();

    for request in [charge("k"), get(), charge("another"), charge("k"), get()] {
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 201);
        // A clone starts over.
        let response = service.clone().oneshot(get()).await.unwrap();
        assert_eq!(response.status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_ready_again_after_a_wait() {
    // Gone when the waiter looks: the waiter begins again, with an instance that was given back meanwhile.
    let latch = Latch::new();
    let handler = {
        let latch = latch.clone();
        Handler::new(move |_| {
            let latch = latch.clone();
            async move {
                latch.pass().await;
                let mut response = created(1);
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                Ok(response)
            }
        })
    };
    let world = World::at_most_once(handler);
    let first = world.elsewhere().start(charge("k"));
    latch.reached().await;
    let strict = world.layer.layer(Strict::new());
    let second = tokio::spawn(strict.oneshot(charge("k")));
    world.called(Method::LookUp, 1).await;

    latch.open();

    assert_eq!(first.await.unwrap().status, 401);
    assert_eq!(second.await.unwrap().unwrap().status(), 201);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services() {
    let (inner, mut handle) = mock::pair::<Request<CapturedBody<Body>>, Response<Body>>();
    let world = World::at_most_once(Handler::counting());
    let mut service = world.layer.layer(inner);
    let ready = |service: &mut _| {
        let waker = std::task::Waker::noop();
        Service::<Request<Body>>::poll_ready(service, &mut Context::from_waker(waker))
    };

    handle.allow(0);
    assert!(ready(&mut service).is_pending());
    handle.allow(1);
    assert!(matches!(ready(&mut service), Poll::Ready(Ok(()))));

    handle.send_error("broken");
    let Poll::Ready(Err(error)) = ready(&mut service) else {
        panic!("the error did not come through");
    };
    assert!(error.to_string().contains("broken"));
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_once_the_operation_is_claimed_is_the_clients_and_releases_it() {
    let world = World::at_most_once(Handler::counting());
    let strict = Strict::new();
    let failing = Arc::clone(&strict.failing);
    let mut service = world.layer.layer(strict);
    let response = service.ready().await.unwrap().call(charge("k"));

    failing.store(true, Ordering::Relaxed);

    let error = response.await.unwrap_err();
    assert_eq!(error.to_string(), "it will never be ready");
    assert_eq!(world.handle.running(), 0);
    world.send(charge("k")).await.assert_executed("charge 1");
}

/// Whether the limit lets a call through.
async fn has_room(limit: &ConcurrencyLimit<Inner>) -> bool {
    let mut limit = limit.clone();
    let ready = pin!(limit.ready());
    poll_once(ready).await.is_ready()
}

#[tokio::test(start_paused = true)]
async fn one_permit_is_enough() {
    let world = World::at_least_once(Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        Ok(response)
    }));
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);
    let mut service = world.layer.layer(limit.clone());

    for (key, text) in [("a", "charge 1"), ("a", "charge 2"), ("a", "charge 2")] {
        let response = service.ready().await.unwrap().call(charge(key)).await;
        let answer = Answer::read(response.unwrap()).await;
        assert_eq!(answer.text(), text);
    }
    // Any number at once, of one key and of others.
    let many: Vec<_> = (0..20)
        .map(|number| {
            let key = format!("k-{}", number % 4);
            tokio::spawn(service.clone().oneshot(charge(&key)))
        })
        .collect();
    for response in many {
        assert_eq!(response.await.unwrap().unwrap().status(), 201);
    }
    assert_eq!(world.handler.started(), 6);
    drop(service);
    assert!(has_room(&limit).await);
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_a_body_arrives() {
    let world = World::at_most_once(Handler::counting());
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);
    let mut service = world.layer.layer(limit.clone());
    let (_sender, arriving) = channel();
    let arriving = keyed("k").body(arriving).unwrap();
    let mut response = pin!(service.ready().await.unwrap().call(arriving));

    assert!(poll_once(response.as_mut()).await.is_pending());

    assert!(has_room(&limit).await);
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_a_duplicate_waits_for_this_process() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let limit = ConcurrencyLimit::new(world.handler.service(), 2);
    let service = world.layer.layer(limit.clone());
    let first = tokio::spawn(service.clone().oneshot(charge("k")));
    latch.reached().await;
    assert!(has_room(&limit).await);

    let mut second = pin!(service.clone().oneshot(charge("k")));
    assert!(poll_once(second.as_mut()).await.is_pending());

    assert!(has_room(&limit).await);
    latch.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    assert_eq!(second.await.unwrap().status(), 201);
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_a_duplicate_waits_for_another_process() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.elsewhere().start(charge("k"));
    latch.reached().await;
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);

    let second = tokio::spawn(world.layer.layer(limit.clone()).oneshot(charge("k")));
    world.called(Method::LookUp, 1).await;

    assert!(has_room(&limit).await);
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
    assert_eq!(second.await.unwrap().unwrap().status(), 201);
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_while_an_answer_is_stored() {
    let world = World::at_most_once(Handler::counting());
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);
    let service = world.layer.layer(limit.clone());
    let gate = world.faults.on(Method::Complete).hold_before(1);

    let first = tokio::spawn(service.oneshot(charge("k")));
    soon(gate.reached()).await;

    assert!(has_room(&limit).await);
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
}

#[tokio::test(start_paused = true)]
async fn no_permit_is_held_once_a_request_was_refused() {
    let world = World::at_most_once(Handler::counting());
    let limit = ConcurrencyLimit::new(world.handler.service(), 1);
    let mut service = world.layer.layer(limit.clone());
    let malformed = charge("two words");

    let response = service.ready().await.unwrap().call(malformed).await;

    assert_eq!(response.unwrap().status(), 400);
    assert!(
        has_room(&limit).await,
        "an idle service keeps a permit that it does not use"
    );
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_its_state() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch)).with_config(
        steadfast_idempotency::IdempotencyConfig::default()
            .with_max_running(1)
            .with_max_waiting(1),
    );
    let cloned_layer = world.layer.clone();
    let one = world.layer.layer(world.handler.service());
    let another = cloned_layer.layer(world.handler.service());
    let first = tokio::spawn(one.clone().oneshot(charge("k")));
    latch.reached().await;

    let refused = another.clone().oneshot(charge("another")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(cloned_layer.handle().running(), 1);

    latch.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    for service in [another, one.clone(), one] {
        let replay = service.oneshot(charge("k")).await.unwrap();
        Answer::read(replay).await.assert_replayed("charge 1");
    }
}

#[tokio::test(start_paused = true)]
async fn two_layers_over_one_store_share_its_records() {
    let world = World::at_most_once(Handler::counting());
    world.send(charge("k")).await.assert_executed("charge 1");

    let layer = IdempotencyLayer::at_least_once(world.store.clone(), scope::shared()).unwrap();
    let response = layer.layer(world.handler.service()).oneshot(charge("k"));

    Answer::read(response.await.unwrap())
        .await
        .assert_replayed("charge 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_on_many_threads_start_one_handler() {
    for promise in [World::at_most_once, World::at_least_once] {
        let world = promise(Handler::new(|call| async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            Ok(created(call.number))
        }))
        .with_config(
            steadfast_idempotency::IdempotencyConfig::default().with_max_waiting_per_key(64),
        );
        let elsewhere = world.elsewhere();

        let clients: Vec<_> = (0..64)
            .flat_map(|_| [world.start(charge("k")), elsewhere.start(charge("k"))])
            .collect();

        let mut executed = 0;
        for client in clients {
            let answer = client.await.unwrap();
            assert_eq!(answer.text(), "charge 1");
            executed += u32::from(answer.header("idempotent-replayed") == Some("false"));
        }
        assert_eq!(executed, 1);
        assert_eq!(world.handler.started(), 1);
    }
}
