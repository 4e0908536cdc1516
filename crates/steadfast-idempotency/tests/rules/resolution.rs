//! idempotency I13: an operator decides what became of a lost operation.

use bytes::Bytes;
use http::Response;
use steadfast_store::{Incident, Stage, Store, Transition};
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::time::sleep;

use crate::support::{Handler, Latch, World, charge, created};

const LEASE: std::time::Duration = steadfast_idempotency::IdempotencyConfig::DEFAULT_LEASE;

fn answer() -> Response<Bytes> {
    Response::builder()
        .status(201)
        .header("location", "/charges/1")
        .header("set-cookie", "session=1")
        .body(Bytes::from_static(b"decided"))
        .unwrap()
}

async fn lost() -> (World, Incident) {
    let world = World::at_most_once(Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        Ok(response)
    }));
    assert_eq!(world.send(charge("k")).await.status, 502);
    let incidents = world.handle.list_indeterminate(10).await.unwrap();
    assert_eq!(incidents.len(), 1);
    let incident = Incident::from(&incidents[0]);
    (world, incident)
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_took_effect_is_completed() {
    let (world, incident) = lost().await;

    let resolved = world.handle.resolve_completed(&incident, answer()).await;

    assert_eq!(resolved.unwrap(), Transition::Applied);
    let retry = world.send(charge("k")).await;
    retry.assert_replayed("decided");
    assert_eq!(retry.status, 201);
    assert_eq!(retry.header("location"), Some("/charges/1"));
    assert_eq!(retry.header("set-cookie"), None);
    assert_eq!(world.handler.started(), 1);
    let shown = world.handle.show(&incident.key).await.unwrap().unwrap();
    assert_eq!(shown.stage, Stage::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_operation_without_effect_is_released() {
    let (world, incident) = lost().await;

    let resolved = world.handle.resolve_released(&incident).await;

    assert_eq!(resolved.unwrap(), Transition::Applied);
    world.send(charge("k")).await.assert_executed("charge 2");
    assert_eq!(world.handler.operation().execution(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_decision_about_an_earlier_incident_changes_nothing() {
    let (world, incident) = lost().await;
    let applied = world.handle.resolve_released(&incident).await.unwrap();
    assert_eq!(applied, Transition::Applied);
    world.send(charge("k")).await.assert_executed("charge 2");

    for fenced in [
        world.handle.resolve_released(&incident).await,
        world.handle.resolve_completed(&incident, answer()).await,
    ] {
        assert_eq!(fenced.unwrap(), Transition::Fenced);
    }
    world.send(charge("k")).await.assert_replayed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn a_late_owner_is_fenced_and_its_client_gets_what_was_decided() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let _ = world.faults.on(Method::Renew).fail_unsent(FOREVER);
    let first = world.start(charge("k"));
    latch.reached().await;
    sleep(LEASE).await;
    let incident = Incident::from(&world.incident().await.expect("its lease is over"));

    let resolved = world.handle.resolve_completed(&incident, answer()).await;
    assert_eq!(resolved.unwrap(), Transition::Applied);
    latch.open();

    first.await.unwrap().assert_replayed("decided");
    world.send(charge("k")).await.assert_replayed("decided");
}

#[tokio::test(start_paused = true)]
async fn a_live_operation_cannot_be_resolved() {
    let latch = Latch::new();
    let world = World::at_most_once(Handler::held(&latch));
    let first = world.start(charge("k"));
    latch.reached().await;
    let key = *world.handler.operation().key();
    let shown = world.store.show(&key).await.unwrap().unwrap();
    assert_eq!(shown.stage, Stage::Running);

    let resolved = world.handle.resolve_released(&Incident::from(&shown)).await;

    assert_eq!(resolved.unwrap(), Transition::Fenced);
    latch.open();
    first.await.unwrap().assert_executed("charge 1");
}
